from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import (
    _digits,
    _frames,
    _switch,
    curve_rows,
    curves,
    intervals,
    layers,
    pareto,
    style,
    weight_rows,
    weights,
)
from workbench.figures._thin import MAX_POINTS, keep
from workbench.figures.pareto import front


def _compared(**more) -> pd.DataFrame:
    rows = {
        "name": ["base", "lora", "rtn-4"],
        "perplexity": [30.0, 20.0, 22.0],
        "perplexity_low": [27.0, 18.0, 20.0],
        "perplexity_high": [34.0, 23.0, 25.0],
        "disk_bytes": [270e6, 272e6, 90e6],
    }
    return pd.DataFrame(rows | more)


def _labels(fig):
    return [a.text.replace("<b>", "").replace("</b>", "") for a in fig.layout.annotations if a.name == "label"]


# --- thinning ---------------------------------------------------------------------------------------------------------


def test_thinning_keeps_ends_order_and_a_lone_spike():
    x = np.arange(10_000)
    y = np.sin(x / 500)
    y[4321] = 50.0
    kept = keep(x, y, 200)
    assert len(kept) == 200 and kept[0] == 0 and kept[-1] == 9_999
    assert (np.diff(kept) > 0).all()
    assert 4321 in kept


def test_thinning_by_hand():
    # One bucket (indices 1–3) between the ends; the triangle (0,0)–(b)–(4,0) is largest where |y| is largest.
    assert keep(np.arange(5), np.array([0.0, 1.0, -3.0, 2.0, 0.0]), 3).tolist() == [0, 2, 4]


def test_thinning_edges():
    assert keep(np.arange(4), np.zeros(4), 10).tolist() == [0, 1, 2, 3]
    assert len(keep(np.arange(100), np.full(100, np.nan), 10)) == 10
    with pytest.raises(ValueError, match="n = 2"):
        keep(np.arange(4), np.zeros(4), 2)


# --- labels and axes --------------------------------------------------------------------------------------------------


def test_labels_are_moved_apart_and_keep_their_order():
    placed = _frames.apart([10.0, 100.0, 12.0, 11.0], gap=16)
    assert np.argsort(placed).tolist() == [0, 3, 2, 1]
    assert min(np.diff(sorted(placed))) >= 15.9
    assert placed[1] == 100.0  # alone, so it stays


def test_placed_labels_do_not_overlap_at_any_width():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.random((12, 2)) * 0.9 + 0.05]
    texts = [f"method-{i}" for i in range(12)]
    shifts = _frames.place(points, texts, 250)
    assert sum(s is not None for s in shifts) >= 9
    for width in (290, 640, 1080):
        boxes = []
        for (x, y), text, shift in zip(points, texts, shifts, strict=True):
            if shift is not None:
                half = len(text) * _frames.CHAR / 2
                cx, cy = x * width + shift[0], y * 250 + shift[1]
                boxes.append((cx - half, cy - 7, cx + half, cy + 7))
        for a, b in itertools.combinations(boxes, 2):
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
        assert all(b[0] >= 0 and b[2] <= width and b[1] >= 0 and b[3] <= 250 for b in boxes)


def test_a_label_stands_nearer_to_its_own_point_than_to_another():
    # Two points one above the other: beside the upper one there is room for the lower one's label, where it would mislead.
    points = [(0.5, 0.5), (0.5, 0.56), (0.52, 0.62)]
    shifts = _frames.place(points, ["lower", "middle", "upper"], 250)
    for width in (290, 640, 1080):
        for own, (point, shift) in enumerate(zip(points, shifts, strict=True)):
            centre = np.array([point[0] * width + shift[0], point[1] * 250 + shift[1]])
            half = np.array([5.5 * _frames.CHAR / 2, 7])
            gaps = [np.hypot(*np.maximum(np.abs(np.array([x * width, y * 250]) - centre) - half, 0)) for x, y in points]
            others = [g for i, g in enumerate(gaps) if i != own]
            assert min(others) >= min(gaps[own], 20)


def test_a_label_that_fits_nowhere_is_dropped_and_its_point_kept():
    crowd = _compared().loc[[0] * 40].assign(name=[f"a rather long name {i}" for i in range(40)])
    fig = pareto(crowd, "disk_bytes", "perplexity")
    assert len(_labels(fig)) < 40
    assert len([t for t in fig.data if t.mode == "markers"]) == 40


