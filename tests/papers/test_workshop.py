"""The workshop kit: each timetable walked with the clock, its lessons and recordings, and the check of a machine."""

import json
import re
import socket

import nbformat
import plotly.graph_objects as go
import pytest

from workbench import lesson_run, workshop
from workbench.errors import JobError, UserError
from workbench.figures import style
from workbench.paths import assets

PLANS = workshop.plans()
each = pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))


def test_there_are_three_half_days():
    assert set(PLANS) == {"peft", "compression", "scaling"}


@each
def test_the_clock_adds_up_to_a_half_day(plan):
    assert workshop.problems(plan) == []
    assert sum(block.minutes for block in plan.blocks) == workshop.HALF_DAY
    assert any("Break" in block.what for block in plan.blocks)


@each
def test_its_lessons_exist_and_start_with_what_it_says(plan):
    assert len(plan.lessons) >= 2
    for lesson in plan.lessons:
        assert lesson_run.find(lesson).stem == lesson


@each
def test_its_recordings_load_and_are_in_the_order_of_time(plan):
    assert plan.recordings
    for key in plan.recordings:
        found = json.loads((assets() / "recordings" / f"{key}.json").read_text(encoding="utf-8"))
        times = [row["at"] for row in found["rows"]]
        assert times == sorted(times) and len(times) > 20
        assert {"name", "config", "seconds", "made"} <= set(found)


@each
def test_the_computing_times_are_the_measured_ones(plan):
    for block in plan.blocks:
        assert block.computing == (workshop.computing(block.lesson) if block.lesson else ""), (
            "the page tells other times than assets/lessons.json; run: python -m workbench.workshop"
        )


@each
def test_it_says_what_to_say_to_ask_and_what_goes_wrong(plan):
    text = plan.path.read_text(encoding="utf-8")
    for heading in ("## The day before", "## What to say", "## What to ask", "## What goes wrong"):
        assert heading in text
    assert f"workbench doctor --workshop {plan.name}" in text


def page(tmp_path, rows):
    head = "# T\n\n| Clock | Minutes | What | Lesson | Computing |\n|---|---|---|---|---|\n"
    path = tmp_path / "peft.md"
    path.write_text(head + "\n".join(rows) + "\n\nafter\n")
    return path


def test_a_gap_in_the_clock_is_named(tmp_path):
    plan = workshop.read(page(tmp_path, ["| 0:00 | 10 | Hello | | |", "| 0:15 | 195 | Rest | `00_start_here` | 5 s |"]))
    assert plan.blocks[1].lesson == "00_start_here" and plan.blocks[1].computing == "5 s"
    assert workshop.problems(plan) == ["peft: 'Rest' starts at 15 minutes, the rows before it end at 10."]


def test_a_day_that_is_too_short_is_named(tmp_path):
    plan = workshop.read(page(tmp_path, ["| 0:00 | 10 | Hello | | |"]))
    assert workshop.problems(plan) == ["peft takes 10 minutes; a half-day has 210."]


@pytest.mark.parametrize("row", ["| later | 10 | Hello | | |", "| 0:00 | ten | Hello | | |", "| 0:00 | 10 | Hello |"])
def test_a_row_that_cannot_be_read_is_shown(row, tmp_path):
    with pytest.raises(UserError, match="the row"):
        workshop.read(page(tmp_path, [row]))


def test_a_page_without_a_timetable_says_how_one_begins(tmp_path):
    (tmp_path / "x.md").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"Clock \| Minutes"):
        workshop.read(tmp_path / "x.md")


def test_unknown_plan_and_unknown_lesson_name_those_that_exist():
    with pytest.raises(UserError, match="scaling"):
        workshop.find("scalling")
    with pytest.raises(UserError, match="00_start_here"):
        lesson_run.find("99")
    assert lesson_run.find("1").stem == lesson_run.find("01").stem


def test_a_taken_port_comes_with_the_command_that_avoids_it():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        taken = workshop._port("lab", port)
    assert not taken["ok"] and taken["fix"] == f"workbench lab --port {port + 1}"
    assert workshop._port("lab", port)["ok"]


def test_the_check_reports_a_lesson_that_stops_and_goes_on(monkeypatch):
    def execute(path, scale, directory):
        if path.stem.startswith("00"):
            raise JobError("Lesson 00_start_here stopped: ValueError: no. Look at it with: workbench lab")
        return None, lesson_run.Taken(3.0, 2.0)

    monkeypatch.setattr(lesson_run, "execute", execute)
    said = []
    report = {row["name"]: row for row in workshop.checks({"peft": PLANS["peft"]}, said.append)}
    assert not report["lesson 00"]["ok"] and "workbench lab" in report["lesson 00"]["fix"]
    assert report["lesson 01"]["ok"] and report["recording tiny-lm-lora"]["ok"] and report["plan peft"]["ok"]
    assert said[0] == "running lesson 00_start_here …"


def test_a_missing_recording_names_the_command_that_makes_it():
    row = workshop._recording("no-such")
    assert not row["ok"] and row["fix"] == "python -m apps.recordings assets/recordings/no-such.json"


