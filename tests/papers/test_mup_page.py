"""The page `mup`: verdict by hand, figures, the parametrizations it compares, and its two side experiments."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.errors import UserError
from workbench.figures import style
from workbench.figures.lr_transfer import lr_transfer, steepest
from workbench.papers import _mup_lesson, badge, mup


def table(best, losses=(0.2, 0.1), seed=0):
    """Rows of one seed from {(parametrization, width): octave of the lowest loss}; muP's bowls bottom out at `losses`."""
    rows = []
    for (kind, width), octave in best.items():
        floor = losses[width > 64] if kind == "muP" else 0.3
        for rate in range(-9, -2):
            loss = floor * 2 ** (0.5 * abs(rate - octave))
            place = {"seed": seed, "part": "rate", "parametrization": kind, "width": width}
            rows.append({**place, "rate": 2.0**rate, "loss": loss})
    for kind, slope in (("standard", 0.8), ("muP", -0.02)):
        for layer in ("input", "hidden"):
            place = {"seed": seed, "part": "coordinate", "parametrization": kind, "layer": layer}
            rows += [{**place, "width": w, "size": 0.1 * w ** (slope * (layer == "hidden"))} for w in (64, 256, 1024)]
    return pd.DataFrame(rows)


def octaves(standard, mup_):
    kinds = zip(("standard", "muP"), (standard, mup_), strict=True)
    return {(kind, width): octave for kind, pair in kinds for width, octave in zip((64, 1024), pair, strict=True)}


