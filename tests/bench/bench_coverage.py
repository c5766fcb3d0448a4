"""How often the 95 % bootstrap interval of an exponent holds the truth, on simulated runs (nominal 95 %: 92–98 % is right).

python tests/bench/bench_coverage.py [TRIALS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.scaling.conftest import TRUTH, simulate
from workbench.scaling.fitter import ScalingLaw


def main(trials: int = 400) -> None:
    for name, parameter, n in (("power", "alpha", 60), ("chinchilla", "alpha", 120), ("overtraining", "h", 80)):
        index = ScalingLaw(name)._law().parameters.index(parameter)
        truth = TRUTH[name][index]
        hits = {"percentile": 0, "bca": 0}
        for seed in range(trials):
            law = ScalingLaw(name, objective="squared").fit(simulate(name, n=n, noise=0.02, seed=seed))
            boot = law.bootstrap(400, seed=seed)
            for method in hits:
                low, high = boot.interval(parameter, method=method)
                hits[method] += low <= truth <= high
        error = 1.96 * np.sqrt(0.95 * 0.05 / trials)
        shown = "   ".join(f"{method} {count / trials:.1%}" for method, count in hits.items())
        print(f"{name:13} {parameter:6} n = {n:3}  {shown}   (± {error:.1%} from {trials} trials)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
