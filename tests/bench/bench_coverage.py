"""How often a 95 % bootstrap interval holds the truth, on simulated runs (nominal 95 %: 92 to 98 % is right).

Each scenario simulates runs of a law with known constants, ln-normal noise of 2 %, fits it and resamples it; "prediction" is
the law's value at ten times the largest runs. The last scenario has 15 cells of 4 seeds with a common error per cell and
resamples cells; resampling its rows instead is shown beside it.

    python tests/bench/bench_coverage.py [TRIALS] [SCENARIO ...]          240 trials of everything: about 8 minutes on one core
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.scaling.conftest import TRUTH, simulate
from workbench.scaling.fitter import ScalingLaw

SCENARIOS = {  # name: law, runs, objective, parameters watched
    "power": ("power", 60, "squared", ("alpha", "L_inf")),
    "power-few": ("power", 16, "squared", ("alpha", "L_inf")),
    "chinchilla": ("chinchilla", 120, "squared", ("alpha", "E")),
    "chinchilla-huber": ("chinchilla", 120, "huber", ("alpha", "E")),
    "overtraining": ("overtraining", 80, "squared", ("h", "E")),
    "cells": ("power", 60, "squared", ("alpha", "L_inf")),
}
METHODS = ("percentile", "bca")


def runs_of(scenario: str, law: str, n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray | None]:
    """(table, cell of each row or None)."""
    if scenario != "cells":
        return simulate(law, n=n, noise=0.02, seed=seed), None
    cells = simulate(law, n=15, seed=seed)
    rng = np.random.default_rng(10_000 + seed)
    table = cells.loc[np.repeat(np.arange(15), 4)].reset_index(drop=True)
    cell = np.repeat(np.arange(15), 4)
    table["loss"] *= np.exp(0.02 * rng.standard_normal(15)[cell] + 0.005 * rng.standard_normal(60))
    return table, cell


def watch(scenario: str, trials: int) -> None:
    """Print the coverage of one scenario."""
    name, n, objective, parameters = SCENARIOS[scenario]
    truth = dict(zip(ScalingLaw(name)._law().parameters, TRUTH[name], strict=True))
    hits: dict[tuple[str, str], int] = {}
    begun = time.process_time()
    for seed in range(trials):
        table, cell = runs_of(scenario, name, n, seed)
        law = ScalingLaw(name, objective=objective).fit(table)
        ahead = pd.DataFrame([{c: table[c].max() * 10 for c in law.law_.columns}])
        x = {c: ahead[c].to_numpy() for c in law.law_.columns}
        exact = float(law.law_.predict(x, np.array([list(truth.values())]))[0, 0])
        boots = {"": law.bootstrap(400, seed=seed, groups=cell)}
        if cell is not None:
            boots[" by rows"] = law.bootstrap(400, seed=seed)
        for kind, boot in boots.items():
            for method in METHODS:
                for parameter in parameters:
                    low, high = boot.interval(parameter, method=method)
                    key = (parameter, method + kind)
                    hits[key] = hits.get(key, 0) + (low <= truth[parameter] <= high)
                low, high = boot.of(lambda p, x=x, law=law: law.law_.predict(x, p)[:, 0], method=method)
                key = ("prediction", method + kind)
                hits[key] = hits.get(key, 0) + (low <= exact <= high)
    error = 1.96 * np.sqrt(0.95 * 0.05 / trials)
    spent = time.process_time() - begun
    print(f"{scenario}: {name}, {n} runs, {objective} ({trials} trials, ± {error:.1%}, {spent:.0f} s)")
    for parameter in (*parameters, "prediction"):
        shown = "   ".join(f"{method} {count / trials:.1%}" for (p, method), count in hits.items() if p == parameter)
        print(f"    {parameter:11} {shown}", flush=True)


def main(trials: int = 240, *scenarios: str) -> None:
    for scenario in scenarios or SCENARIOS:
        watch(scenario, trials)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