@pytest.mark.parametrize(("low", "high"), [(20, 200), (0.05, 15), (3.1, 4.2), (1e-6, 1e6)])
def test_log_ticks_are_few_round_and_inside(low, high):
    ticks, texts = _switch.log_ticks(low, high)
    assert 2 <= len(ticks) <= 7 and all(low <= t <= high for t in ticks)
    assert len(set(texts)) == len(texts)


def test_log_axis_is_chosen_by_spread_and_never_over_zero():
    assert _switch.start([1, 10], None) == (True, True)
    assert _switch.start([1, 4], None) == (False, True)
    assert _switch.start([1, 2], None) == (False, False)
    assert _switch.start([0, 10], True) == (False, False)


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: curves(r),
        lambda r: intervals(r, "perplexity"),
        lambda r: pareto(r, "disk_bytes", "perplexity"),
        lambda r: layers(r),
        lambda r: weights(r),
    ],
)
def test_a_missing_column_is_named(draw):
    with pytest.raises(UserError, match=r"no column .* they have only_this"):
        draw(pd.DataFrame({"only_this": [1.0]}))


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curve_rows_from_metric_lines():
    rows = curve_rows(
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "eval_loss": 2.7}, {"step": 3}], "run-a", "lora"
    )
    assert rows.to_dict("records") == [
        {"run": "run-a", "method": "lora", "split": "train", "step": 1, "value": 3.0},
        {"run": "run-a", "method": "lora", "split": "train", "step": 2, "value": 2.5},
        {"run": "run-a", "method": "lora", "split": "eval", "step": 2, "value": 2.7},
    ]
    assert curve_rows([], "run-a").empty


def test_axes_do_not_change_while_a_run_grows_so_zoom_stays():
    rows = _digits.curve_rows()
    early, late = curves(rows[rows["step"] <= 40], switch=False), curves(rows, switch=False)
    for axis in ("xaxis", "yaxis"):
        assert early.layout[axis].to_plotly_json() == late.layout[axis].to_plotly_json()
        assert late.layout[axis].autorange is True and late.layout[axis].range is None


def test_the_star_is_the_best_evaluation():
    rows = pd.DataFrame(
        [("a", "eval", 1, 3.0), ("a", "eval", 2, 1.5), ("a", "eval", 3, 2.0), ("a", "train", 3, 0.1)],
        columns=["run", "split", "step", "value"],
    )
    fig = curves(rows)
    (star,) = [t for t in fig.data if t.marker.symbol == "star" and t.mode == "markers"]
    assert star.x == (2,) and star.y == (1.5,)
    assert "1.50 nats per token, a at step 2" in style.alt(fig)


def test_many_long_runs_stay_within_the_point_limit_and_get_a_legend():
    steps = np.arange(5_000)
    rows = pd.concat(
        [
            pd.DataFrame({"run": f"r{i}", "method": "lora", "split": "train", "step": steps, "value": 1 / (1 + steps)})
            for i in range(8)
        ]
    )
    fig = curves(rows)
    assert sum(len(t.x) for t in fig.data) <= MAX_POINTS
    assert fig.layout.showlegend and not _labels(fig)
    assert sum(t.showlegend is not False for t in fig.data) == 8
    assert len({t.line.dash for t in fig.data}) == 6


def test_runs_of_one_method_differ_by_dash_and_share_the_colour():
    rows = pd.DataFrame(
        [(r, "lora", "eval", s, v) for r, v in (("a", 2.0), ("b", 1.0)) for s in (1, 2)],
        columns=["run", "method", "split", "step", "value"],
    )
    lines = [t for t in curves(rows).data if t.mode == "lines+markers"]
    assert lines[0].line.color == lines[1].line.color and lines[0].line.dash != lines[1].line.dash


def test_not_finite_losses_leave_a_gap():
    rows = pd.DataFrame(
        [("a", "train", s, v) for s, v in ((1, 2.0), (2, np.nan), (3, np.inf))],
        columns=["run", "split", "step", "value"],
    )
    assert curves(rows).data[0].y == (2.0, None, None)


def test_log_start_puts_labels_where_a_log_axis_wants_them():
    rows = pd.DataFrame([("a", "eval", s, 100.0) for s in (1, 2)], columns=["run", "split", "step", "value"])
    fig = curves(rows, log=True)
    (label,) = [a for a in fig.layout.annotations if a.name == "label"]
    assert fig.layout.yaxis.type == "log" and label.y == pytest.approx(2.0)
    assert fig.layout.updatemenus[0].active == 1


# --- intervals, Pareto, layers, weights -------------------------------------------------------------------------------


