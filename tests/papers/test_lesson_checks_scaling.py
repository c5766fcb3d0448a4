import math
import re

import pytest

from workbench.lesson_checks_scaling import check_best_ratio, check_rows_needed

BEST = 7.419


@pytest.mark.parametrize(
    ("ratio", "tokens", "hint"),
    [
        (None, 1e12, "`ratio` is None"), (True, 1e12, "put a number"), (BEST, math.nan, "`tokens` is nan"),
        (1 / BEST, 1e12, "upside down"), (BEST**2, 1e12, "η alone"), (BEST**0.5, 1e12, "code's exponent"),
        (1.7277, 1e12, "without the root"), (20, 1e12, "folklore"), (3.3, 1e12, "derivative"),
        (BEST, 1e11, "one multiplication"),
    ],
)  # fmt: skip
def test_wrong_ratios_get_a_hint_that_does_not_give_the_answer(ratio, tokens, hint):
    check = check_best_ratio(ratio, tokens)
    assert not check.passed and re.search(hint, check.text)
    assert "7.4" not in check.text and "1e12" not in check.text


def test_the_right_ratio_passes():
    assert check_best_ratio(BEST, 10**12).passed


def right(target, alpha, beta, gamma):
    return ((target - gamma) / alpha) ** (1 / beta) if target > gamma else math.inf


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda t, a, b, g: None, "returned None"),
        (lambda t, a, b, g: 1 / 0, "ZeroDivisionError"),
        (lambda t, a, b, g: (t / a) ** (1 / b), "floor is forgotten"),
        (lambda t, a, b, g: ((t - g) / a) ** (-1 / b), "sign"),
        (lambda t, a, b, g: ((t - g) / a) ** b, "raised to β"),
        (lambda t, a, b, g: 12.0, "are not 12"),
        (lambda t, a, b, g: ((t - g) / a) ** (1 / b), "no number of rows"),
        (lambda t, a, b, g: math.exp(math.log((t - g) / a) / b), "ValueError"),
    ],
)
def test_wrong_functions_get_their_hint(answer, hint):
    check = check_rows_needed(answer)
    assert not check.passed and hint in check.text


def test_the_right_function_passes():
    assert check_rows_needed(right).passed
