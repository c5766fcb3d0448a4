"""The grid on the page Compare: its form becomes settings, its plan is shown, a record becomes table, figures and report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import choices, fields, grids, live  # noqa: E402
from workbench.apps.pages import compare  # noqa: E402
from workbench.grid import record as records  # noqa: E402
from workbench.grid.settings import DEFAULTS  # noqa: E402
from workbench.runs import Store  # noqa: E402
from workbench.runs.files import write_json  # noqa: E402

LISTS = (["tiny-lm"], ["moby-dick"], ["lora", "ia3"], ["none"])
FORM = fields.payload(grids.FORM)


def cells(name, level, size, rng):
    """Three judged seeds of one row on twelve documents."""
    common = {
        "name": name,
        "model": "tiny-lm",
        "stage": "final",
        "learning_rate": 1e-3,
        "arguments": {},
        "seconds": 2.0,
    }
    return [
        {**common, "seed": seed, "tokens": [100] * 12, "nll": list(100 * (level + rng.normal(0, 0.01, 12))), "trainable": size,
         "file_bytes": 4.0 * size, "step_seconds": 0.01}
        for seed in (1, 2, 3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A finished grid of two methods: the record is made by the grid's own judging from numbers given here."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("grid")
    rows = {"base": (5.0, 0), "lora": (4.5, 900), "ia3": (4.8, 300)}
    plan = [
        {"name": name, "base": "none", "method": name, "arguments": {}, "size": size, "within": name != "ia3", "budget": 900.0,
         "trials": [], "steps": 2 if size else 0}
        for name, (_, size) in rows.items()
    ]  # fmt: skip
    judged = [cell for name, (level, size) in rows.items() for cell in cells(name, level, size, rng)]
    judged = [cell for cell in judged if cell["trainable"] or cell["seed"] == 1]
    block = {"model": "tiny-lm", "task": "moby-dick", "kind": "text", "labels": [], "plan": plan, "cells": judged}
    made = {"settings": {**DEFAULTS, "budget": "params=900", "methods": ["lora", "ia3"]}, "blocks": [block],
            "left_out": ["prompt on tiny-lm: too short"]}  # fmt: skip
    made |= records.rows_of(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder / "runs"))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
        live.forget()
        run = Store().submit("grid", {"models": ["tiny-lm"], "methods": ["lora", "ia3"]}, start=False)
        (run.directory / "cells").mkdir()
        for i, cell in enumerate(judged):
            write_json(run.directory / "cells" / f"{i:024x}.json", cell)
        write_json(run.directory / "grid.json", made)
        (run.directory / "report.html").write_text("<!doctype html><title>grid</title>")
        yield run
    live.forget()


def finish(run):
    write_json(run.directory / "status.json", {**run.stored(), "status": "done", "held": False})
    live.forget()


def test_the_form_becomes_settings_with_one_budget():
    made = compare.grid_settings(*LISTS, FORM)
    assert made["budget"] == "params=0.3%" and made["seeds"] == 3 and made["outside"] is True
    assert set(made) <= set(DEFAULTS) and made["window"] == DEFAULTS["window"]
    timed = compare.grid_settings(*LISTS, fields.payload(grids.FORM, {"budget": "seconds", "amount": "60"}))
    assert timed["budget"] == "seconds=60"
    free = compare.grid_settings(*LISTS, fields.payload(grids.FORM, {"budget": "none", "amount": ""}))
    assert free["budget"] == "none"
    assert grids.check(made)["models"] == [choices.model_place("tiny-lm")]


@pytest.mark.parametrize(("lists", "change", "words"), [
    (([], *LISTS[1:]), {}, "No entry of models"), ((*LISTS[:2], [], ["none"]), {}, "No entry of methods"),
    (LISTS, {"amount": "plenty"}, "cannot be read"), ((["/etc"], *LISTS[1:]), {}, "is not a model the app knows"),
    ((LISTS[0], ["/etc/passwd"], *LISTS[2:]), {}, "is not a data set the app knows"), (LISTS, {"seeds": "0"}, "seeds is 0"),
    ((*LISTS[:2], ["lorra"], ["none"]), {}, "did you mean lora"),
])  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_starts(grid, lists, change, words):
    before = len(Store().list())
    run, said, _, _ = compare.begin(
        "grid", [], fields.payload(compare.FORM), *lists, fields.payload(grids.FORM, change)
    )
    assert run == compare.gr.skip() and words in said and len(Store().list()) == before


def test_the_forecast_says_who_meets_the_budget_how_many_trainings_and_how_long(tmp_path):
    small = fields.payload(grids.FORM, {"seeds": "2", "trials": "1", "steps": "4", "batch_size": "2", "window": "16",
                                        "test_tokens": "256", "eval_rows": "4"})  # fmt: skip
    shown = list(compare.estimate(*LISTS, small))
    said, _, words = shown[0]
    assert said == "" and "trainings of about 4 steps" in words
    lora = words.split(">lora<")[1].split("</tr>")[0]
    assert ">yes<" in lora and "hollow" in words.split(">ia3<")[1].split("</tr>")[0]
    assert len(shown) > 3 and all("Taking a few steps" in said for said, _, _ in shown[1:-1])
    said, _, table = shown[-1]
    # base once; full, lora and ia3 one trial and two seeds each
    assert "for 10 trainings" in said and "MB of memory" in said and "Time</th>" in table
    assert table.count("<tr>") == 5


def test_a_forecast_that_cannot_be_made_is_one_sentence():
    ((said, _, words),) = compare.estimate(*LISTS[:2], [], ["none"], FORM)
    assert "No entry of methods" in said and words == compare.gr.skip()


def test_a_working_grid_lists_its_trainings_and_a_finished_one_is_judged(grid, redraw):
    told, table, *_ = compare.show_grid(grid.id, 0, "trainable")
    assert table.count("<tr>") == 8 and "judged" in table and "lora, ia3" in told
    finish(grid)
    told, table, block, scores, front, report = compare.show_grid(grid.id, 0, "trainable")
    assert "cannot be told from the best (lora" in told and "Left out (1)" in told
    assert table.index("lora") < table.index("ia3 (outside)") < table.index("base") and table.count("wb-tied") == 1
    assert not block["visible"] and report["visible"]
    for drawn in (scores, front):
        figure = json.loads(drawn)
        assert figure["csv"] and redraw(figure["cell"]) == figure["data"]
    assert compare.kind_of(grid.id) == ("grid",)
    assert compare.show_run(grid.id)[0].count('data-status="done"') == 1


def test_nothing_in_view_says_what_will_appear():
    _, table, _, scores, _, report = compare.show_grid("", None, "trainable")
    assert table == "" and json.loads(scores)["csv"] == "" and not report["visible"]
    with pytest.raises(UserError, match="No entry of data"):
        grids.settings(fields.read(grids.FORM, FORM), data=[])
