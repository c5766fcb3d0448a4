"""The page `intrinsic-dimension`: margin by hand, the laboratory, figures."""

import math

import pandas as pd
import pytest
import torch

from workbench.figures import style
from workbench.papers import _intrinsic_figures, _intrinsic_lab
from workbench.papers import intrinsic_dimension as page


def curve(task, width, projection, points, direct=1.0):
    place = {"seed": 0, "task": task, "width": width, "projection": projection, "parameters": 1000, "rate": 0.1}
    flat = [{**place, "d": d, "direct": False, "score": score} for d, score in points.items()]
    return [{**place, "d": 1000, "direct": True, "score": direct}, *flat]


def rows(narrow=100, wide=100, dense=100, real=50, dealt=400):
    """One seed whose curves reach exactly 0.9 at the given d, on the grid."""

    def step(d):
        return {10: 0.5, d: 0.9, 2 * d: 1.0}

    found = curve(page.DIGITS, 25, "fastfood", step(narrow)) + curve(page.DIGITS, 200, "fastfood", step(wide))
    found += curve(page.DIGITS, 25, "dense", step(dense))
    found += curve(page.REAL, 100, "fastfood", step(real)) + curve(page.DEALT, 100, "fastfood", step(dealt))
    small = {"seed": 0, "task": page.SMALL, "width": 1, "projection": "none", "parameters": 85, "d": 85, "direct": True}
    return pd.DataFrame([*found, {**small, "rate": 0.01, "score": 0.2}])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, min(math.log2(1.7), math.log2(8 / 5), math.log2(1.5))),
        ({"wide": 150}, math.log2(1.7 / 1.5)),
        ({"wide": 200}, math.log2(1.7 / 2)),  # grows with the network: fails
        ({"dealt": 200}, math.log2(4 / 5)),  # memorising is too cheap: fails
        ({"dense": 160}, math.log2(1.5 / 1.6)),  # projections disagree: fails
    ],
)
def test_margin_by_hand(changed, expected):
    assert page.margin(rows(**changed)) == pytest.approx(expected)


def test_a_width_that_is_never_solved_fails_and_dealt_labels_above_the_grid_count_as_its_end():
    table = rows()
    never = table.copy()
    never.loc[(never["width"] == 200) & ~never["direct"], "score"] = 0.5
    assert page.margin(never) == -10
    table.loc[(table["task"] == page.DEALT) & ~table["direct"], "score"] = 0.3  # grid ends at 800: 16 times
    assert page.margin(table) == pytest.approx(math.log2(1.5))


def test_curve_stops_once_the_line_is_passed_twice_and_starts_with_the_direct_score(monkeypatch):
    scores = iter([1.0, 0.5, 0.95, 0.92, 0.99])
    monkeypatch.setattr(_intrinsic_lab, "best", lambda *_: {"rate": 0.1, "score": next(scores)})
    found = _intrinsic_lab.curve(4, "fastfood", _intrinsic_lab.digits(0), (8, 9, 10, 11), (0.1,), (0.01,), 1, 0)
    assert [row["d"] for row in found] == [4 * 64 + 4 + 16 + 4 + 40 + 10, 8, 9, 10]
    assert [row["direct"] for row in found] == [True, False, False, False]


def test_dealt_labels_are_the_same_labels_in_another_order():
    real, dealt = (_intrinsic_lab.to_memorise(1, shuffled) for shuffled in (False, True))
    assert torch.equal(real.x, dealt.x) and torch.equal(real.x, real.judged_x)
    assert not torch.equal(real.y, dealt.y) and torch.equal(real.y.sort().values, dealt.y.sort().values)


def test_no_picture_is_trained_on_and_judged_by():
    data = _intrinsic_lab.digits(2)
    assert len(data.x) == 1300 and len(data.judged_x) == 497
    other = _intrinsic_lab.digits(3)
    assert not torch.equal(data.x, other.x)


def test_the_better_rate_counts_and_the_smaller_one_when_tied(monkeypatch):
    monkeypatch.setattr(_intrinsic_lab, "train", lambda model, data, rate, *_: {0.1: 0.7, 0.2: 0.9, 0.4: 0.9}[rate])
    assert _intrinsic_lab.best(lambda: None, None, (0.4, 0.2, 0.1), 1, 0) == {"rate": 0.2, "score": 0.9}


def test_figures_are_in_the_house_style_with_the_readers_own_points_too():
    mine = [
        {"seed": 0, "task": page.DIGITS, "width": 50, "projection": "yours", "d": 30, "direct": False, "score": 0.4}
    ]
    for fig in (page.figure(rows()), page.figure(rows(), mine), page.labels_figure(rows())):
        style.check(fig)
        style.check(style.theme(fig, dark=True))
    assert "yours" in [trace.name for trace in page.figure(rows(), mine).data]
    assert "25 wide 100;" in style.alt(page.figure(rows()))


def test_pictures_of_the_lesson_are_in_the_house_style():
    for fig in (_intrinsic_figures.moved_weights(5), _intrinsic_figures.bound_curve(200)):
        style.check(fig)
        assert style.alt(fig)
    assert "one half from about" in style.alt(_intrinsic_figures.bound_curve(200))
