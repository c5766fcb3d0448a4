"""d90 and the bound: by hand, against published points, intervals, refusals."""

import math

import numpy as np
import pandas as pd
import pytest

from workbench.adapters.intrinsic_measure import (
    compression_bound,
    crossing,
    d_threshold,
    require_hard_enough,
    rising,
)
from workbench.errors import UserError


def rows(points):
    return pd.DataFrame([{"d": d, "score": s} for d, scores in points.items() for s in np.atleast_1d(scores)])


def test_nearest_rising_sequence_by_hand():
    assert rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist() == [1, 2.5, 2.5, 4]
    assert rising(np.array([3.0, 2.0, 1.0])).tolist() == [2, 2, 2]
    assert rising(np.array([3.0, 0.0]), np.array([3.0, 1.0])).tolist() == [2.25, 2.25]


def test_nearest_rising_sequence_is_the_least_squares_one():
    from scipy.optimize import minimize

    values = np.random.default_rng(0).normal(size=6)
    found = minimize(
        lambda steps: np.square(np.cumsum(steps) - values).sum(), np.zeros(6), bounds=[(None, None)] + [(0, None)] * 5
    ).x
    np.testing.assert_allclose(rising(values), np.cumsum(found), atol=1e-4)


def test_crossing_on_the_grid_between_it_and_never():
    dims, scores = np.array([10.0, 1000.0]), np.array([0.0, 1.0])
    assert crossing(dims, scores, 0.5) == 1000
    assert crossing(dims, scores, 0.5, between=True) == pytest.approx(100)  # the middle of a log axis
    assert crossing(dims, scores, -1, between=True) == 10
    assert crossing(dims, scores, 1.1) == math.inf


def test_d90_is_the_first_d_whose_mean_reaches_the_line():
    found = d_threshold(rows({50: [0.5, 0.6], 100: [0.80, 0.92], 200: [0.95, 0.97]}), baseline=1.0, bootstrap=0)
    assert (found.d, str(found), found.largest) == (200, "200", 200)
    found = d_threshold(rows({50: [0.5], 100: [0.91], 200: [0.85], 400: [0.99]}), 1.0, bootstrap=0)
    assert found.d == 400  # 0.91 and 0.85 are 0.88 twice
    assert d_threshold(rows({50: [0.5], 100: [0.91], 200: [0.85]}), 1.0, monotone=False, bootstrap=0).d == 100


# Points that uber-research/intrinsic-dimension (MIT) prints: MNIST, 400 hidden units in 2 layers; LeNet, three runs per d.
MLP = {300: 0.8181, 400: 0.8538, 450: 0.8593, 475: 0.8687, 500: 0.8691, 525: 0.8816, 550: 0.8851, 575: 0.8808, 600: 0.888,
       650: 0.8931, 700: 0.8982, 725: 0.8967, 750: 0.9022, 775: 0.9003, 800: 0.908, 1000: 0.9182, 2000: 0.9199}  # fmt: skip
LENET = {200: [0.8641, 0.8643, 0.8641], 250: [0.887, 0.887, 0.8861], 275: [0.8979, 0.8982, 0.8977],
         290: [0.9017, 0.9009, 0.9011], 300: [0.903, 0.9029, 0.9031], 350: [0.9159, 0.9172, 0.9165]}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "baseline", "expected"),
    [(MLP, 0.9758, 525), (MLP, 1.0, 750), (LENET, 1.0, 290)],  # own direct score; one number for the task
)
def test_the_published_points_give_the_published_dimensions(table, baseline, expected):
    assert d_threshold(rows(table), baseline, bootstrap=0).d == expected


def test_a_line_that_is_never_reached_is_said_to_be_above_the_grid():
    found = d_threshold(rows({50: [0.1, 0.2], 100: [0.2, 0.3]}), 1.0)
    assert str(found) == "> 100" and math.isinf(found.low)


def test_interval_holds_the_estimate_and_shrinks_with_agreement():
    generator = np.random.default_rng(1)
    noisy = rows({d: m + 0.1 * generator.normal(size=5) for d, m in ((50, 0.7), (100, 0.88), (200, 0.93), (400, 0.99))})
    sure = rows({50: [0.7] * 5, 100: [0.88] * 5, 200: [0.93] * 5, 400: [0.99] * 5})
    wide, narrow = (d_threshold(table, 1.0, between=True) for table in (noisy, sure))
    assert wide.low <= wide.d <= wide.high and wide.low < wide.high
    assert narrow.low == narrow.d == narrow.high
    assert d_threshold(noisy, 1.0, between=True) == wide  # same seed, same interval


@pytest.mark.parametrize(("table", "fraction"), [({}, 0.9), ({10: [1.0]}, 0.0), ({10: [1.0]}, 1.2)])
def test_nothing_to_measure_is_refused(table, fraction):
    with pytest.raises(UserError, match="needs runs and a fraction"):
        d_threshold(rows(table), 1.0, fraction)


def test_bound_by_hand_and_its_directions():
    assert compression_bound(0.0, 200, 3668, 0.05, 16) == pytest.approx(
        math.sqrt((3200 * math.log(2) + math.log(20)) / 7336)
    )
    assert compression_bound(0.1, 0, 50, math.exp(-1)) == pytest.approx(0.2)  # √(1/100)
    assert compression_bound(0.1, 200, 8000) < compression_bound(0.1, 200, 4000) < compression_bound(0.1, 300, 4000)


@pytest.mark.parametrize(
    "change", [{"train_error": 1.5}, {"d": -1}, {"m": 0}, {"delta": 0.0}, {"delta": 1.0}, {"bits": 0}]
)
def test_bound_for_values_no_experiment_has_is_refused(change):
    with pytest.raises(UserError, match="No bound"):
        compression_bound(**{"train_error": 0.1, "d": 10, "m": 100, **change})


def test_a_task_that_is_too_easy_is_refused():
    require_hard_enough(0.9, 0.25)
    with pytest.raises(UserError, match="too easy for d90"):
        require_hard_enough(0.888, 0.80)