def test_intervals_puts_the_best_first_and_draws_both_sides():
    fig = intervals(_compared(n=40, tied=[False, True, True]), "perplexity", items="documents")
    assert fig.layout.yaxis.ticktext == ("lora", "rtn-4", "base")
    assert fig.data[0].error_x.array == (3.0,) and fig.data[0].error_x.arrayminus == (2.0,)
    assert len(fig.layout.shapes) == 2 and "tied with the best" in _labels(fig)
    assert "n = 40 documents" in fig.layout.meta["caption"]
    assert style.alt(fig) == "lora has the best perplexity, 20.0, tied with rtn-4."


def test_outside_the_budget_is_hollow_and_said():
    fig = intervals(_compared(within_budget=[False, True, True]), "perplexity", budget="at most 100 MB")
    base = next(t for t in fig.data if t.name == "base")
    assert base.marker.color == style.LIGHT["ground"]
    assert "Hollow: outside the budget (at most 100 MB)." in fig.layout.meta["caption"]
    assert "Hollow" not in intervals(_compared(), "perplexity").layout.meta["caption"]


def test_higher_is_better_turns_the_order():
    rows = pd.DataFrame(
        {"name": ["a", "b"], "accuracy": [0.5, 0.9], "accuracy_low": [0.4, 0.8], "accuracy_high": [0.6, 0.95]}
    )
    assert intervals(rows, "accuracy").layout.yaxis.ticktext == ("b", "a")


def test_front_by_hand():
    cost, quality = [1, 2, 2, 3, 4], [0.5, 0.7, 0.9, 0.8, 0.95]
    assert front(cost, quality) == [0, 2, 4]
    assert front(cost, [-q for q in quality], y_better="lower") == [0, 2, 4]
    assert front([-c for c in cost], quality, x_better="higher") == [0, 2, 4]
    assert front([], []) == []


def test_front_agrees_with_the_definition():
    rng = np.random.default_rng(1)
    cost, quality = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    chosen = {(cost[i], quality[i]) for i in front(cost, quality)}
    beaten = {
        (c, q) for c, q in zip(cost, quality, strict=True)
        if any(c2 <= c and q2 >= q and (c2 < c or q2 > q) for c2, q2 in zip(cost, quality, strict=True))
    }  # fmt: skip
    assert chosen == set(zip(cost, quality, strict=True)) - beaten


@pytest.mark.parametrize(("seeds", "words"), [(1, ", 1 seed."), (3, ", 3 seeds.")])
def test_intervals_says_how_many_seeds_were_trained(seeds, words):
    assert words in intervals(_compared(seeds=[seeds] * 3), "perplexity").layout.meta["caption"]


def test_pareto_uses_megabytes_and_keeps_variants_without_intervals():
    rows = _compared()
    rows.loc[0, ["perplexity_low", "perplexity_high"]] = np.nan
    fig = pareto(rows, "disk_bytes", "perplexity")
    base = next(t for t in fig.data if t.name == "base")
    assert base.x == (270.0,) and base.error_y.array is None
    assert fig.layout.xaxis.title.text == "Size on disk (MB)"
    assert style.alt(fig).endswith("rtn-4, lora.")


def test_pareto_leaves_out_variants_that_were_not_measured():
    rows = _compared(perplexity=[30.0, np.nan, 22.0])
    assert {t.name for t in pareto(rows, "disk_bytes", "perplexity").data} == {"front", "base", "rtn-4"}


def test_few_layers_get_a_bar_each_and_many_are_grouped():
    few = layers(pd.DataFrame({"layer": ["model.a.q", "model.a.k"], "error": [0.1, 0.2]}))
    assert few.data[0].x == ("q", "k") and few.data[0].type == "bar"
    many = pd.DataFrame(
        {"layer": [f"model.layers.{b}.{k}" for b in range(20) for k in ("q", "k")], "error": np.arange(40) / 100.0}
    )
    fig = layers(many)
    bar, dots = fig.data
    assert bar.x == ("q", "k") and bar.y == pytest.approx((0.19, 0.20))  # medians of 0, .02 … .38 and .01, .03 … .39
    assert dots.type == "box" and len(dots.y) == 40
    assert "0.390" in style.alt(fig)


def test_weight_rows_sum_to_one_and_share_their_bins():
    rows = weight_rows({"a": np.array([[0.0, 1.0], [1.0, 2.0]]), "b": np.array([0.5])}, bins=4)
    assert rows.groupby("name")["share"].sum().tolist() == [1.0, 1.0]
    assert rows[rows["name"] == "a"]["share"].tolist() == [0.25, 0.0, 0.5, 0.25]
    assert rows.groupby("name")["left"].first().nunique() == 1
    assert weight_rows({"a": np.array([])}).empty
