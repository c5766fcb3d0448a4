from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.planner import compute_optimal, frontier, gpu_flops, inference_aware, iso_loss, plan

from .conftest import simulate


@pytest.fixture(scope="module")
def law():
    return ScalingLaw().fit(simulate("chinchilla", noise=0.005))


def test_compute_optimal_agrees_with_a_numeric_minimum(law):
    n, d, loss = compute_optimal(law, 1e22)

    def at(log_n):
        size = np.exp(log_n)
        return law.predict(pd.DataFrame({"N": [size], "D": [1e22 / 6 / size]}))[0]

    found = minimize_scalar(at, bounds=(np.log(1e7), np.log(1e12)), method="bounded", options={"xatol": 1e-10})
    assert np.log(n[0]) == pytest.approx(found.x, abs=1e-4)
    assert loss[0] == pytest.approx(found.fun, rel=1e-12)
    assert 6 * n[0] * d[0] == pytest.approx(1e22)


def test_published_chinchilla_constants_ask_for_about_twenty_tokens_a_parameter(epoch):
    kept = epoch[epoch["loss"] < epoch["loss"].nlargest(5).min()]
    fitted = ScalingLaw().fit(kept)
    result = plan(fitted, 5.76e23)
    assert 15 < result.ratio[0] < 30
    assert result.ratio[1] < 20 < result.ratio[2]


def test_minicpm_ratio_from_the_printed_constants():
    law = ScalingLaw("minicpm").fit(simulate("minicpm"))
    n, d, _ = compute_optimal(law, 1e21)
    assert d[0] / n[0] == pytest.approx(183.9, rel=2e-3)  # the paper prints 191.9 from unrounded constants


def test_serving_makes_the_model_smaller_at_the_same_loss(law):
    lean = plan(law, 1e22)
    served = plan(law, 1e22, served_tokens=1e13)
    assert served.params[0] < lean.params[0] and served.tokens[0] > lean.tokens[0]
    assert served.loss[0] == lean.loss[0]
    at = pd.DataFrame({"N": [served.params[0]], "D": [served.tokens[0]]})
    assert law.predict(at)[0] == pytest.approx(lean.loss[0], rel=1e-6)
    assert served.total_flops < lean.total_flops + 2 * lean.params[0] * 1e13


def test_without_serving_the_two_planners_agree(law):
    n, d, loss = compute_optimal(law, 1e22)
    assert inference_aware(law, loss[0], 0.0) == pytest.approx((n[0], d[0]), rel=2e-2)


def test_intervals_hold_the_value_and_far_plans_say_so(law):
    result = plan(law, 1e26)
    for low, high, value in ((b[1], b[2], b[0]) for b in (result.params, result.tokens, result.loss)):
        assert low <= value <= high
    assert "decades beyond" in result.warnings[0]


def test_iso_loss_and_frontier_lie_on_the_law(law):
    assert law.predict(iso_loss(law, 3.0)) == pytest.approx(np.full(100, 3.0))
    rows = frontier(law, 1e19, 1e23)
    assert law.predict(rows) == pytest.approx(rows["loss"].to_numpy())
    assert (np.diff(rows["loss"]) < 0).all()


def test_gpu_hours_by_hand():
    assert gpu_flops(1, 8, 312, 0.5) == pytest.approx(3600 * 8 * 156e12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda law: plan(law, 0), "above 0"),
        (lambda law: inference_aware(law, 0.1, 0), "floor"),
        (lambda law: iso_loss(law, 0.1), "floor"),
        (lambda law: gpu_flops(1, mfu=2), "mfu"),
        (lambda law: plan(law, 1e22, schedule="step"), "wsd or power"),
        (lambda law: plan(ScalingLaw("power").fit(simulate("power")), 1e22), "N and D"),
    ],
)
def test_refusals(law, call, words):
    with pytest.raises(UserError, match=words):
        call(law)
