"""Every page in a real browser: no console error, nothing asked outside, no sideways scrolling on a phone; and the pieces."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import drawing, fields, frame, html  # noqa: E402

PAGES = Path(frame.__file__).parent / "pages"
PATHS = [path.stem.replace("home", "") for path in sorted(PAGES.glob("[!_]*.py"))] + ["papers?paper=mup"]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_opens_and_asks_nobody(page, server, path):
    page.goto(f"{server.url}/{path}")
    page.wait_for_selector(".wb-head h1")
    page.wait_for_selector(".wb-hardware")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []


def test_light_and_dark_are_remembered(page, server):
    page.goto(f"{server.url}/?theme=light")
    page.locator(".wb-theme").click()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 22, 26)"
    page.goto(f"{server.url}/runs")
    page.wait_for_selector(".wb-head h1")
    assert page.evaluate(ground) == "rgb(20, 22, 26)"


def test_a_bad_value_is_named_at_its_field_and_nothing_starts(page, server):
    page.goto(f"{server.url}/finetune")
    page.wait_for_selector(".wb-form [name=r]")
    page.locator(".wb-form [name=steps]").fill("many")
    page.get_by_role("button", name="Start fine-tuning").click()
    page.locator(".wb-wrong [role=alert]").wait_for()
    assert "whole number" in page.locator(".wb-wrong [role=alert]").inner_text()
    assert "run=" not in page.url


def test_a_bad_upload_says_what_is_wrong_by_row(page, server, tmp_path):
    table = tmp_path / "mixed.csv"
    table.write_text("text,label\n" + "".join(f"text {i},{'a' if i % 2 else 'b'}\n" for i in range(12)) + "no label,\n")
    page.goto(f"{server.url}/finetune")
    page.wait_for_selector(".wb-form [name=r]")
    page.locator("input[type=file]").first.set_input_files(str(table))
    page.locator("[aria-label='Rows left out']").wait_for()
    assert "row 14" in page.locator("[aria-label='Rows left out']").inner_text()


def test_a_figure_is_taken_home_as_cell_data_and_page(page, server):
    page.goto(f"{server.url}/edit?theme=dark")
    page.wait_for_selector("[data-drawn]")
    corner = page.evaluate("document.querySelector('.wb-plot').data[0].z.at(-1).at(-1)")
    assert corner == [251, 250, 247, 0]  # the ground between pictures lets the dark page through
    figure = page.locator(".wb-fig").first
    figure.locator("summary").click()
    assert "figures.strip" in figure.locator("code").inner_text()
    for button, ending in ((".wb-csv", ".csv"), (".wb-html", ".html")):
        with page.expect_download() as taken:
            figure.locator(button).click()
        assert taken.value.suggested_filename.endswith(ending) and Path(taken.value.path()).stat().st_size > 100
    assert page.problems == []


def test_empty_figures_offer_nothing_to_take(page, server):
    page.goto(f"{server.url}/scaling")
    page.wait_for_selector("[data-drawn]")
    page.get_by_text("Runs and the fitted law appear here").wait_for()
    assert page.locator(".wb-fig details:visible").count() == 0


def test_api_submits_and_follows_a_run(server):
    import time

    from gradio_client import Client

    client = Client(server.url, verbose=False)
    settings = {"model": "tiny-lm", "data": "moby-dick", "steps": 4, "batch_size": 2, "window": 32, "eval_rows": 2,
                "precision": "fp32"}  # fmt: skip
    made = client.predict("finetune", settings, "by the api", api_name="/submit")
    rows, offset, deadline = [], 0, time.monotonic() + 90
    while client.predict(made["run"], api_name="/status")["status"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    got = client.predict(made["run"], offset, api_name="/metrics")
    rows, offset = got["rows"], got["offset"]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert client.predict(made["run"], offset, api_name="/metrics")["rows"] == []
    assert client.predict(made["run"], api_name="/result")["model"] == f"run:{made['run']}"
    assert any(run["run"] == made["run"] for run in client.predict(api_name="/runs"))
    with pytest.raises(Exception, match="is not a data set the app knows"):
        client.predict("finetune", {**settings, "data": "/etc/passwd"}, "", api_name="/submit")


def test_pages_import_no_other_page():
    for path in PAGES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 2 and not (node.module or "").startswith("pages"), f"{path.name} imports a page"


def test_a_new_file_is_a_new_page(monkeypatch):
    import sys
    import types

    module = types.ModuleType("workbench.apps.pages.zzz")
    module.PAGE = frame.Page("Zzz", "zzz", "Nothing.", "Workshop", 0)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    listed = [types.SimpleNamespace(name=name) for name in ("home", "runs", "zzz")]
    monkeypatch.setattr(frame.pkgutil, "iter_modules", lambda path: listed)
    pages = [found.PAGE for found in frame.discover()]
    assert [page.title for page in pages] == ["Workbench", "Runs", "Zzz"]
    assert 'href="zzz"' in frame.navigation(pages, pages[0])


def test_fields_come_from_the_signature():
    from workbench.training.config import FinetuneConfig

    made = fields.from_dataclass(FinetuneConfig, skip=("model", "data"), first=("steps",))
    by = {field.name: field for field in made}
    assert made[0].name == "steps" and not by["steps"].more and by["seed"].more
    assert by["learning_rate"].kind == "float" and by["learning_rate"].optional
    assert by["schedule"].kind == "choice" and by["gradient_checkpointing"].kind == "bool"
    assert all(field.help for field in made)
    values = fields.read(made, fields.payload(made))
    assert FinetuneConfig(model="tiny-lm", data="moby-dick", **values).problems() == []


def test_wrong_values_are_named_by_field():
    made = [fields.Field("rank", "int", 8), fields.Field("rate", "float", 0.1), fields.Field("on", "bool", True)]
    with pytest.raises(fields.FieldErrors) as refused:
        fields.read(made, fields.payload(made, {"rank": "eight", "rate": "x"}))
    assert set(refused.value.errors) == {"rank", "rate"}
    with pytest.raises(UserError):
        fields.read(made, "not json")


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("0.1", 0.1), ("None", None), ("q_proj, v_proj", ["q_proj", "v_proj"]),
                                             ("all-linear", "all-linear"), ("{'a': 1}", {"a": 1})])  # fmt: skip
def test_a_literal_is_read_as_what_it_looks_like(text, value):
    assert fields.literal(text) == value


def test_cells_redraw_their_figures(tmp_path, monkeypatch):
    import json

    from workbench.apps.pages import papers, scaling
    from workbench.papers.badge import read

    if read("mup") is None:
        pytest.skip("no badge of mup in this copy")
    source = scaling.CELL.format(
        source='assets() / "scaling" / "chinchilla.csv"', law="chinchilla", columns=None, objective="huber", samples=10,
        draw=scaling.DRAWS["law"],
    )  # fmt: skip
    for cell in (papers.CELL.format(slug="mup"), source):
        tree = ast.parse(cell)
        last = ast.Expression(tree.body.pop().value)
        scope: dict = {}
        exec(compile(tree, "cell", "exec"), scope)  # the cell the app shows, run as a notebook would
        figure = eval(compile(last, "cell", "eval"), scope)
        assert json.loads(drawing.payload(figure, name="x"))["data"]


def test_a_fit_fills_the_page_and_plans():
    import json

    from workbench.apps.pages import scaling

    form = fields.payload(scaling.shown_form(), {"samples": 60})
    key, verdict, curve, rest, lines, _, report, planner, _, said = scaling.run("chinchilla", "chinchilla", "[]", form)
    assert said == "" and "chinchilla" in verdict and "alpha" in report and planner["visible"]
    for drawn in (curve, rest, lines):
        assert json.loads(drawn)["data"]
    found = scaling.show_plan(key, 21, 12)
    assert all(words in found for words in ("Peak learning rate", "Training and serving", "95 % interval"))
    refused = scaling.run("chinchilla", "chinchila", "[]", form)
    assert refused[0] == "" and "did you mean chinchilla" in refused[-1]


def test_a_table_marks_ties_with_a_sign():
    made = html.table(("Model", "Loss"), [("a", 1.0), ("b", 2.0)], label="t", tied={(0, 1)})
    assert made.count("wb-tied") == 1 and 'scope="row"' in made


def test_the_first_page_waits_for_no_torch():
    import subprocess
    import sys

    look = (
        "import sys; from workbench.commands.rooms import apps_main; apps_main().build(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
