"""Every lesson: written as the rules say, and executed from top to bottom at scale `smoke`."""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import workbench
from workbench.papers import find_pages

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
lessons = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_lessons():
    assert PATHS, f"no notebook in {FOLDER}"


@lessons
def test_stored_without_outputs_and_with_stable_ids(path):
    notebook = read(path)
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", i)], "give cells names, not random ids"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{cell['id']} holds outputs"


@lessons
def test_first_code_cell_installs_this_version_and_one_cell_holds_literal_parameters(path):
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert f"workbench=={workbench.__version__}" in code[0].source
    assert "find_spec" in code[0].source  # skipped when present
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    values = {}
    for node in ast.parse(parameters[0].source).body:
        assert isinstance(node, ast.Assign)
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert {"SCALE", "SEED"} <= set(values)
    assert values["SCALE"] in ("smoke", "small")


@lessons
def test_code_cells_are_short_and_define_no_block(path):
    for cell in read(path).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 15, f"{cell['id']} has {len(lines)} lines"
            assert not re.search(r"^class ", cell.source, re.MULTILINE), f"{cell['id']} defines a class"


@lessons
def test_knobs_show_what_they_draw(path):
    for cell in read(path).cells:
        assert "widgets.interact" not in cell.source, f"{cell['id']}: lessons.knob shows what the function returns"


@lessons
def test_says_question_goal_minutes_and_where_it_breaks(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for words in ("question", "able to say", "inutes"):
        assert words in text.split("\n## ")[0], f"the top of the lesson does not say: {words}"
    assert re.search(r"^## .*breaks", text, re.MULTILINE)


@pytest.mark.parametrize("card", find_pages(), ids=lambda card: card["slug"])
def test_every_paper_is_taught_in_its_lesson_under_a_heading_with_its_slug(card):
    path = FOLDER / f"{card['lesson']}.ipynb"
    assert path.is_file(), f"lesson {card['lesson']} does not exist"
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert re.search(rf"^#+ .*(?<![\w-]){re.escape(card['slug'])}(?![\w-])", text, re.MULTILINE)


def knobs(notebook):
    """(Whether a knob waits for its button, what stands below it) for each knob of an executed notebook."""
    state = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for model in state.values():
        if "widget-interact" in model["state"].get("_dom_classes", []):
            parts = [state[name.removeprefix("IPY_MODEL_")] for name in model["state"]["children"]]
            yield any(part["model_name"] == "ButtonModel" for part in parts), parts[-1]["state"]["outputs"]


def redraw_cell(calls):
    """A cell that draws a knob's figure at several settings and checks each."""
    lines = ["from workbench.figures import style as _style"]
    lines += [f"_style.check({call})" for call in calls]
    return nbformat.v4.new_code_cell("\n".join(lines), id="redraw-check")


@lessons
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    notebook = read(path)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "parameters" in cell.metadata.get("tags", []):
            cells.append(nbformat.v4.new_code_cell('SCALE = "smoke"', id="injected-parameters"))
        if cell.metadata.get("redraw"):
            cells.append(redraw_cell(cell.metadata["redraw"]))
            cells[-1]["id"] = f"redraw-{cell['id']}"
    notebook.cells = cells
    for name, value in {"WORKBENCH_RUNS": tmp_path / "runs", "HF_HUB_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = list(knobs(notebook))
    assert len(shown) == sum(cell.source.count("lessons.knob(") for cell in notebook.cells)
    assert all(waits or any("data" in output for output in outputs) for waits, outputs in shown)
    text = json.dumps(notebook)
    assert "Traceback (most recent call last)" not in text
    warned = [
        line for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs
        if out.get("name") == "stderr" for line in out["text"].splitlines() if "Warning" in line
    ]  # fmt: skip
    assert not warned, warned
