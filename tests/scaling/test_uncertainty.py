from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import least_squares

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.uncertainty import bootstrap, interval, profile, profile_interval

from .conftest import TRUTH, simulate


def test_published_bootstrap_of_the_chinchilla_figure(epoch):
    kept = epoch[epoch["loss"] < epoch["loss"].nlargest(5).min()]
    boot = ScalingLaw().fit(kept).bootstrap(1000)
    published = {
        "A": (116, 0.15),
        "B": (1425, 0.15),
        "E": (0.0262, 0.15),
        "alpha": (0.0146, 0.12),
        "beta": (0.0207, 0.12),
    }
    for name, (value, tolerance) in published.items():
        assert boot.samples[:, boot.names.index(name)].std() == pytest.approx(value, rel=tolerance)
    low, high = boot.of(lambda p: p[:, 4] / (p[:, 3] + p[:, 4]))
    assert (low, high) == pytest.approx((0.48, 0.56), abs=0.01)


def test_bca_agrees_with_scipy():
    rng = np.random.default_rng(0)
    data = rng.exponential(size=60)
    library = stats.bootstrap((data,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(1))
    picks = rng.integers(0, 60, (4000, 60))
    jackknife = (data.sum() - data) / 59
    low, high = interval(data[picks].mean(axis=1), data.mean(), jackknife, 0.95, "bca")
    assert (low, high) == pytest.approx(tuple(library.confidence_interval), rel=0.03)


def test_nominal_95_percent_covers_the_truth_as_often_as_it_says():
    inside = 0
    trials = 120
    for seed in range(trials):
        table = simulate("power", n=60, noise=0.02, seed=seed)
        low, high = ScalingLaw("power", objective="squared").fit(table).bootstrap(300, seed=seed).interval("alpha")
        inside += low <= TRUTH["power"][2] <= high
    # Binomial noise of 120 trials around 95 % is ± 4 points; the full study of 2,000 is tests/bench/bench_coverage.py.
    assert 0.88 <= inside / trials <= 0.99


def test_checkpoints_of_one_run_are_not_independent():
    table = simulate("power", n=12, noise=0.05)
    runs = pd.concat([table] * 20, ignore_index=True)  # twenty near-copies of each run, as checkpoints would be
    law = ScalingLaw("power").fit(runs)
    rows = law.bootstrap(300).interval("alpha")
    grouped = law.bootstrap(300, groups=np.tile(np.arange(12), 20)).interval("alpha")
    assert grouped[1] - grouped[0] > 3 * (rows[1] - rows[0])


def test_joint_region_follows_the_correlation():
    boot = ScalingLaw().fit(simulate("chinchilla", noise=0.01)).bootstrap(400)
    outline = np.log(boot.region("A", "alpha"))
    assert np.corrcoef(outline.T)[0, 1] > 0.9  # a larger coefficient goes with a larger exponent


def test_band_holds_the_curve_and_widens_away_from_the_data():
    table = simulate("chinchilla", noise=0.01)
    law = ScalingLaw().fit(table)
    boot = law.bootstrap(400)
    far = pd.DataFrame({"N": [1e9, 1e13], "D": [2e10, 2e14]})
    low, high = boot.predict(far)
    value = law.predict(far)
    assert (low <= value).all() and (value <= high).all()
    assert (high - low)[1] > 2 * (high - low)[0]


def test_profile_is_zero_at_the_fit_and_rises_on_both_sides():
    law = ScalingLaw(objective="squared").fit(simulate("chinchilla", noise=0.01))
    for name in ("alpha", "E"):
        best = law.parameters_[name]
        left, middle, right = profile(law, name, np.array([best * 0.95, best, best * 1.05]))
        assert middle == pytest.approx(0, abs=1e-6)
        assert left > 0.1 and right > 0.1


def test_profile_of_a_coefficient_agrees_with_a_general_minimizer():
    law = ScalingLaw(objective="squared").fit(simulate("chinchilla", noise=0.01))
    for name in ("A", "E"):
        i = law.law_.parameters.index(name)
        value = law.vector_[i] * 1.04

        def squares(z, i=i, value=value):
            point = np.insert(np.exp(z), i, value)
            return np.log(law.law_.predict(law.x_, point[None])[0] / law.y_)

        found = least_squares(squares, np.delete(np.log(law.vector_), i), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        expected = len(law.y_) * np.log(found.cost / law.objective_)
        assert profile(law, name, np.array([value]))[0] == pytest.approx(expected, rel=1e-4)


def test_profile_interval_of_a_line_is_that_of_the_normal_theory():
    # ln L = ln a − alpha ln x + noise is a linear model: the profile interval is known in closed form.
    table = simulate("pure-power", n=60, noise=0.03)
    law = ScalingLaw("pure-power", objective="squared").fit(table)
    low, high = profile_interval(law, "alpha")
    x = np.log(table["x"]) - np.log(table["x"]).mean()
    rss = 2 * law.objective_
    half = np.sqrt(np.expm1(stats.chi2.ppf(0.95, 1) / 60) * rss / (x**2).sum())
    assert (low, high) == pytest.approx((law.parameters_["alpha"] - half, law.parameters_["alpha"] + half), rel=2e-3)


def test_a_constant_without_a_lower_end_says_so():
    x = np.geomspace(1e3, 1e6, 30)  # no floor in these data
    table = pd.DataFrame({"x": x, "loss": 12 * x**-0.2 * np.exp(0.02 * np.random.default_rng(3).standard_normal(30))})
    law = ScalingLaw("power", objective="squared").fit(table)
    if law.parameters_["L_inf"] > 1e-3:
        assert profile_interval(law, "L_inf")[0] == 0.0


def test_resamples_can_be_shared_with_a_second_law():
    table = simulate("power", n=30, noise=0.02)
    law = ScalingLaw("power").fit(table)
    boot = bootstrap(law, 50, groups=np.repeat(np.arange(10), 3), units="cell")
    assert boot.units == "cell" and boot.weights.shape == (50, 30) and len(boot.jackknife) == 10
    assert (boot.weights.reshape(50, 10, 3) == boot.weights.reshape(50, 10, 3)[:, :, :1]).all()
    again = law.refit(boot.weights)
    assert again == pytest.approx(boot.samples)


def test_a_floor_that_the_fit_lost_comes_back_in_resamples_that_want_it():
    x = np.geomspace(1e3, 1e6, 40)
    loss = 0.4 + 9 * x**-0.2
    loss[-8:] *= np.linspace(0.99, 0.85, 8)  # eight runs that bend down: with them the best fit has no floor
    law = ScalingLaw("power", objective="squared").fit(pd.DataFrame({"x": x, "loss": loss}))
    assert law.parameters_["L_inf"] < 1e-9
    weights = np.ones((2, 40))
    weights[1, -8:] = 0
    found = law.refit(weights)
    assert found[0] == pytest.approx(law.vector_, rel=1e-4, abs=1e-9)
    assert found[1] == pytest.approx([0.4, 9, 0.2], rel=1e-4)


def test_few_runs_get_a_range_not_an_interval():
    law = ScalingLaw("power").fit(simulate("power", n=6, noise=0.01))
    boot = law.bootstrap(200)
    low, high = boot.interval("alpha", method="leave-one-out")
    assert low == boot.jackknife[:, 2].min() and high == boot.jackknife[:, 2].max() and low < high


def test_refusals():
    law = ScalingLaw("power").fit(simulate("power", noise=0.01))
    with pytest.raises(UserError, match="one group"):
        law.bootstrap(200, groups=np.zeros(80))
    with pytest.raises(UserError, match="80 runs and 3 group labels"):
        law.bootstrap(200, groups=np.arange(3))
    with pytest.raises(UserError, match="positive in every law"):
        profile(law, "alpha", np.array([-0.1]))
    with pytest.raises(UserError, match="at least 200"):
        law.bootstrap(3)
    with pytest.raises(UserError, match="alpha"):
        law.bootstrap(20).interval("alhpa")