@pytest.mark.parametrize(
    ("best", "losses", "expected"),
    [
        (octaves((-5, -8), (-5, -5)), (0.2, 0.1), 1.0),  # drifts 3 and 0, loss halves: min(1.5, 1.5, 1)
        (octaves((-5, -7), (-5, -5)), (0.2, 0.1), 0.5),  # drift of exactly 2 holds by half an octave
        (octaves((-5, -6), (-5, -5)), (0.2, 0.1), -0.5),  # standard drifts too little
        (octaves((-5, -3), (-5, -5)), (0.2, 0.1), -3.5),  # the other way is no drift downwards
        (octaves((-5, -8), (-5, -4)), (0.2, 0.1), 0.5),  # muP one octave up: loss at the transferred rate 0.1 · √2
        (octaves((-5, -8), (-5, -7)), (0.2, 0.1), -0.5),  # muP two octaves off
        (octaves((-5, -8), (-5, -5)), (0.1, 0.2), -1.0),  # wide is worse than narrow
    ],
)
def test_margin_by_hand(best, losses, expected):
    assert mup.margin(table(best, losses)) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(octaves((-5, -8), (-5, -5)), seed=seed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    fig = mup.figure(rows)
    for shown in (fig, mup.check_figure(rows)):
        style.check(shown)
        style.check(style.theme(shown, dark=True))
    assert "standard: best 2⁻⁵ at width 64, 2⁻⁸ at 1024; muP: best 2⁻⁵ at width 64, 2⁻⁵ at 1024" in style.alt(fig)
    caption = fig.layout.meta["caption"]
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in caption
    assert "+0.80 under standard, -0.02 under muP" in caption


def test_panels_show_the_same_loss_at_the_same_height():
    rows = pd.DataFrame(
        [{"parametrization": k, "width": 64, "rate": r, "loss": v} for k in "ab" for r, v in ((0.1, 1.0), (0.2, 10.0))]
    )
    first, _, second, _ = lr_transfer(rows).data
    assert np.subtract(first.y, second.y) == pytest.approx([1.24, 1.24], abs=1e-5)
    ticks = lr_transfer(rows).layout.yaxis
    places = dict(zip(ticks.tickvals[: len(ticks.tickvals) // 2], ticks.ticktext, strict=False))
    (one,) = [place for place, text in places.items() if text == "1"]
    assert one == pytest.approx(first.y[0], abs=1e-5)


def test_interval_over_seeds_is_that_of_the_mean_logarithm():
    rows = pd.DataFrame(
        [{"parametrization": "muP", "width": 64, "rate": 0.5, "loss": v, "seed": i} for i, v in enumerate((1, 10, 100))]
        + [{"parametrization": "muP", "width": 64, "rate": 0.25, "loss": 1000.0, "seed": 0}]
    )
    bars = lr_transfer(rows).data[-1].error_y.array
    span = 2 * (1 + 2 * 0.06)  # decades from 10 to 1000, padded by 6 % on both sides
    assert bars[0] == pytest.approx(4.302653 / 3**0.5 / span, rel=1e-3)  # t quantile, deviation 1 decade


def test_slope_is_the_steepest_in_size():
    rows = table(octaves((-5, -8), (-5, -5)))
    assert steepest(mup.of(rows, "coordinate")) == pytest.approx({"standard": 0.8, "muP": -0.02})


def weights(kind, width=128):
    torch.manual_seed(0)
    model, optimizer = mup.build(width, kind, 0.01)
    return model, {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_what_the_parametrizations_are():
    plain, rates = weights("standard")
    assert set(rates.values()) == {0.01} and plain[-1].weight.any()
    zero, rates = weights("standard, readout at zero")
    assert set(rates.values()) == {0.01} and not zero[-1].weight.any()
    half, rates = weights("rates of muP only")
    assert torch.equal(half[-1].weight, plain[-1].weight) and rates[id(half[2].weight)] == 0.005
    model, rates = weights("muP")
    assert not model[-1].weight.any() and torch.equal(model[2].weight, plain[2].weight)
    assert model[-1].multiplier == 0.5 and rates[id(model[2].weight)] == 0.005
    assert {rates[id(model[i].weight)] for i in (0, 4)} == {0.01}
    with pytest.raises(UserError, match="did you mean muP"):
        mup.bowl(64, "mup", mup.plans("smoke"))


def test_at_the_base_width_only_the_zero_readout_differs():
    plan = mup.Plan((64,), (-5,), steps=10, networks=1)
    assert mup.train(64, "muP", 0.03, plan, 3) == mup.train(64, "standard, readout at zero", 0.03, plan, 3)
    assert mup.train(64, "rates of muP only", 0.03, plan, 3) == mup.train(64, "standard", 0.03, plan, 3)


def test_training_learns_and_leaves_the_callers_random_state_alone():
    plan = mup.Plan((64,), (-5,), steps=40, networks=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert mup.train(64, "muP", 2.0**-5, plan, 0) < 0.4
    mup.coordinates(mup.Plan((64, 128), (), steps=1, networks=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_coordinate_check_is_flat_under_mup_and_steep_under_standard():
    plan = mup.Plan((64, 256, 1024), (), steps=1, networks=3)
    found = steepest(pd.DataFrame(mup.coordinates(plan)))
    assert abs(found["muP"]) < 0.1
    assert found["standard"] > 0.3


def test_price_of_not_tuning_by_hand():
    found = _mup_lesson.price_of_not_tuning(pd.concat([table(octaves((-5, -8), (-5, -5)), seed=s) for s in (0, 1)]))
    assert list(found["standard", "own rate"]) == pytest.approx([0.3, 0.3])
    assert list(found["standard", "rate of width 64"]) == pytest.approx([0.3, 0.3 * 2**1.5])
    assert list(found["muP", "rate of width 64"]) == pytest.approx([0.2, 0.1])


def test_linear_networks_come_closer_to_the_infinite_one():
    rows = _mup_lesson.linear_curves((16, 1024), steps=20)
    last = rows[rows["step"] == 20].set_index("run")["value"]
    first = rows[rows["step"] == 0].set_index("run")["value"]
    assert last["infinite"] < 0.7 * first["infinite"]
    assert abs(last["width 1024"] - last["infinite"]) < abs(last["width 16"] - last["infinite"])


def test_the_badge_shows_the_second_picture_as_expected():
    rows = pd.DataFrame(badge.read("mup")["rows"])
    found = mup.slope_of_check(rows)
    assert abs(found["muP"]) < 0.1 and found["standard"] > 0.3


@pytest.mark.parametrize(("c", "words"), [(0, "unstable"), (1, "features frozen (a kernel), r = 0.5"), (2, "nothing")])
def test_regimes_of_the_standard_start_in_words(c, words):
    assert words in _mup_lesson.regime_in_words(c)
