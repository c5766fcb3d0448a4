"""Scaling-law fits against the published procedures of three peers, each to the same objective, in one process.

Every procedure is written here from its description; a sample of its starts is timed, interleaved with ours so that a busy
machine slows both, and the total extrapolated. The best objective of the sample stands beside ours: a fit that stops early is
not the same result, so the share of starts that reach our optimum (within 1e-6) is printed too.

- *reference* (Hoffmann et al. 2022 appendix D.3; Besiroglu et al. 2024): Σ Huber(ln L̂ − ln L), δ = 1e-3, L-BFGS-B with numeric
  gradients from 4500 starts (ln A, ln B ∈ 0…25 step 5; ln E −1…1 step .5; α, β 0…2 step .5).
- *envelope* (PyPI `chinchilla` 0.2.0, its default): Σ |L̂ − L|, ten times dearer below, BFGS with numeric gradients from a grid
  of 5⁵ = 3125 starts (ln A, ln B 1…10, ln E 0.1…1, α, β 0.1…0.7).
- *over-training* (mlfoundations/scaling): scipy `curve_fit` on the five runs from 128 starts.

    python tests/bench/bench_fit.py [STARTS]                    24 starts: about 40 seconds
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeWarning, curve_fit, minimize
from scipy.special import huber, logsumexp

from workbench import machine
from workbench.paths import assets
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.gadre import five_runs, load_gadre


def reference_starts() -> np.ndarray:
    """The 4500 published starting points (ln A, ln B, ln E, α, β)."""
    coefficient, floor, exponent = np.arange(0, 26, 5.0), np.arange(-1, 1.01, 0.5), np.arange(0, 2.01, 0.5)
    return np.array(list(itertools.product(coefficient, coefficient, floor, exponent, exponent)))


def envelope_starts() -> np.ndarray:
    """A grid of 5⁵ starting points (ln A, ln B, ln E, α, β)."""
    axes = [np.linspace(*ends, 5) for ends in ((1, 10), (1, 10), (0.1, 1), (0.1, 0.7), (0.1, 0.7))]
    return np.array(list(itertools.product(*axes)))


def overtraining_starts() -> np.ndarray:
    """The 128 published starting points (p, q, h, E)."""
    scales = (100.0, 300.0, 1000.0, 3000.0)
    return np.array(list(itertools.product(scales, scales, (0.1, 0.3), (0.0, 1.0, 2.0, 10.0))))


def chinchilla_law(table: pd.DataFrame) -> tuple[Callable, np.ndarray]:
    """(z → ln L̂, ln L) of the Chinchilla law."""
    log_n, log_d, log_l = (np.log(table[c].to_numpy()) for c in ("N", "D", "loss"))

    def logs(z: np.ndarray) -> np.ndarray:
        return logsumexp(np.stack([z[0] - z[3] * log_n, z[1] - z[4] * log_d, np.full_like(log_n, z[2])]), axis=0)

    return logs, log_l


def race(name: str, starts: np.ndarray, count: int, theirs: Callable, ours: Callable) -> None:
    """Time `count` of the starts against as many whole fits of ours; `theirs` and `ours` return the objective reached."""
    chosen = starts[np.random.default_rng(0).choice(len(starts), min(count, len(starts)), replace=False)]
    spent, values, own, best = [], [], [], []
    for start in chosen:
        begun = time.perf_counter()
        values.append(theirs(start))
        spent.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        best.append(ours())
        own.append(time.perf_counter() - begun)
    whole, mine = float(np.mean(spent)) * len(starts), float(np.median(own))
    reached = float(np.mean(np.array(values) <= best[0] * (1 + 1e-6)))
    print(
        f"{name}: {len(starts)} starts, {np.median(spent) * 1e3:.1f} ms each, {whole:.1f} s in all, best {min(values):.9g}"
    )
    print(
        f"    ours {mine * 1e3:.1f} ms, {best[0]:.9g}, which {reached:.0%} of their starts reach; {whole / mine:,.0f} times"
    )


def main(count: int = 24) -> None:
    warnings.simplefilter("ignore", OptimizeWarning)
    warnings.simplefilter("ignore", RuntimeWarning)
    print(f"machine        {machine.describe()['machine']}")
    table = pd.read_csv(assets() / "scaling" / "chinchilla.csv")
    logs, log_l = chinchilla_law(table)
    race(
        "reference", reference_starts(), count,
        lambda start: minimize(lambda z: huber(1e-3, logs(z) - log_l).sum(), start, method="L-BFGS-B").fun,
        lambda: ScalingLaw().fit(table).objective_,
    )  # fmt: skip

    def above(r: np.ndarray) -> float:
        return float(np.where(r > 0, 10 * r, -r).sum())

    settings = {"objective": "quantile", "quantile": 1 / 11, "delta": 1e-6, "log_residuals": False}
    race(
        "envelope", envelope_starts(), count,
        lambda start: minimize(lambda z: above(np.exp(logs(z)) - table["loss"].to_numpy()), start, method="BFGS").fun,
        lambda: above(ScalingLaw(**settings).fit(table).residuals()),
    )  # fmt: skip
    five = five_runs(load_gadre("redpajama"))
    n, m, loss = five["N"].to_numpy(), (five["D"] / five["N"]).to_numpy(), five["loss"].to_numpy()

    def overtrained(_: np.ndarray, p: float, q: float, h: float, e: float) -> np.ndarray:
        return e + p * n**-h + q * 6 ** (-h / 2) * (m * n) ** -h

    def from_start(start: np.ndarray) -> float:
        try:
            found, _ = curve_fit(overtrained, n, loss, p0=start, maxfev=10_000)
        except RuntimeError:  # it gives up after 10,000 evaluations; the published script goes on
            return np.inf
        return float(((overtrained(n, *found) - loss) ** 2).sum() / 2)

    law = ScalingLaw("overtraining", objective="squared", log_residuals=False)
    race("over-training", overtraining_starts(), count, from_start, lambda: law.fit(five).objective_)
    fitted = ScalingLaw().fit(table)
    begun = time.perf_counter()
    fitted.bootstrap(1000)
    print(f"1000 bootstraps of {len(table)} runs {time.perf_counter() - begun:6.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
