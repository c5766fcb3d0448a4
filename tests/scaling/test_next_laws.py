"""The laws of the cards that come next fit the same engine: each published formula, its published constants, returned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from workbench.scaling import Law, ScalingLaw, Term
from workbench.scaling.laws import LAWS

RNG = np.random.default_rng(0)


def log_uniform(low: float, high: float, n: int = 60) -> np.ndarray:
    return np.exp(RNG.uniform(np.log(low), np.log(high), n))


def back(law: str, table: dict, loss: np.ndarray) -> dict[str, float]:
    return ScalingLaw(law).fit(pd.DataFrame({**table, "loss": loss})).parameters_


def test_mystery_of_scaling_step_by_step():
    # Constants of row 1 of the card. Loss levels give (S, B) pairs on a hyperbola; each level gives B_crit; the levels give
    # alpha_B and B_star; the joint law then takes S_min.
    alpha_n, n_c, alpha_s, s_c, alpha_b, b_star = 0.076, 1.5e14, 0.67, 2.6e3, 0.205, 1.7e8
    batches, levels = np.geomspace(2e4, 2e8, 12), np.array([2.6, 3.0, 3.5, 4.0, 4.6])
    found = []
    for level in levels:
        s_min = s_c * (level - (n_c / 1e9) ** alpha_n) ** (-1 / alpha_s)
        steps = s_min * (1 + b_star / level ** (1 / alpha_b) / batches)
        own = back("batch-exchange", {"B": batches}, steps)
        assert own["S_min"] == pytest.approx(s_min, rel=1e-6)
        found.append(own["E_min"] / own["S_min"])
    assert found[0] == pytest.approx(b_star / 2.6 ** (1 / alpha_b), rel=1e-6)
    critical = back("critical-batch", {"L": levels}, np.array(found))
    assert (critical["B_star"], 1 / critical["p"]) == pytest.approx((b_star, alpha_b), rel=1e-6)
    n, s = log_uniform(1e6, 6e7), log_uniform(1e3, 1e5)
    joint = back("kaplan-steps", {"N": n, "S": s}, (n_c / n) ** alpha_n + (s_c / s) ** alpha_s)
    assert joint["a"] ** (1 / joint["alpha_N"]) == pytest.approx(n_c, rel=1e-4)
    assert joint["b"] ** (1 / joint["alpha_S"]) == pytest.approx(s_c, rel=1e-5)
    size = back("pure-power", {"x": n}, (n_c / n) ** alpha_n)
    assert size["a"] ** (1 / size["alpha"]) == pytest.approx(n_c, rel=1e-6)


def test_critical_batch_check_value_of_the_card():
    law = LAWS["critical-batch"]
    assert law.predict({"L": np.array([2.5])}, np.array([[1.7e8, 1 / 0.205]]))[0, 0] == pytest.approx(1.9e6, rel=0.03)


def test_vocabulary():
    n, d, v = log_uniform(33, 1130), log_uniform(1, 300), log_uniform(1, 100)
    published = {"E": 5.53278, "A1": 1.83139, "A2": 0.195842, "B": 2.12411, "alpha1": 0.446606, "alpha2": 0.670737}
    loss = -5.53278 + 1.83139 / n**0.446606 + 0.195842 / v**0.670737 + 2.12411 / d**0.446606
    assert back("vocabulary", {"N": n, "N_v": v, "D": d}, loss) == pytest.approx(published, rel=1e-5)
    size = np.array([4096, 6144, 8192, 10240, 16384, 24576, 32768, 48128, 64512, 96256])
    ratio = 0.00639222 * np.log(size) ** 2 - 0.15811069 * np.log(size) + 1.20470122
    assert back("token-ratio", {"V": size}, ratio) == pytest.approx(
        {"a": 0.00639222, "b": 0.15811069, "c": 1.20470122}, rel=1e-5
    )
    flops = np.geomspace(1e17, 1e20, 12)
    envelope = back("growth", {"x": flops}, np.exp(-1.58903) * flops**0.416362)
    assert (np.log(envelope["a"]), envelope["beta"]) == pytest.approx((-1.58903, 0.416362), rel=1e-6)


def test_densing_law():
    n, d = log_uniform(5e6, 8e8), log_uniform(5e7, 5e10)
    loss = 40 / n**0.17 + 60 / d**0.19
    found = back("densing", {"N": n, "D": d}, loss)
    assert found == pytest.approx({"a": 40, "b": 60, "alpha": 0.17, "beta": 0.19}, rel=1e-4)
    task = np.linspace(0.4, 4.0, 40)
    score = 0.25 + 0.62 / (1 + np.exp(2.4 * (task - 1.6)))
    found = back("loss-to-score", {"L": task}, score)
    assert found == pytest.approx({"d": 0.25, "c": 0.62, "gamma": 2.4, "l": 1.6}, rel=1e-5)
    days = np.arange(1.0, 700, 25)
    trend = back("trend", {"t": days}, 0.35 * np.exp(0.0073 * days))
    assert np.log(2) / trend["rate"] == pytest.approx(94.95, abs=0.01)


def test_nmt_scaling():
    sides = np.array([(e, d) for e in (2e7, 1e8, 5e8) for d in (3e7, 1e8, 4e8)], dtype=float)
    base = (1e8, 1e8)
    loss = 1.1 + 0.9 * (base[0] / sides[:, 0]) ** 0.18 * (base[1] / sides[:, 1]) ** 0.31
    found = back("bivariate", {"N_e": sides[:, 0], "N_d": sides[:, 1]}, loss)
    assert (found["L_inf"], found["p_e"], found["p_d"]) == pytest.approx((1.1, 0.18, 0.31), rel=1e-5)
    assert found["a"] / (base[0] ** 0.18 * base[1] ** 0.31) == pytest.approx(0.9, rel=1e-4)  # alpha of the baseline
    bleu = back("pure-power", {"x": loss}, 38 * loss**-0.8)
    assert bleu == pytest.approx({"a": 38, "alpha": 0.8}, rel=1e-6)


def test_autoregressive_scaling():
    x = np.geomspace(1e4, 1e9, 24)
    found = back("power", {"x": x}, 3.12 + (1.9e3 / x) ** 0.24)
    assert (found["L_inf"], found["alpha"], found["a"] ** (1 / found["alpha"])) == pytest.approx(
        (3.12, 0.24, 1.9e3), rel=1e-4
    )
    best = back("growth", {"x": np.geomspace(1e-6, 1e2, 9)}, 2.8e8 * np.geomspace(1e-6, 1e2, 9) ** 0.7)
    assert best == pytest.approx({"a": 2.8e8, "beta": 0.7}, rel=1e-6)
    gain = back("gain", {"x": x[4:]}, 0.11 * np.log(x[4:] / 2e4))
    assert (gain["lambda"], np.exp(gain["c"] / gain["lambda"])) == pytest.approx((0.11, 2e4), rel=1e-5)


def test_parallel_scaling_and_the_form_it_rejects():
    n = np.repeat(np.geomspace(5e8, 4e9, 6), 4)
    p = np.tile([1.0, 2, 4, 8], 6)
    loss = 1.28859 + (1.9752e8 / (n * (0.33444 * np.log(p) + 1))) ** 0.19628
    found = back("parscale", {"N": n, "P": p}, loss)
    assert (found["E"], found["alpha"], found["k"]) == pytest.approx((1.28859, 0.19628, 0.33444), rel=1e-5)
    power = back("parscale-power", {"N": n, "P": p}, 1.29 + 42 / (n * p**0.3) ** 0.2)
    assert power["kappa"] / power["alpha"] == pytest.approx(0.3, rel=1e-5)
    rival = ScalingLaw("parscale-power").fit(pd.DataFrame({"N": n, "P": p, "loss": loss}))
    own = ScalingLaw("parscale").fit(pd.DataFrame({"N": n, "P": p, "loss": loss}))
    assert own.objective_ < 1e-6 * rival.objective_


def test_token_crisis_repeated_data():
    n, u = log_uniform(1e7, 3e9, 90), log_uniform(1e8, 1e10, 90)
    d = u * log_uniform(0.3, 60, 90)  # from a third of an epoch to sixty
    again = np.maximum(d / u - 1, 0)
    worth = np.minimum(u, d) * (1 + 15.4 * (1 - np.exp(-again / 15.4)))
    loss = 1.87 + 521 / n**0.353 + 1488 / worth**0.36
    found = back("data-constrained", {"N": n, "D": d, "U": u}, loss)
    assert (found["E"], found["alpha"], found["beta"], found["R"]) == pytest.approx((1.87, 0.353, 0.36, 15.4), rel=1e-4)


def test_a_law_of_your_own_is_a_declaration_of_three_lines():
    depth = Law(
        "depth", "L = E + A/width^a + B/depth^b", ("width", "depth"),
        (Term("E"), Term("A", {"width": "a"}), Term("B", {"depth": "b"})), {"a": (0.01, 2.0), "b": (0.01, 2.0)},
    )  # fmt: skip
    width, layers = log_uniform(64, 4096), log_uniform(2, 60)
    table = pd.DataFrame({"width": width, "depth": layers, "loss": 1.9 + 30 / width**0.6 + 1.2 / layers**0.9})
    law = ScalingLaw(depth).fit(table)
    assert law.parameters_ == pytest.approx({"E": 1.9, "A": 30, "B": 1.2, "a": 0.6, "b": 0.9}, rel=1e-4)
    low, high = (
        ScalingLaw(depth).fit(table.assign(loss=table["loss"] * log_uniform(0.99, 1.01))).bootstrap(50).interval("a")
    )
    assert low < 0.6 < high


def test_the_whole_loss_curve_of_a_batch_follows_from_the_three_constants():
    # Formula 5 of the card: the loss at any batch is the root of g; the steps of that loss are those of the hyperbola.
    alpha_n, n_c, alpha_s, s_c, alpha_b, b_star, n, batch = 0.076, 1.5e14, 0.67, 2.6e3, 0.205, 1.7e8, 5e7, 5e5

    def at(steps: float) -> float:
        def g(loss):
            return (
                loss - (n_c / n) ** alpha_n - (s_c * (1 + b_star * loss ** (-1 / alpha_b) / batch) / steps) ** alpha_s
            )

        return brentq(g, (n_c / n) ** alpha_n, 100, xtol=1e-14)

    steps = np.geomspace(2e3, 1e5, 20)
    losses = np.array([at(s) for s in steps])
    s_min = steps / (1 + b_star * losses ** (-1 / alpha_b) / batch)
    found = back("kaplan-steps", {"N": np.repeat([n, 2 * n], 20), "S": np.tile(s_min, 2)},
                 np.concatenate([losses, losses - (n_c / n) ** alpha_n + (n_c / (2 * n)) ** alpha_n]))  # fmt: skip
    assert (found["alpha_N"], found["alpha_S"]) == pytest.approx((alpha_n, alpha_s), rel=1e-4)
