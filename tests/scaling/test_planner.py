from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.hyperparameters import step_law
from workbench.scaling.planner import (
    ErrorLink,
    compute_optimal,
    frontier,
    gpu_flops,
    inference_aware,
    iso_flop,
    iso_loss,
    plan,
)  # fmt: skip

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


def test_every_number_of_a_plan_has_an_interval_that_holds_it(law):
    for served in (0.0, 1e13):
        result = plan(law, 1e22, served_tokens=served)
        for band in (result.params, result.tokens, result.ratio, result.loss, result.lr, result.batch_tokens):
            assert band[1] <= band[0] <= band[2]
            assert band[1] < band[2]
        assert result.steps == pytest.approx(result.tokens[0] / result.batch_tokens[0])
        assert result.lr[0] == step_law(result.params[0], result.tokens[0]).lr


def test_serving_pays_where_it_costs_least(law):
    result = plan(law, 1e22, served_tokens=1e13)

    def total(size):
        e, a, b, alpha, beta = law.vector_
        tokens = (b / (result.loss[0] - e - a * size**-alpha)) ** (1 / beta)
        return 6 * size * tokens + 2 * size * 1e13

    found = minimize_scalar(total, bounds=(result.params[0] / 1.5, result.params[0] * 1.5), method="bounded")
    assert result.total_flops == pytest.approx(found.fun, rel=1e-4)
    assert any("trained longer" in warning for warning in result.warnings)


def test_schedules_are_given_in_steps(law):
    wsd, power = plan(law, 1e22), plan(law, 1e22, schedule="power")
    total = f"{round(wsd.steps):,}".replace(",", "\u2009")
    assert wsd.schedule.startswith("WSD") and total in wsd.schedule
    assert power.schedule.startswith("Power") and "no total length" in power.schedule


def test_other_rules_disagree_and_are_shown(law):
    rules = plan(law, 1e22).rules
    assert {"DeepSeek", "Porian"} <= set(rules)
    assert "MiniCPM" not in rules and "Microsoft" not in rules  # one rate for all sizes; units of its own


def test_downstream_error_follows_the_loss(law):
    table = simulate("chinchilla", noise=0.005)
    truth = 0.85 - 2.2 * np.exp(-0.7 * table["loss"])
    boot = law.bootstrap(60)
    link = ErrorLink.fit(table.assign(error=truth.where(table.index % 3 > 0)), boot)
    assert link.vector == pytest.approx((0.85, 2.2, 0.7), rel=1e-4)
    result = plan(law, 1e22, bootstrap=boot, link=link)
    assert result.error[0] == pytest.approx(0.85 - 2.2 * np.exp(-0.7 * result.loss[0]), rel=1e-4)
    assert result.error[1] < result.error[0] < result.error[2]
    with pytest.raises(UserError, match="share from 0 to 1"):
        ErrorLink.fit(table.assign(error=100 * truth), boot)


def test_iso_flop_curves_spend_their_budget_and_bottom_out_at_the_optimum(law):
    rows = iso_flop(law, np.array([1e20, 1e22]))
    assert (6 * rows["N"] * rows["D"]).to_numpy() == pytest.approx(rows["C"].to_numpy())
    for flops, part in rows.groupby("C"):
        n, _, loss = compute_optimal(law, flops)
        assert part.loc[part["loss"].idxmin(), "N"] == pytest.approx(n[0], rel=1e-6)
        assert part["loss"].min() == pytest.approx(loss[0])


def test_frontier_with_a_band(law):
    rows = frontier(law, 1e20, 1e22, 5, law.bootstrap(60))
    for name in ("N", "D", "loss"):
        assert (rows[f"{name}_low"] <= rows[name]).all() and (rows[name] <= rows[f"{name}_high"]).all()


def test_gpu_hours_by_hand():
    assert gpu_flops(1, 8, 312, 0.5) == pytest.approx(3600 * 8 * 156e12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda law: plan(law, 0), "above 0"),
        (lambda law: inference_aware(law, 0.1, 0), "floor"),
        (lambda law: iso_loss(law, 0.1), "floor"),
        (lambda law: gpu_flops(1, mfu=2), "mfu"),
        (lambda law: plan(law, 1e22, schedule="step"), "choose one of: power, wsd"),
        (lambda law: plan(ScalingLaw("power").fit(simulate("power")), 1e22), "N and D"),
    ],
)
def test_refusals(law, call, words):
    with pytest.raises(UserError, match=words):
        call(law)
