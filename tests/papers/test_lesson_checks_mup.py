import re

import pytest

from workbench.lesson_checks_mup import check_rates, check_same_training
from workbench.training.mup import abc_regime

RIGHT = {
    "input_rate": 1 / 32, "hidden_rate": 1 / 512, "bias_rate": 1 / 32, "readout_rate": 1 / 32, "logits_factor": 1 / 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"input_rate": None}, "`input_rate` is None"), ({"bias_rate": True}, "`bias_rate` is True"),
        ({"logits_factor": float("nan")}, "is nan"), ({"hidden_rate": 1 / 32}, "both axes"),
        ({"hidden_rate": 1 / 128}, "√m"), ({"hidden_rate": 0.5}, "upside down"), ({"hidden_rate": 7}, "two growing axes"),
        ({"input_rate": 1 / 512}, "fan-in does not grow"), ({"bias_rate": 1 / 512}, "one growing axis"),
        ({"readout_rate": 1 / 512}, "counts twice"), ({"logits_factor": 0.25}, "√m keeps"),
        ({"logits_factor": 16}, "upside down"), ({"logits_factor": 1}, "base width"),
        ({"logits_factor": 3}, "depends on m alone"),
    ],
)  # fmt: skip
def test_wrong_rates_get_a_hint_that_does_not_give_the_answer(change, hint):
    check = check_rates(**(RIGHT | change))
    assert not check.passed and hint in check.text
    assert not re.search(r"1/32|1/512|1/16|0\.03125|0\.00195|0\.0625", check.text)


def test_the_right_rates_pass():
    assert check_rates(**RIGHT).passed


@pytest.mark.parametrize(
    ("a", "b", "c", "hint"),
    [
        (None, [0] * 4, 0, "`a` holds None"), ([0, 1], [0] * 4, 0, "four numbers"), ([0] * 4, [0] * 4, None, "one number"),
        ([-0.5, 0, 0, 0.5], [0.5] * 4, 0, "unit size"), ([0.5, 0.5, 0.5, 1], [0] * 4, -1, "layer 1: a + b is 0.5 too large"),
        ([0, 0.5, 0, 1], [0] * 4, -1, "layer 3: a + b is 0.5 too small"), ([0, 0.5, 0.5, 1], [0] * 4, 0, "still muP's"),
        ([0, 0.5, 0.5, 1], [0] * 4, -0.5, "same again"), ([0, 0.5, 0.5, 1], [0] * 4, 1, "wrong sign"),
        ([0, 0.5, 0.5, 1], [0] * 4, -3, "unstable with r = -4"),
    ],
)  # fmt: skip
def test_wrong_exponents_get_their_hint(a, b, c, hint):
    check = check_same_training(a, b, c)
    assert not check.passed and hint in check.text


def test_the_right_exponents_pass_and_are_in_muPs_regime():
    answer = ([0, 0.5, 0.5, 1], [0, 0, 0, 0], -1)
    assert check_same_training(*answer).passed
    assert abc_regime(*answer)["feature_learning"]
