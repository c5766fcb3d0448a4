"""The small real job: right gradient, real digits, it learns."""

import numpy as np
import pytest

from workbench.errors import UserError
from workbench.runs import selftest


def test_the_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    x, y = rng.random((7, 64)), rng.integers(0, 10, 7)
    weight, bias = rng.normal(size=(64, 10)), rng.normal(size=10)
    loss, slope, slope_bias = selftest.gradient(x, y, weight, bias, 0.01)
    shift, shift_bias = rng.normal(size=(64, 10)), rng.normal(size=10)
    h = 1e-6
    up = selftest.gradient(x, y, weight + h * shift, bias + h * shift_bias, 0.01)[0]
    down = selftest.gradient(x, y, weight - h * shift, bias - h * shift_bias, 0.01)[0]
    assert (up - down) / (2 * h) == pytest.approx((slope * shift).sum() + (slope_bias * shift_bias).sum(), rel=1e-7)
    share = np.exp(x @ weight + bias)
    share /= share.sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(share[np.arange(7), y]).mean() + 0.005 * (weight**2).sum(), rel=1e-12)


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    x, y = selftest.digits()
    theirs = load_digits()
    np.testing.assert_array_equal(x * 16, theirs.data)
    np.testing.assert_array_equal(y, theirs.target)


def test_it_learns(store):
    result = store.run_here("selftest", {"steps": 200})
    run = store.list()[0]
    losses = [row["loss"] for row in run.metrics()]
    assert result["accuracy"] > 0.94  # chance is 0.1
    assert losses[-1] < losses[0] / 3 and len(losses) == 20
    assert run.differences() == {"steps": {"value": 200, "default": 300}}


@pytest.mark.parametrize(
    ("config", "words"), [({"stepz": 3}, "does not know stepz"), ({"steps": 0}, "steps is 0"), ({"steps": "9"}, "'9'")]
)
def test_bad_settings_leave_nothing_behind(store, config, words):
    with pytest.raises(UserError, match=words):
        store.run_here("selftest", config)
    assert store.list() == []
