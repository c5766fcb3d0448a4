import math
import re

import pytest

from workbench.geometry.losf import LIGHT, LoSFNet, ResNetPointNet
from workbench.lesson_checks_shapes import check_iso, check_nearest, check_parameters

RIGHT = (26_704, 1632, 101_217)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_right_counts_are_those_of_the_network():
    net = LoSFNet(**LIGHT)
    assert count(ResNetPointNet(16, 32)) == RIGHT[0] and count(net.cross) == RIGHT[1]
    assert count(net.after) + count(net.displace) + count(net.output) == RIGHT[2]
    assert check_parameters(*RIGHT).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 1, 1), "`pointnet` is None"), ((RIGHT[0], 2.0, 1), "`attention` is 2.0"),
        ((26_864, 1, 1), "bias for the shortcuts"),
        ((16_464, 1, 1), "without one"), ((5968, 1, 1), "there are five"), ((80_112, 1, 1), "all three"),
        ((7, 1, 1), "layer by layer"),
        ((RIGHT[0], 544, 1), "three"), ((RIGHT[0], 3264, 1), "both"), ((RIGHT[0], 9, 1), "16 to 32"),
        ((*RIGHT[:2], 156_257), "not one of each"), ((*RIGHT[:2], 102_849), "two attentions"),
        ((*RIGHT[:2], 5), "total without"),
    ],
)  # fmt: skip
def test_wrong_counts_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_parameters(*answer)
    assert not check.passed and hint in check.text
    assert not re.search("26704|26 704|1632|101217|101 217", check.text)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 0.025), "`smallest` is None"), ((0.0165, 0.025), "one step"), ((0.0286, 0.025), "whole diagonal"),
        ((0.00825, 0.025), "half an edge"), ((0.01167, 0.025), "cubes"), ((0.5, 0.025), "one of its corners"),
        ((0.0143, 0.05), "both sides"), ((0.0143, 0.0335), "only the distance"), ((0.0143, 0.0125), "too careful"),
        ((0.0143, 1.0), "two skins"), ((0.0143, math.nan), "`largest` is nan"),
    ],
)  # fmt: skip
def test_wrong_lengths_get_their_hint(answer, hint):
    check = check_iso(*answer)
    assert not check.passed and hint in check.text


def test_the_right_lengths_pass():
    assert check_iso(0.0143, 0.025).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda h, s: 1 / 0, "ZeroDivisionError"), (lambda h, s: math.hypot(h, s / 2**0.5), "too much"),
        (lambda h, s: math.hypot(h, s) - h, "whole side"), (lambda h, s: math.hypot(h, s / 2) - h, "middle of an edge"),
        (lambda h, s: s / 2**0.5 - h, "right triangle"), (lambda h, s: 5, "draw the triangle"),
    ],
)  # fmt: skip
def test_wrong_errors_get_their_hint(answer, hint):
    check = check_nearest(answer)
    assert not check.passed and hint in check.text


def test_the_right_error_passes():
    assert check_nearest(lambda h, s: math.sqrt(h * h + s * s / 2) - h).passed
