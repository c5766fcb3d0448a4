"""The page `efficientqat`: verdict by hand, figures, and the cells it runs."""

import math

import pandas as pd
import pytest
import torch

from workbench.compress.linear import IntLinear
from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _efficientqat_figures as figures
from workbench.papers import _efficientqat_runs as runs
from workbench.papers import badge, efficientqat


def table(steps=1.7, block=1.5, whole=1.3, rounded=2.0, seed=0, held=True):
    """Rows of one seed: the float model has loss 1, so the gaps are the losses minus 1."""
    judged = {
        figures.RTN: rounded,
        figures.STEPS_ONLY: steps,
        figures.BLOCK: block,
        figures.WHOLE: whole,
        figures.LATE: 1.6,
    }
    place = {"seed": seed, "kind": "model", "held": held}
    rows = [{**place, "bits": 32, "group": 0, "arm": figures.FLOAT, "loss": 1.0}]
    rows += [{**place, "bits": 2, "group": 32, "arm": arm, "loss": loss} for arm, loss in judged.items()]
    for bits in (4, 3, 2):
        for at, arm in enumerate(figures.LINES):
            rows.append({**place, "bits": bits, "group": 64, "arm": arm, "loss": 1 + (5 - bits) / 5 - at / 20})
    for number in (1, 2):
        for arm, after in ((figures.STEPS_ONLY, 0.3), (figures.BLOCK, 0.2)):
            rows.append({"seed": seed, "kind": "block", "bits": 2, "group": 32, "arm": arm, "block": number,
                         "before": 0.4 + number / 10, "after": after})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, 0.1),  # left 0.7, 0.5, 0.3: distances 0.3, 0.2, 0.2, and 0.4 − 0.3
        ({"whole": 1.45}, -0.05),  # 0.45 is left
        ({"steps": 1.45, "block": 1.5}, -0.05),  # training the weights made it worse
        ({"steps": 2.1}, -0.1),  # steps alone are worse than rounding
        ({"block": 1.2, "whole": 1.3}, -0.1),  # the second phase made it worse
        ({"rounded": 1.0}, -1.0),  # rounding costs nothing
        ({"held": False}, -1.0),  # an integer changed
        ({"whole": math.nan}, -1.0),
    ],
)
def test_margin_by_hand(losses, expected):
    assert efficientqat.margin(table(**losses)) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(block=1.5 + seed / 100, seed=seed) for seed in range(seeds)], ignore_index=True)
    fig = efficientqat.figure(rows)
    for shown in (fig, figures.against_bits(rows), figures.by_block(rows), figures.stairs(), figures.stairs(3, 0.5, 6)):
        style.check(shown)
        style.check(style.theme(shown, dark=True))
    assert "Block-AP + E2E-QP 0.30" in style.alt(fig) and "RTN 1.00" in style.alt(fig)
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in fig.layout.meta["caption"]
    assert "At 2 bits the losses are: RTN 1.600, GPTQ 1.550" in style.alt(figures.against_bits(rows))
    assert "everything trained 20 percent" in style.alt(figures.by_block(rows))


def test_your_own_points_are_diamonds():
    mine = pd.DataFrame([{"bits": 2, "group": 32, "arm": "scales", "loss": 1.9}])
    point = figures.against_bits(table(), mine).data[-1]
    assert point.marker.symbol == "star-diamond" and list(point.x) == [2] and list(point.y) == [1.9]


def test_stairs_have_as_many_values_as_codes():
    for bits, zero, low in ((2, 1.0, -1.0), (3, 7.0, -7.0)):
        passes, stops, _ = figures.stairs(bits, 0.5, zero).data
        values = {round(y, 6) for trace in (passes, stops) for y in trace.y if y is not None and not math.isnan(y)}
        assert len(values) == 1 << bits and min(values) == low * 0.5
        assert all(math.isnan(one) != math.isnan(other) for one, other in zip(passes.y, stops.y, strict=True))


def test_small_runs_everything_smoke_runs():
    small, smoke = (
        [(case.bits, case.group, arm) for case in runs.cases(scale) for arm in case.arms]
        for scale in ("small", "smoke")
    )
    assert set(smoke) < set(small) and len(set(small)) == len(small)
    with pytest.raises(UserError, match="did you mean smoke"):
        runs.plan_for("smok")


def test_a_case_measures_packed_models_and_leaves_the_float_one_alone():
    setup = runs.prepare(runs.plan_for("smoke"), 0, "cpu")
    before = {name: tensor.clone() for name, tensor in setup.base.state_dict().items()}
    model, blocks = runs.quantized(setup, 2, 32, runs.BLOCK)
    assert len(blocks) == 4 and sum(isinstance(module, IntLinear) for module in model.modules()) == 28
    rows = runs.run_case(setup, runs.Case(2, 32, (runs.BLOCK, runs.WHOLE)), 0)
    assert [row["kind"] for row in rows] == ["block"] * 4 + ["model"] * 2
    assert (
        rows[-2]["loss"] == runs.loss_of(model, setup.test)
        and rows[-1]["held"]
        and rows[-1]["loss"] != rows[-2]["loss"]
    )
    own = runs.own_rows(setup, 2, 32, ("weights", "scales", "zeros"), True, 0)
    assert own[-1]["loss"] == rows[-1]["loss"] and own[-1]["arm"] == "weights, scales, zeros + E2E-QP"
    assert all(torch.equal(tensor, before[name]) for name, tensor in setup.base.state_dict().items())


def test_the_badge_kept_every_integer_and_every_case():
    rows = pd.DataFrame(badge.read("efficientqat")["rows"])
    models = rows[rows["kind"] == "model"]
    assert models["held"].astype(bool).all()
    per_seed = 1 + sum(len(case.arms) for case in runs.cases("small"))
    assert (models.groupby("seed").size() == per_seed).all()
