from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from workbench.errors import UserError
from workbench.scaling.hyperparameters import RULES, HyperparameterLaw, by_cell, plateau, step_law

TRUE = {"lr": np.log(2), "lr_N": -0.7, "lr_D": 0.3, "B": np.log(0.5), "B_D": 0.55}


def grid(noise: float = 0.0, seed: int = 0, sizes=(1e5, 1e6, 1e7), budgets=(1e7, 1e8, 1e9)) -> pd.DataFrame:
    """Cells with a quadratic valley around lr = 2·N^−0.7·D^0.3, B = 0.5·D^0.55, on a grid that holds the optimum."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        for d in budgets:
            lr, batch = 2 * n**-0.7 * d**0.3, 0.5 * d**0.55
            for i in range(-3, 4):
                for j in range(-3, 4):
                    loss = 3.0 * np.exp(0.02 * (i**2 + 0.5 * j**2) + noise * rng.standard_normal())
                    rows.append({"n": n, "d": d, "lr": lr * 2**i, "batch_tokens": batch * 2**j, "loss": loss})
    return pd.DataFrame(rows)


def test_published_point():
    setting = step_law(7e9, 1.4e12, seq_len=2048)
    assert setting.lr == pytest.approx(9.166e-4, rel=1e-3)
    assert setting.batch_tokens == pytest.approx(4.999e6, rel=1e-3)
    assert setting.batch_sequences * 2048 == pytest.approx(setting.batch_tokens, rel=1e-12)
    assert setting.lr == pytest.approx(1.79 * 7e9**-0.713 * 1.4e12**0.307, rel=1e-12)


def test_noiseless_grid_returns_its_constants():
    law = HyperparameterLaw(tolerance=1e-6, samples=50).fit(grid())
    assert law.parameters_ == pytest.approx(TRUE, abs=1e-8)
    assert law.coefficients_ == pytest.approx(list(TRUE.values()), abs=1e-8)
    assert np.allclose(law.draws_, law.coefficients_, atol=1e-7)
    value, low, high = law.predict(1e8, 1e10)["lr"]
    assert value == pytest.approx(2 * 1e8**-0.7 * 1e10**0.3, rel=1e-8)
    assert low <= value * (1 + 1e-9) and high >= value * (1 - 1e-9)


def test_fit_is_ordinary_least_squares_on_the_runs_near_the_best():
    runs = grid(0.02)
    law = HyperparameterLaw(samples=10).fit(runs)
    near = runs[runs["loss"] <= runs.groupby(["n", "d"])["loss"].transform("min") * 1.0025]
    inside = [place not in law.edge_cells_ for place in zip(near["n"], near["d"], strict=True)]
    near = near[inside]
    x = np.column_stack([np.ones(len(near)), np.log(near["n"]), np.log(near["d"])])
    expected = np.linalg.solve(x.T @ x, x.T @ np.log(near["lr"]))
    assert law.coefficients_[:3] == pytest.approx(expected, rel=1e-6)
    assert law.n_runs_ == len(near)


def test_the_form_in_compute_is_recovered_too():
    runs = grid()
    c = 6 * runs["n"] * runs["d"]
    shift = (0.3 * c**-0.125) / (2 * runs["n"] ** -0.7 * runs["d"] ** 0.3)
    runs["lr"] *= shift
    law = HyperparameterLaw(tolerance=1e-6, form="compute", samples=20).fit(runs)
    assert list(law.parameters_) == ["lr", "lr_C", "B", "B_C"]
    assert law.parameters_["lr"] == pytest.approx(np.log(0.3), abs=1e-7)
    assert law.parameters_["lr_C"] == pytest.approx(-0.125, abs=1e-8)


def width(runs, **settings):
    _, low, high = HyperparameterLaw(samples=400, **settings).fit(runs).predict(1e6, 1e8)["lr"]
    return np.log(high / low)


def test_interval_shrinks_with_the_root_of_the_number_of_cells():
    few = [width(grid(0.02, seed, np.geomspace(1e5, 1e7, 4), np.geomspace(1e7, 1e9, 4))) for seed in range(6)]
    many = [width(grid(0.02, seed, np.geomspace(1e5, 1e7, 8), np.geomspace(1e7, 1e9, 8))) for seed in range(6)]
    assert np.median(few) / np.median(many) == pytest.approx(2, rel=0.35)


def test_copies_of_a_run_inside_a_cell_narrow_only_the_interval_that_draws_runs():
    runs = grid(0.02)
    bumped = pd.concat([runs.assign(batch_tokens=runs["batch_tokens"] * (1 + 1e-6 * k)) for k in range(4)])
    assert width(bumped) == pytest.approx(width(runs), rel=0.25)
    assert width(bumped, cluster="run") < 0.7 * width(runs, cluster="run")


def test_more_noise_widens_the_interval():
    assert width(grid(0.02)) > width(grid(0.002))


def test_constant_and_exponent_are_tied_in_the_draws():
    law = HyperparameterLaw(samples=500).fit(grid(0.02))
    constant, slope = law.draws_[:, 3], law.draws_[:, 4]
    assert np.corrcoef(constant, slope)[0, 1] < -0.95


def test_seeds_of_a_setting_are_averaged():
    runs = pd.concat([grid(0.02, seed).assign(seed=seed) for seed in range(3)])
    cells = dict(by_cell(runs))
    assert len(cells) == 9 and all(len(cell) == 49 for cell in cells.values())
    own = runs[(runs["n"] == 1e5) & (runs["d"] == 1e7)]
    assert cells[1e5, 1e7]["loss"].sum() == pytest.approx(own["loss"].sum() / 3)


def test_edge_cells_are_named_and_left_out():
    runs = grid()
    cell = (runs["n"] == 1e5) & (runs["d"] == 1e7)
    runs.loc[cell & (runs["lr"] == runs.loc[cell, "lr"].max()), "loss"] = 1.0
    law = HyperparameterLaw(tolerance=1e-6, samples=20).fit(runs)
    assert list(law.edge_cells_) == [(1e5, 1e7)]
    assert "highest rate" in law.edge_cells_[1e5, 1e7]
    assert law.n_cells_ == 8 and law.parameters_ == pytest.approx(TRUE, abs=1e-8)


def test_it_clones_and_lists_its_settings_like_an_estimator():
    law = HyperparameterLaw(tolerance=0.01, samples=7)
    assert clone(law).get_params() == law.get_params()


def test_plateau_finds_the_valley():
    cell = grid()[lambda t: (t["n"] == 1e6) & (t["d"] == 1e8)]
    found = plateau(cell, within=0.01, near=1.0)
    lr, batch = 2 * 1e6**-0.7 * 1e8**0.3, 0.5 * 1e8**0.55
    assert found.convex and found.runs == 49
    assert (found.lr, found.batch_tokens) == pytest.approx((lr, batch), rel=1e-6)
    assert found.loss == pytest.approx(3.0, rel=1e-6)
    assert found.eigenvalues == pytest.approx((0.02 / np.log(2) ** 2, 0.04 / np.log(2) ** 2), rel=1e-6)
    i, j = (np.log2(found.contour / [lr, batch])).T
    assert 0.02 * (i**2 + 0.5 * j**2) == pytest.approx(np.full(65, np.log(1.01)), rel=1e-6)


def test_a_saddle_is_no_valley_and_has_no_contour():
    cell = grid()[lambda t: (t["n"] == 1e6) & (t["d"] == 1e8)]
    saddle = cell.assign(loss=3 * np.exp(0.01 * (np.log(cell["lr"]) ** 2 - np.log(cell["batch_tokens"]) ** 2)))
    found = plateau(saddle, near=10)
    assert not found.convex and len(found.contour) == 0


def test_rules_are_positive_and_say_where_they_hold():
    for name, rule in RULES.items():
        setting = rule(1e9, 2e10, seq_len=2048, loss=2.5)
        assert rule.valid, name
        assert setting.lr is None or 0 < setting.lr < 0.1
        if setting.batch_tokens is not None:
            assert 1e4 < setting.batch_tokens < 1e8
            assert setting.batch_sequences == pytest.approx(setting.batch_tokens / 2048)


def test_rules_by_hand():
    c = 6 * 1e9 * 2e10
    deep = RULES["DeepSeek"](1e9, 2e10)
    assert (deep.lr, deep.batch_tokens) == pytest.approx((0.3118 * c**-0.125, 0.2920 * c**0.3271))
    assert RULES["OpenAI 2020"](1e9, 2e10).batch_tokens is None
    assert RULES["MiniCPM"](1e9, 2e10).batch_tokens is None
    assert RULES["MiniCPM"](1e9, 2e10, loss=2.0).batch_tokens == pytest.approx(1.21e9 / 2**6.24)
    assert RULES["Porian"](1e9, 2e10).lr == pytest.approx(3.7 * 1e9**-0.36)
    big = RULES["DeepSeek"](np.int64(10**12), np.int64(10**13))  # 6·N·D is above 2**63
    assert big.lr == pytest.approx(0.3118 * 6e25**-0.125)


def squeezed():
    """Every cell of the smallest size has its best run at the lowest batch."""
    runs = grid()
    lowest = runs["batch_tokens"] == runs.groupby(["n", "d"])["batch_tokens"].transform("min")
    return runs.assign(loss=runs["loss"].where(~(lowest & (runs["n"] == 1e5)), 1.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: step_law(0, 1e9), "positive"),
        (lambda: step_law(1e9, float("nan")), "positive"),
        (lambda: HyperparameterLaw().fit(pd.DataFrame({"n": [1], "d": [1]})), "lr, batch_tokens, loss"),
        (lambda: HyperparameterLaw().fit(grid()[lambda t: t["n"] == 1e6]), "1 model sizes and 3 token"),
        (
            lambda: HyperparameterLaw().fit(squeezed()),
            "2 model sizes.*N = 100000, D = 1e\\+07: .* lowest batch",
        ),
        (lambda: HyperparameterLaw().fit(grid().assign(loss=lambda t: t["loss"].where(t.index != 4, 0))), "Row 5 has"),
        (lambda: HyperparameterLaw().fit(grid().assign(lr="x")), "Row 1 has 'x' in lr; 441 rows"),
        (lambda: HyperparameterLaw(cluster="cel").fit(grid()), "cell"),
        (lambda: HyperparameterLaw(form="steps").fit(grid()), "step"),
        (lambda: HyperparameterLaw(samples=5).fit(grid()).predict(-1, 1e9), "positive"),
        (lambda: plateau(grid().iloc[:5]), "needs 7"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
