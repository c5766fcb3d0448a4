"""The page Layers: snapshots of moving points, one weight on the grid, times measured now, numbers counted on real layers."""

from __future__ import annotations

import json

import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError
from workbench.figures import formats

apps_main()
from workbench.apps import choices, fields, growth, layer_sizes, live, submit  # noqa: E402
from workbench.apps.pages import compress, finetune, layers  # noqa: E402
from workbench.papers.badge import read  # noqa: E402
from workbench.runs import Store  # noqa: E402

SMALL = {"channels": 96, "blocks": 3, "size": 17, "count": 34, "k": 7, "version": "v1", "shared": True}


def test_parameters_by_hand():
    # per filter: 34 weights and a bias; positions 2 · 34 for each of 96 channels, once for the whole stage
    ours, dense, wide = layer_sizes.sizes(**SMALL)
    assert (ours["weights"], ours["positions"], ours["widths"]) == (3 * 96 * 34, 2 * 96 * 34, 0)
    assert ours["biases"] == dense["biases"] == 3 * 96
    assert dense["total"] == 3 * 96 * (49 + 1) and wide["total"] == 3 * 96 * (289 + 1)
    assert layer_sizes.equal_side(ours, SMALL) == 7  # 34 + 68 / 3 = 56.7, between 49 and 64
    equal = layer_sizes.sizes(**{**SMALL, "k": 5})[-1]  # 7 × 7 is shown where it was not asked for
    assert equal["layer"] == "7 × 7" and equal["total"] <= ours["total"]


def test_widths_and_own_positions_count():
    own = layer_sizes.sizes(**{**SMALL, "version": "gauss", "shared": False})[0]
    shared = layer_sizes.sizes(**{**SMALL, "version": "gauss"})[0]
    assert own["positions"] == own["widths"] == 3 * shared["positions"] == 3 * 2 * 96 * 34
    assert len(layer_sizes.sizes(**{**SMALL, "size": 7})) == 2  # the dense kernel of the same window is there once


