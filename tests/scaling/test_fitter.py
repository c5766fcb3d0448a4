from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares, minimize
from scipy.special import huber
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from workbench.errors import UserError
from workbench.scaling import engine
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.identification import identify
from workbench.scaling.laws import LAWS

from .conftest import TRUTH, simulate


def test_worked_example_by_hand():
    # L = 2 + 8/x at x = 1, 2, 4, 8 is 10, 6, 4, 3 exactly: the fit must return L_inf 2, a 8, alpha 1.
    table = pd.DataFrame({"x": [1.0, 2, 4, 8], "loss": [10.0, 6, 4, 3]})
    law = ScalingLaw("power").fit(table)
    assert law.parameters_ == pytest.approx({"L_inf": 2, "a": 8, "alpha": 1}, rel=1e-6)
    assert law.predict(pd.DataFrame({"x": [16.0]}))[0] == pytest.approx(2.5, rel=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_every_law_returns_its_constants_from_noiseless_runs(name):
    law = ScalingLaw(name).fit(simulate(name))
    assert list(law.parameters_.values()) == pytest.approx(TRUTH[name], rel=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_every_law_finds_an_optimum_that_a_library_cannot_improve(name):
    table = simulate(name, noise=0.01, seed=1)
    fitted = ScalingLaw(name, delta=1e-3).fit(table)
    law, y = fitted.law_, fitted.y_

    def objective(z):
        prediction = law.predict(fitted.x_, np.exp(z)[None])[0]
        r = np.log(prediction) - np.log(y) if law.log_residuals else prediction - y
        return huber(1e-3, r).sum() / fitted.objective_

    best = min(
        minimize(
            objective, np.log(fitted.vector_) + shake, method="Nelder-Mead", options={"maxiter": 3000, "fatol": 1e-12}
        ).fun
        for shake in (0.0, 1e-3)
    )
    assert objective(np.log(fitted.vector_)) == pytest.approx(1.0, rel=1e-9)
    assert best > 1 - 1e-6


def test_squared_objective_agrees_with_scipy():
    table = simulate("chinchilla", noise=0.01)
    law = ScalingLaw("chinchilla", objective="squared").fit(table)

    def residual(z):
        return np.log(law.law_.predict(law.x_, np.exp(z)[None])[0] / law.y_)

    other = least_squares(residual, np.log(TRUTH["chinchilla"]), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert law.objective_ == pytest.approx(other.cost, rel=1e-10)
    assert law.vector_ == pytest.approx(np.exp(other.x), rel=1e-4)


def test_published_optimum_of_the_shipped_points(chinchilla):
    law = ScalingLaw("chinchilla").fit(chinchilla)
    expected = {"A": 442.16, "B": 1271.81, "E": 1.78389, "alpha": 0.34263, "beta": 0.34200}
    assert {k: law.parameters_[k] for k in expected} == pytest.approx(expected, rel=2e-5)
    assert law.objective_ == pytest.approx(0.000840093, rel=1e-6)


def test_published_replication_of_the_chinchilla_figure(epoch):
    kept = epoch[epoch["loss"] < epoch["loss"].nlargest(5).min()]
    assert len(kept) == 240
    law = ScalingLaw("chinchilla").fit(kept)
    assert law.objective_ == pytest.approx(0.001018274018, rel=1e-9)
    expected = {"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.347311, "beta": 0.367172}
    assert {k: law.parameters_[k] for k in expected} == pytest.approx(expected, rel=2e-6)
    everything = ScalingLaw("chinchilla").fit(epoch)
    assert everything.objective_ == pytest.approx(0.001826011, rel=1e-6)
    assert everything.parameters_["B"] == pytest.approx(12846, rel=1e-4)


def test_all_starts_reach_the_same_optimum_and_the_fit_is_quick(chinchilla):
    law = ScalingLaw("chinchilla").fit(chinchilla)
    assert np.ptp(law.starts_) < 1e-9 * law.objective_
    assert min(ScalingLaw("chinchilla").fit(chinchilla).seconds_ for _ in range(3)) < 1.0  # 0.06 s on an idle core


def test_weights_act_like_repeated_rows():
    table = simulate("chinchilla", n=40, noise=0.01)
    weights = np.where(np.arange(40) < 10, 2.0, 1.0)
    weighted = ScalingLaw().fit(table, sample_weight=weights)
    doubled = ScalingLaw().fit(pd.concat([table, table.iloc[:10]]))
    assert weighted.vector_ == pytest.approx(doubled.vector_, rel=1e-6)


def test_quantile_leaves_the_asked_share_below():
    table = simulate("power", n=400, noise=0.05)
    law = ScalingLaw("power", objective="quantile", quantile=0.1, delta=1e-4).fit(table)
    below = np.mean(table["loss"] < law.predict(table))
    assert below == pytest.approx(0.1, abs=0.03)


def test_scikit_learn_manners():
    table = simulate("chinchilla", noise=0.005)
    law = ScalingLaw("chinchilla", delta=0.01)
    assert clone(law).get_params() == law.get_params()
    score = cross_val_score(law, table[["N", "D"]], table["loss"], cv=4)
    assert score.min() > 0.99


def test_arrays_and_a_law_object_work_like_a_table_and_a_name():
    table = simulate("chinchilla", noise=0.005)
    named = ScalingLaw().fit(table)
    law = ScalingLaw(LAWS["chinchilla"]).fit(table[["N", "D"]].to_numpy(), table["loss"])
    assert law.vector_ == pytest.approx(named.vector_)
    assert law.predict(table[["N", "D"]].to_numpy()) == pytest.approx(named.predict(table))
    assert clone(law).fit(table).vector_ == pytest.approx(named.vector_)
    search = GridSearchCV(ScalingLaw(), {"law": ["chinchilla", "densing"]}, cv=4).fit(table[["N", "D"]], table["loss"])
    assert search.best_params_ == {"law": "chinchilla"}


def test_a_fixed_constant_stays_and_the_rest_is_the_best_given_it():
    table = simulate("chinchilla", noise=0.01)
    free = ScalingLaw().fit(table)
    for name, value in (("E", 1.7), ("A", 300.0), ("beta", 0.4)):
        held = ScalingLaw(bounds={name: (value, value)}).fit(table)
        assert held.parameters_[name] == pytest.approx(value, rel=1e-9)
        assert held.objective_ > free.objective_
        i = held.law_.parameters.index(name)

        def objective(z, i=i, value=value, best=held.objective_):
            point = np.insert(z, i, np.log(value))
            r = np.log(free.law_.predict(free.x_, np.exp(point)[None])[0] / free.y_)
            return huber(1e-3, r).sum() / best

        start = np.delete(np.log(held.vector_), i)
        other = minimize(
            objective, start, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-12, "xatol": 1e-9}
        )
        assert other.fun > 1 - 1e-6


def test_a_bound_that_does_not_bind_changes_nothing_and_one_that_does_is_met():
    table = simulate("chinchilla", noise=0.01)
    free = ScalingLaw().fit(table)
    wide = ScalingLaw(bounds={"A": (1, 1e5), "alpha": (0.1, 0.9)}).fit(table)
    assert wide.vector_ == pytest.approx(free.vector_, rel=1e-5)
    tight = ScalingLaw(bounds={"E": (0, 1.5)}).fit(table)
    assert tight.parameters_["E"] == pytest.approx(1.5, rel=1e-9)
    assert any("E sits on its limit" in w for w in identify(tight).warnings)


def test_a_tiny_delta_gives_least_absolute_errors():
    table = simulate("power", n=41, noise=0.05)
    law = ScalingLaw("power", delta=1e-8).fit(table)
    base = np.log(law.vector_)
    best = np.abs(law.residuals()).sum()
    rng = np.random.default_rng(0)
    for _ in range(200):
        point = np.exp(base + 1e-3 * rng.standard_normal(3))
        assert np.abs(np.log(law.law_.predict(law.x_, point[None])[0] / law.y_)).sum() >= best * (1 - 1e-7)


def test_scaling_of_columns_changes_nothing_but_coefficients():
    table = simulate("chinchilla", noise=0.01)
    small = table.assign(N=table["N"] / 1e9, D=table["D"] / 1e9)
    a, b = ScalingLaw().fit(table), ScalingLaw().fit(small)
    assert a.objective_ == pytest.approx(b.objective_, rel=1e-12)
    assert a.parameters_["A"] == pytest.approx(b.parameters_["A"] * 1e9 ** a.parameters_["alpha"], rel=1e-6)


def test_gradient_of_the_objective_vanishes_at_the_optimum(chinchilla):
    law = ScalingLaw().fit(chinchilla)
    base = np.log(law.vector_)

    def value(z):
        r = np.log(law.law_.predict(law.x_, np.exp(z)[None])[0] / law.y_)
        return engine.Objective().rho(r)[0].sum()

    step = 1e-6
    slopes = [(value(base + step * e) - value(base - step * e)) / (2 * step) for e in np.eye(5)]
    assert np.abs(slopes).max() < 1e-8


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"N": [1e6] * 9, "tokens": [1e9] * 9, "loss": [3.0] * 9}), "missing: D"),
        (pd.DataFrame({"N": [1e6, 2e6, 3e6], "D": [1e9, 2e9, 3e9], "loss": [3.0, 2.9, 2.8]}), "at least 6"),
        (pd.DataFrame({"N": [1e6] * 9, "D": [1e9] * 9, "loss": [3.0] * 8 + [0.0]}), "Row 9"),
        (pd.DataFrame({"N": [1e6] * 8 + [np.nan], "D": [1e9] * 9, "loss": [3.0] * 9}), "Row 9"),
        (pd.DataFrame({"N": ["x"] + [1e6] * 8, "D": [1e9] * 9, "loss": [3.0] * 9}), "'x' in N"),
        (pd.DataFrame({"N": [1e6] * 9, "D": [1e9] * 9, "loss": [3.0] * 9}), "the table has 1"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(table, words):
    with pytest.raises(UserError, match=words):
        ScalingLaw("chinchilla").fit(table)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="chinchilla"):
        ScalingLaw("chinchila").fit(simulate("chinchilla"))
    with pytest.raises(UserError, match="huber"):
        ScalingLaw(objective="hubert").fit(simulate("chinchilla"))


def test_a_thousand_refits_take_about_as_long_as_a_few_single_fits(chinchilla):
    law = ScalingLaw().fit(chinchilla)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(chinchilla), np.full(len(chinchilla), 1 / len(chinchilla)), size=1000)
    begun = time.perf_counter()
    found = law.refit(weights)
    seconds = time.perf_counter() - begun
    assert seconds < 200 * law.seconds_
    one = ScalingLaw().fit(chinchilla, sample_weight=weights[0])
    assert found[0] == pytest.approx(one.vector_, rel=1e-4)
