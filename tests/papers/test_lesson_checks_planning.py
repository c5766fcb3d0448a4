import math
import re

import pytest

from workbench.lesson_checks_planning import check_break_even, check_growth, check_near_best

SERVED, RATE, BATCH = 1.2e11, 8**-0.406, 8**0.571


@pytest.mark.parametrize(
    ("served", "hint"),
    [
        (None, "`served` is None"), (True, "put a number"), (math.inf, "is inf"), (SERVED / 3, "serving 2: forward only"),
        (3 * SERVED, "not 9"), (SERVED * 3e9, "units of serving"), (6 * 1.2e20, "divide by what"),
        (-SERVED, "which model"), (1.1e11, "weigh each"), (5.0, "set them equal"),
    ],
)  # fmt: skip
def test_wrong_break_even_gets_a_hint_that_does_not_give_the_answer(served, hint):
    check = check_break_even(served)
    assert not check.passed and hint in check.text
    assert "1.2" not in check.text


def test_the_right_break_even_passes():
    assert check_break_even(3 * (6e9 * 2.9e11 - 9e9 * 1.8e11) / (9e9 - 6e9)).passed


@pytest.mark.parametrize(
    ("rate", "batch", "hint"),
    [
        (None, BATCH, "`rate_factor` is None"), (RATE, math.nan, "`batch_factor` is nan"), (8**-0.713, BATCH, "model alone"),
        (8**0.307, BATCH, "data alone"), (8**-1.02, BATCH, "sign of the exponent"), (8 * -0.406, BATCH, "a power, not"),
        (1 / RATE, BATCH, "upside down"), (0.9, BATCH, "constant 1.79 cancels"), (RATE, 1, "does not know N"),
        (RATE, 8, "slower than the data"), (RATE, 64**0.571, "follows compute"), (RATE, 1 / BATCH, "upside down"),
        (RATE, 5.0, "only D counts"),
    ],
)  # fmt: skip
def test_wrong_growth_gets_its_hint(rate, batch, hint):
    check = check_growth(rate, batch)
    assert not check.passed and hint in check.text
    assert not re.search(r"0\.43|3\.2[78]", check.text)


def test_the_right_growth_passes():
    assert check_growth(RATE, BATCH).passed


def right(losses, tolerance):
    best = min(min(row) for row in losses)
    places = [(i, j) for i, row in enumerate(losses) for j, _ in enumerate(row)]
    i, j = next((i, j) for i, j in places if losses[i][j] == best)
    if i in (0, len(losses) - 1) or j in (0, len(losses[0]) - 1):
        return None
    return [(i, j) for i, j in places if losses[i][j] <= best * (1 + tolerance)]


def without_edge(losses, tolerance):
    best = min(min(row) for row in losses)
    return [(i, j) for i, row in enumerate(losses) for j, loss in enumerate(row) if loss <= best * (1 + tolerance)]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda losses, t: 1 / 0, "ZeroDivisionError"),
        (lambda losses, t: None, "gave up a cell"),
        (lambda losses, t: 3, "returned 3"),
        (lambda losses, t: right(losses, 0), "only the best run itself"),
        (lambda losses, t: right(losses, 100 * t), "too many runs"),
        (lambda losses, t: [(0, 0)], "wrong runs"),
        (without_edge, "last column"),
    ],
)
def test_wrong_selections_get_their_hint(answer, hint):
    check = check_near_best(answer)
    assert not check.passed and hint in check.text


def test_the_right_selection_passes():
    assert check_near_best(right).passed