@pytest.mark.parametrize(("change", "words"), [
    ({"channels": 0}, "channels is 0"), ({"size": 16}, "odd number"), ({"k": 4}, "k is 4"), ({"blocks": 65}, "from 1 to 64"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_named(change, words):
    with pytest.raises(UserError, match=words):
        layer_sizes.check({**SMALL, **change}, layer_sizes.LIMITS)
    form = fields.payload(layers.SIZES, change)
    assert words in layers.show_sizes(form) and "wb-bad" in layers.show_sizes(form)


def test_the_table_follows_the_form():
    shown = layers.show_sizes(fields.payload(layers.SIZES))
    assert formats.count(9792 + 6528 + 288) in shown
    assert "17 × 17" in shown and "shared by all blocks" in shown


def test_snapshots_move_and_their_cell_redraws_them(same):
    assert read("dcls") is not None, "the page shows the badge's runs; run: workbench reproduce dcls"
    start, first = layers.show_moving(layers.seeds()[0], 0)
    end, last = layers.show_moving(layers.seeds()[0], layers.moments())
    assert same(end) and same(start)
    assert json.loads(start)["data"][0]["z"] != json.loads(end)["data"][0]["z"]
    assert "step 0 of" in first and "step 0 of" not in last
    assert same(layers.show_spread())
    assert layers.show_moving(layers.seeds()[0], 99)[0] == end
    with pytest.raises(UserError, match="Seed 77"):
        layers.show_moving(77, 0)


def test_without_a_badge_the_figures_say_how_to_fill_them(monkeypatch):
    monkeypatch.setattr(layers, "read", lambda slug: None)
    assert layers.seeds() == [] and layers.moments() == 0
    assert layers.NO_RECORD[:20] in layers.show_moving(None, 0)[0] and layers.NO_RECORD[:20] in layers.show_spread()


@pytest.mark.parametrize(("version", "most"), [("v1", 4), ("gauss", 81)])
def test_one_weight_is_spread_and_its_cell_agrees(version, most, same):
    drawn = layers.show_point(version, 1.3, -0.6, 1.0)
    kernel = [v for row in json.loads(drawn)["data"][0]["z"] for v in row]
    assert same(drawn) and abs(sum(kernel) - 1) < 1e-5
    assert sum(v > 1e-6 for v in kernel) <= most
    if version == "v1":  # by hand: (1, −1) gets (1 − 0.3)(1 − 0.4)
        assert abs(max(kernel) - 0.7 * 0.6) < 1e-5


def test_times_are_measured_now():
    form = fields.payload(layers.TIMES, {"channels": 2, "side": 8, "batch": 1, "size": 5, "count": 4, "repeats": 1})
    drawn, _, said = layers.show_times(form)
    figure = json.loads(drawn)
    assert len(figure["data"][0]["x"]) == 5 and all(ms > 0 for ms in figure["data"][0]["x"])
    assert "channels=2, side=8" in figure["cell"] and figure["csv"].startswith("name,ms") and "Measured on" in said
    skipped, marked, said = layers.show_times(fields.payload(layers.TIMES, {"batch": "64"}))
    assert skipped == layers.gr.skip() and "batch is 64" in said
    assert {f["name"]: f["error"] for f in json.loads(marked)}["batch"]
    assert "2 M numbers" in layers.show_times(fields.payload(layers.TIMES, {"side": "64", "channels": "128"}))[2]


def test_lineage_follows_the_form_and_its_cell_redraws_it(same):
    drawn = growth.show_lineage(fields.payload(growth.form(), {"operator": "split", "factor": 2}))
    assert same(drawn)
    small, grown = (trace["text"] for trace in json.loads(drawn)["data"][1:])
    assert len(grown) == 2 * len(small) and grown[:4] == ["0", "0", "1", "1"]
    assert growth.show_lineage(fields.payload(growth.form(), {"factor": "x"})) == layers.gr.skip()


def test_a_growth_from_the_page_and_its_curves(tmp_path, monkeypatch, same):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    skipped, said, form = growth.begin(fields.payload(growth.form(), {"factor": "9"}))
    assert skipped == layers.gr.skip() and "factor is 9" in said
    assert next(f for f in json.loads(form) if f["name"] == "factor")["error"]
    id, said, _ = growth.begin(fields.payload(growth.form(), {"steps": "3", "operator": "zero"}))
    assert said == ""
    run = Store().wait(id, 300)
    assert run.status == "done", run.log_tail()
    card, (shown,) = growth.show_run(id)[0], growth.show_losses(id)
    assert "zero × 2" in card and "GFLOP" in card and same(shown["value"])
    assert live.link(run) == f"layers?run={id}"
    found = {key: choices.model_place(f"run:{id}/{key}") for key in ("grown", "trained")}
    assert {key: choices.shown(place) for key, place in found.items()} == {key: f"run:{id}/{key}" for key in found}
    assert growth.show_losses("")[0]["visible"] is False
    for offered in (finetune.lists()[0], compress.lists("")[0]):  # where the page sends people
        assert {f"run:{id}/{key}" for key in found} <= {key for _, key in offered["choices"]}
    tuning = submit.finetune({"model": f"run:{id}/grown", "data": "moby-dick", "method": "lora", "steps": 1})
    assert tuning["model"] == found["grown"]


@pytest.mark.parametrize(("billions", "trillions", "words"), [
    ("7", "2", "11.1 billion tokens"), ("70", "2", "outside the sizes"), ("0", "2", "FLOP"), ("seven", "2", "seven"),
])  # fmt: skip
def test_when_to_grow(billions, trillions, words):
    assert words in growth.show_when(fields.payload(growth.WHEN, {"billions": billions, "trillions": trillions}))


def test_the_page_in_a_browser(page, server):
    page.goto(f"{server.url}/layers")
    page.locator("[aria-label='Parameters']").wait_for()
    page.get_by_role("button", name="Measure on this machine").wait_for()
    page.get_by_label("Version").first.wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
