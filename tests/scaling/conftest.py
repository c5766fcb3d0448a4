from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.paths import assets
from workbench.scaling.laws import LAWS, Law

SHARED = Path(os.environ.get("WORKBENCH_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data" / "scaling"

# Values near the published ones, so that simulated runs look like real ones.
TRUTH = {
    "chinchilla": (1.82, 480.0, 2085.0, 0.348, 0.366),
    "overtraining": (1.84, 166.0, 230.0, 0.273),
    "compute": (1.8, 900.0, 0.15),
    "data-constrained": (1.87, 521.0, 1488.0, 0.353, 0.36, 15.4),
    "growth": (0.5, 0.7),
    "gain": (0.35, 1.0),
    "batch-exchange": (2000.0, 1e9),
    "critical-batch": (2.1e8, 4.76),
    "loss-to-score": (0.25, 0.6, 3.0, 2.5),
    "trend": (0.3, 0.0073),
    "token-ratio": (0.00639222, 0.15811069, 1.20470122),
    "parscale-power": (1.29, 42.0, 0.196, 0.06),
    "minicpm": (0.31, 0.0715, 0.30, 0.29, 0.23),
    "power": (0.9, 30.0, 0.21),
    "pure-power": (12.0, 0.076),
    "learning-curve": (0.18, 2.0, 0.31),
    "kaplan-steps": (11.5, 60.0, 0.076, 0.67),
    "densing": (8.0, 40.0, 0.11, 0.17),
    "bivariate": (1.3, 900.0, 0.18, 0.31),
    "vocabulary": (5.53, 1.83, 0.196, 2.12, 0.45, 0.67),
    "parscale": (1.29, 42.0, 0.196, 0.334),
    "loss-to-error": (0.857, 2.2, 0.71),
}
RANGES = {"N": (1e7, 1e10), "D": (1e8, 1e12), "x": (1e2, 1e8), "m": (1e2, 1e6), "S": (1e3, 1e6), "N_e": (1e7, 1e9),
          "N_d": (1e7, 1e9), "N_v": (1.0, 100.0), "P": (1.0, 16.0), "L": (1.5, 4.0), "C": (1e17, 1e23),
          "U": (1e8, 1e10), "B": (1e4, 1e8), "t": (1.0, 1000.0), "V": (4096.0, 96256.0)}  # fmt: skip


def simulate(name: str, n: int = 80, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Runs of the law `name` with its TRUTH, columns log-uniform over RANGES, ln-normal noise."""
    law: Law = LAWS[name]
    rng = np.random.default_rng(seed)
    ranges = {**RANGES, **({"N": (30.0, 1200.0), "D": (1.0, 300.0)} if name == "vocabulary" else {})}
    ranges = {**ranges, **({"N": (0.03, 3.0), "D": (0.3, 200.0)} if name == "minicpm" else {})}
    table = pd.DataFrame({c: np.exp(rng.uniform(*np.log(ranges[c]), n)) for c in law.columns})
    loss = law.predict({c: table[c].to_numpy() for c in law.columns}, np.array(TRUTH[name])[None])[0]
    table["loss"] = loss * np.exp(noise * rng.standard_normal(n))
    return table


@pytest.fixture(scope="session")
def chinchilla() -> pd.DataFrame:
    return pd.read_csv(assets() / "scaling" / "chinchilla.csv")


@pytest.fixture(scope="session")
def epoch() -> pd.DataFrame:
    path = SHARED / "analyzing-chinchilla" / "svg_extracted_data.csv"
    if not path.is_file():
        pytest.skip(
            "the digitised points carry no licence and are not shipped; they lie beside the checkout of the authors"
        )
    table = pd.read_csv(path).rename(columns={"Model Size": "N"})
    table["D"] = table["Training FLOP"] / (6 * table["N"])
    return table
