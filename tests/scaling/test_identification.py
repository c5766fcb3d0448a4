from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.identification import identify, jacobian

from .conftest import TRUTH, simulate


def test_jacobian_agrees_with_finite_differences():
    law = ScalingLaw().fit(simulate("chinchilla", noise=0.01))
    exact = jacobian(law.law_, law.x_, law.vector_)

    def logs(z):
        return np.log(law.law_.predict(law.x_, np.concatenate([np.exp(z[:3]), z[3:]])[None])[0])

    z = np.concatenate([np.log(law.vector_[:3]), law.vector_[3:]])
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-6
        assert exact[:, i] == pytest.approx((logs(z + step) - logs(z - step)) / 2e-6, rel=1e-5, abs=1e-8)


def test_a_good_design_draws_no_warning(chinchilla):
    report = identify(ScalingLaw().fit(chinchilla))
    assert report.rank == 5
    assert report.warnings == ()
    assert report.agreement == 1.0


def test_columns_in_step_leave_only_the_sum_of_the_exponents():
    table = simulate("bivariate", n=40)
    table["N_d"] = table["N_e"] * 2
    law = ScalingLaw("bivariate")
    table["loss"] = 1.3 + 900 * table["N_e"] ** -0.18 * table["N_d"] ** -0.31
    table["loss"] *= np.exp(0.001 * np.random.default_rng(0).standard_normal(40))
    assert any("Only the sum p_e + p_d" in warning for warning in identify(law.fit(table)).warnings)


def test_one_ratio_is_named():
    table = simulate("chinchilla", n=40)
    table["D"] = 20 * table["N"]
    e, a, b, alpha, beta = TRUTH["chinchilla"]
    table["loss"] = e + a / table["N"] ** alpha + b / table["D"] ** beta
    table["loss"] *= np.exp(0.002 * np.random.default_rng(0).standard_normal(40))
    assert any("one ratio D/N" in warning for warning in identify(ScalingLaw().fit(table)).warnings)


def test_a_missing_floor_is_not_reported_as_a_value():
    x = np.geomspace(1e3, 1e6, 30)
    table = pd.DataFrame({"x": x, "loss": 12 * x**-0.2 * np.exp(0.02 * np.random.default_rng(3).standard_normal(30))})
    report = identify(ScalingLaw("power").fit(table))
    fitted = ScalingLaw("power").fit(table).parameters_["L_inf"]
    assert fitted > 0.01 or any("not identified" in warning for warning in report.warnings)
    curve = pd.DataFrame(
        {"x": x, "loss": 12 * x**-0.2 - 0.1}
    )  # bends below a straight line: the floor wants to be negative
    assert any("L_inf is not identified" in w for w in identify(ScalingLaw("power").fit(curve)).warnings)


def test_swapped_columns_are_noticed():
    table = simulate("chinchilla", noise=0.01).rename(columns={"N": "D", "D": "N"})
    assert any("swapped" in warning for warning in identify(ScalingLaw().fit(table)).warnings)


def test_a_floor_that_resampling_throws_about_is_not_a_value():
    x = np.geomspace(1e3, 3e4, 24)  # a decade and a half of a slow law
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"x": x, "loss": (1.0 + 9 * x**-0.15) * np.exp(0.01 * rng.standard_normal(24))})
    law = ScalingLaw("power").fit(table)
    report = identify(law, law.bootstrap(200))
    assert any("L_inf is not identified" in warning for warning in report.warnings)


def test_a_narrow_column_is_named():
    table = simulate("chinchilla", n=40, noise=0.005)
    table["D"] = 1e10 * (1 + 0.5 * np.random.default_rng(0).random(40))
    e, a, b, alpha, beta = TRUTH["chinchilla"]
    table["loss"] = e + a / table["N"] ** alpha + b / table["D"] ** beta
    assert any("D spans a factor of 1.5 only" in w for w in identify(ScalingLaw().fit(table)).warnings)
