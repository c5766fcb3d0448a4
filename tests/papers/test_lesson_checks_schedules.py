import math

import pytest

from workbench.lesson_checks_schedules import check_power_rate, check_step_counts, check_wsd_rates
from workbench.training.schedules import power_rate

RIGHT = {"warming": 0.0025, "holding": 0.01, "halfway": 0.01 * (1 - math.sqrt(0.5))}


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"warming": None}, "`warming` is None"), ({"holding": True}, "`holding` is True"), ({"halfway": math.nan}, "is nan"),
        ({"warming": 0.01}, "warm-up is not over"), ({"holding": 0.0025}, "falls with the steps"),
        ({"holding": 0.01 * (1 + math.cos(0.75 * math.pi)) / 2}, "is a cosine's"), ({"halfway": 0.005}, "straight line"),
        ({"halfway": 0.01 * math.sqrt(0.5)}, "one minus"), ({"halfway": 0.01 * (1 - math.sqrt(0.95))}, "its own clock"),
        ({"halfway": 0.3}, "which of the three parts"),
    ],
)  # fmt: skip
def test_wrong_rates_get_a_hint_that_does_not_give_the_answer(change, hint):
    check = check_wsd_rates(**(RIGHT | change))
    assert not check.passed and hint in check.text
    assert "0.0025" not in check.text and "0.0029" not in check.text


def test_right_rates_pass():
    assert check_wsd_rates(**RIGHT).passed


def right(seen, batch, window):
    return power_rate(seen, batch_sequences=batch / window)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda n, b, w: min(0.02, b * 4 * n**-0.51), "β counts sequences"),
        (lambda n, b, w: min(0.02, 4 * n**-0.51), "batch is missing"),
        (lambda n, b, w: b / w * 4 * n**-0.51, "divides by zero"),
        (lambda n, b, w: b / w * 4 * max(n, 1) ** -0.51, "above the cap"),
        (lambda n, b, w: 0.5 * right(n, b, w), "each factor again"),
        (lambda n, b, w: None, "returned None"),
        (lambda n, b, w: n.rate, "AttributeError"),
    ],
)
def test_wrong_functions_get_their_hint(answer, hint):
    check = check_power_rate(answer)
    assert not check.passed and hint in check.text


def test_the_right_function_passes():
    assert check_power_rate(right).passed


@pytest.mark.parametrize(
    ("cosine", "wsd", "hint"),
    [
        (None, 8700, "`cosine` is None"), (8000, 8700, "finished shorter run"), (5, 8700, "a run of its own"),
        (15000, "x", "`wsd` is 'x'"), (15000, 7200, "without any decay"), (15000, 8000, "one decay only"),
        (15000, 9500, "starts before"), (15000, 15000, "share"), (15000, 3, "four decays"),
    ],
)  # fmt: skip
def test_wrong_counts_get_their_hint(cosine, wsd, hint):
    check = check_step_counts(cosine, wsd)
    assert not check.passed and hint in check.text
    assert "8700" not in check.text


def test_right_counts_pass():
    assert check_step_counts(15000, 8700.0).text.startswith("right: 58%")
