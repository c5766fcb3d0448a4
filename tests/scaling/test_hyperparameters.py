from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.scaling.hyperparameters import RULES, HyperparameterLaw, plateau, step_law


def grid(noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Cells with a quadratic valley around lr = 2·N^−0.7·D^0.3, B = 0.5·D^0.55, on a grid that holds the optimum."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in (1e5, 1e6, 1e7):
        for d in (1e7, 1e8, 1e9):
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
    assert setting.batch_sequences * 2048 == pytest.approx(setting.batch_tokens)


def test_noiseless_grid_returns_its_constants():
    law = HyperparameterLaw(tolerance=1e-6, samples=50).fit(grid())
    assert law.coefficients_ == pytest.approx([np.log(2), -0.7, 0.3, np.log(0.5), 0.55], abs=1e-8)
    value, low, high = law.predict(1e8, 1e10)["lr"]
    assert value == pytest.approx(2 * 1e8**-0.7 * 1e10**0.3, rel=1e-8)
    assert low <= value * (1 + 1e-9) and high >= value * (1 - 1e-9)


def test_more_noise_widens_the_interval():
    def width(noise):
        _, low, high = HyperparameterLaw(samples=200).fit(grid(noise)).predict(1e8, 1e10)["lr"]
        return np.log(high / low)

    assert width(0.02) > width(0.002)


def test_edge_cells_are_named_and_left_out():
    runs = grid()
    cell = (runs["n"] == 1e5) & (runs["d"] == 1e7)
    runs.loc[cell & (runs["lr"] == runs.loc[cell, "lr"].max()), "loss"] = 1.0
    law = HyperparameterLaw(samples=20).fit(runs)
    assert law.edge_cells_ == [(1e5, 1e7)]


def test_plateau_finds_the_valley():
    cell = grid()[lambda t: (t["n"] == 1e6) & (t["d"] == 1e8)]
    found = plateau(cell, within=1.0)
    assert found.convex
    assert found.lr == pytest.approx(2 * 1e6**-0.7 * 1e8**0.3, rel=1e-6)
    assert found.loss == pytest.approx(3.0, rel=1e-6)
    saddle = cell.assign(loss=3 * np.exp(0.01 * (np.log(cell["lr"]) ** 2 - np.log(cell["batch_tokens"]) ** 2)))
    assert not plateau(saddle, within=10).convex


def test_rules_are_positive_and_say_where_they_hold():
    for rate, validity in RULES.values():
        assert 0 < rate(1e9, 2e10) < 0.1 and validity


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: step_law(0, 1e9), "positive"),
        (lambda: HyperparameterLaw().fit(pd.DataFrame({"n": [1], "d": [1]})), "lr, batch_tokens, loss"),
        (lambda: HyperparameterLaw().fit(grid()[lambda t: t["n"] == 1e6]), "1 sizes"),
        (lambda: plateau(grid().iloc[:5]), "needs 7"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
