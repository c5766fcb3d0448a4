import re

import pytest

from workbench.evaluation.statistics import holm
from workbench.lesson_checks_comparing import check_half_width, check_holm


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "put a number"), (True, "put a number"), (0.02698, "as a share"), (1.3767, "one standard deviation"),
        (5.397, "from end to end"), (0.01895, "take its root"), (3.816, "p (1 − p)"), (9, "off"),
    ],
)  # fmt: skip
def test_wrong_widths_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_half_width(answer)
    assert not check.passed and hint in check.text
    assert not re.search(r"2\.7", check.text)


@pytest.mark.parametrize("answer", [2.7, 2.698])
def test_the_right_width_passes(answer):
    assert check_half_width(answer).passed


def unsorted(p):
    return sorted(holm(p))


def steps(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    out = [0.0] * len(p)
    for place, i in enumerate(order):
        out[i] = p[i] * (len(p) - place)
    return out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p: 1 / 0, "ZeroDivisionError"), (lambda p: [0.1], "must come out"),
        (lambda p: [min(1, len(p) * x) for x in p], "Bonferroni"), (unsorted, "wrong order"), (steps, "nearly"),
        (lambda p: [min(1, x) for x in steps(p)], "nearly"), (lambda p: p, "off"),
    ],
)  # fmt: skip
def test_wrong_corrections_get_a_hint(answer, hint):
    check = check_holm(answer)
    assert not check.passed and hint in check.text


def test_holm_passes():
    assert check_holm(holm).passed
