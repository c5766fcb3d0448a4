"""The WSD ladder: its plan and cost by hand, the published constants, the fit on planted losses, parity with the planner."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import UserError
from workbench.scaling import ScalingLaw
from workbench.scaling.planner import compute_optimal
from workbench.scaling.wsd_ladder import Ratio, data_model_ratio, ladder, optimum, saved

TABLE = {  # domain: (C_N, alpha, C_D, beta), D/N at 1e21 FLOP computed from these rounded constants
    "average": ((7.15e-2, 0.29, 3.00e-1, 0.23), 183.9),
    "code": ((3.32e-2, 0.37, 2.17e-1, 0.34), 193.7),
    "Ultratext": ((7.54e-2, 0.30, 2.92e-1, 0.30), 91.2),
}
SIZES = {"9M": 9_000_000, "30M": 30_000_000, "170M": 170_000_000, "0.5B": 500_000_000}


def named(constants):
    return dict(zip(("C_N", "alpha", "C_D", "beta"), constants, strict=True))


@pytest.mark.parametrize(("constants", "ratio"), TABLE.values(), ids=TABLE)
def test_ratios_of_the_published_constants(constants, ratio):
    assert data_model_ratio(named(constants), 1e21).value == pytest.approx(ratio, abs=0.05)


def test_constants_of_the_average_row():
    k2, eta = optimum(*TABLE["average"][0])
    assert k2 == pytest.approx(0.0098, abs=5e-5)
    assert eta == pytest.approx(-0.06 / 0.52)
    # Counting N and D in billions but C/6 in units would miss this factor, and nobody would notice:
    assert (1e18) ** abs(eta) == pytest.approx(119, rel=0.01)


def planted(name, plan):
    """Losses of the average row, exactly."""
    c_n, alpha, c_d, beta = TABLE["average"][0]
    return [0.31 + c_n * (SIZES[name] / 1e9) ** -alpha + c_d * (end / 1e9) ** -beta for _, end in plan]


def test_plan_and_cost_by_hand():
    seen = {}

    def run(name, plan):
        seen[name] = plan
        return [1.0] * len(plan)

    table = ladder({"a": 1000}, [10, 40, 20], run, tokens_per_step=100)
    assert seen["a"] == [(9_000, 10_000), (18_000, 20_000), (36_000, 40_000)]
    assert list(table["trained"]) == [10_000, 11_000, 22_000]  # 9000 plateau + 1000; 9000 + 2000; 18000 + 4000
    assert saved(table) == pytest.approx(43 / 70)
    assert list(table["D"]) == [1e-5, 2e-5, 4e-5] and set(table["N"]) == {1e-6}


def test_the_fit_of_planted_losses_returns_the_constants_and_the_ratio():
    table = ladder(SIZES, [10, 20, 40, 60], planted)
    law = ScalingLaw("minicpm", objective="squared").fit(table)
    assert law.parameters_ == pytest.approx({**named(TABLE["average"][0]), "L0": 0.31}, rel=1e-3)
    found = data_model_ratio(law, 1e18)
    n, d, _ = compute_optimal(law, 1e18)
    assert found.value == pytest.approx(d[0] / n[0], rel=1e-9)
    assert found.decades_beyond == 0 and np.isnan(found.low)


def test_interval_and_extrapolation_are_said():
    noise = np.random.default_rng(0)
    table = ladder(SIZES, [10, 20, 40, 60], planted)
    table["loss"] *= np.exp(noise.normal(0, 0.002, len(table)))
    law = ScalingLaw("minicpm", objective="squared").fit(table)
    draws = law.bootstrap(50).samples
    far = data_model_ratio(law, 6 * 5e8 * 3e10 * 1000, draws)
    assert far.low < far.value < far.high
    assert far.decades_beyond == pytest.approx(3)
    assert "3.0 decades beyond" in str(far)
    assert data_model_ratio(law, 6 * 9e6 * 9e7 / 100).decades_beyond == pytest.approx(2)
    assert str(Ratio(192.0, 96.0, 834.0, 0.0)) == "192 tokens per parameter (96 to 834)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ladder({"a": 100}, [10, 20], planted, warmup_tokens=900), "inside the warm-up of 900"),
        (lambda: ladder({"a": 100}, [10, 10], planted), "two different ratios"),
        (lambda: ladder({"a": 100}, [10, 20], planted, decay_share=1), "decay_share"),
        (lambda: data_model_ratio(named(TABLE["code"][0]), 0), "above 0 FLOP"),
        (lambda: data_model_ratio({"C_N": 1}, 1), "missing: alpha, C_D, beta"),
        (lambda: optimum(1, 0, 1, 1), "above 0"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