def write(tmp_path, *sources, **metadata):
    cells = [nbformat.v4.new_markdown_cell("# 00 · A lesson", id="title")]
    cells.append(nbformat.v4.new_code_cell('SCALE = "small"', id="parameters", metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(text, id=f"work-{i}", metadata=metadata) for i, text in enumerate(sources)]
    path = tmp_path / "00_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_lesson_is_run_at_the_scale_asked_for_with_its_knob_drawn_and_the_failing_cell_named(tmp_path):
    knob = "print('scale', SCALE)  # in the place of lessons.knob(draw)"
    path = write(tmp_path, knob, "print('a figure, no knob')", redraw=["print('drawn')"])
    before = path.read_text()
    executed, taken = lesson_run.execute(path, "smoke", tmp_path, drawn=True)
    printed = [cell.outputs[0]["text"].strip() for cell in executed.cells if cell.get("outputs")]
    assert printed == ["scale smoke", "drawn", "a figure, no knob"]
    assert taken.seconds > 0 < taken.processor
    assert path.read_text() == before


def test_a_cell_that_fails_is_one_sentence(tmp_path, monkeypatch):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    def execute(self):
        raise CellExecutionError(
            "traceback\nZeroDivisionError: division by zero", "ZeroDivisionError", "division by zero"
        )

    monkeypatch.setattr(NotebookClient, "execute", execute)
    with pytest.raises(JobError, match="Lesson 00_lesson stopped: ZeroDivisionError"):
        lesson_run.execute(write(tmp_path, "1 / 0"), "smoke", tmp_path)


def test_a_kernel_that_dies_is_one_sentence_too(tmp_path):
    with pytest.raises(JobError, match="Lesson 00_lesson stopped: Kernel died"):
        lesson_run.execute(write(tmp_path, "import os", "os._exit(3)", "1"), "smoke", tmp_path)


def test_a_page_shows_its_figure_and_asks_a_server_for_formulas_only():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[2, 2]), layout={"meta": {"alt": "A line rises."}})
    output = nbformat.v4.new_output("display_data", {lesson_run.PLOTLY: json.loads(figure.to_json())})
    text_out = nbformat.v4.new_output("stream", text="scale smoke")
    cell = nbformat.v4.new_code_cell("draw()", id="work", outputs=[output, text_out])
    text = lesson_run.page(nbformat.v4.new_notebook(cells=[cell]), "00_lesson")
    assert "scale smoke" in text and "Plotly.newPlot" in text and 'aria-label="A line rises."' in text
    asked = re.findall(r'<script[^>]* src="([^"]*)"', text)
    assert asked.count("plotly.min.js") == 1
    assert all("mathjax" in source or source == "plotly.min.js" for source in asked)
    assert "import(" not in text and 'type="module"' not in text


def test_title_and_caption_of_a_figure_are_text_that_wraps():
    figure = style.finish(
        go.Figure(go.Scatter(x=[1, 2], y=[2, 2])), title="Rain & sun", alt="A line.", caption="n = 3."
    )
    text = lesson_run.picture(figure, "lesson")
    assert "<h5>Rain &amp; sun</h5>" in text and "<figcaption>n = 3.</figcaption>" in text
    assert 'aria-label="A line."' in text and text.count("n = 3.") == 2  # the text, and the figure's record of it
    plain = lesson_run.picture(go.Figure(), "lesson")
    assert "<h5>" not in plain and 'aria-label="lesson"' in plain


def test_a_scale_that_is_the_notebooks_own_is_not_put_in_again(tmp_path):
    executed, _ = lesson_run.execute(write(tmp_path, "print('scale', SCALE)"), "small", tmp_path)
    assert "scale-of-this-run" not in [cell["id"] for cell in executed.cells]
    assert executed.cells[-1].outputs[0]["text"].strip() == "scale small"


@each
def test_a_plan_is_a_page_too(plan):
    text = lesson_run.text_page(plan.path.read_text(encoding="utf-8"), plan.name)
    assert "<table" in text and "What goes wrong" in text


def test_times_are_kept_beside_those_of_other_lessons(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson_run, "assets", lambda: tmp_path)
    lesson_run.keep_time("01_b", lesson_run.Taken(5.0, 2.04), "small")
    lesson_run.keep_time("00_a", lesson_run.Taken(70.0, 61.0), "small")
    rows = lesson_run.times()
    assert list(rows) == ["00_a", "01_b"] and rows["01_b"]["processor"] == 2.0
    assert {"machine", "torch", "date", "threads", "scale"} <= set(rows["00_a"])
    assert workshop.computing("00_a") == "1 min 01 s" and workshop.computing("03_c") == "not measured"


def test_the_doctor_checks_a_plan_and_refuses_one_that_does_not_exist(monkeypatch):
    from click.testing import CliRunner

    from workbench import doctor
    from workbench.commands import info

    asked = []
    monkeypatch.setattr(doctor, "checks", lambda: [doctor.check("python", True, "3")])
    monkeypatch.setattr(
        workshop,
        "checks",
        lambda plans, say: asked.append(list(plans)) or [doctor.check("port 8888", False, "taken", "fix it")],
    )

    def say(*words):
        return CliRunner().invoke(info.doctor, words, catch_exceptions=False, standalone_mode=False)

    found = say("--workshop", "peft")
    assert asked == [["peft"]] and "✗ port 8888" in found.output and "fix: fix it" in found.output
    assert found.return_value == 1
    say("--workshop")
    assert asked[1] == sorted(PLANS)
    assert say().return_value == 0 and len(asked) == 2
    with pytest.raises(UserError, match=r"no workshop called .pfet.; did you mean peft"):
        say("--workshop", "pfet")
