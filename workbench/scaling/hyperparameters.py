"""Learning rate and batch size as power laws of model and data size (step law, arXiv 2503.04715), and the rules beside it.

    lr(N, D) = 1.79 · N^(−0.713) · D^0.307          B(D) = 0.58 · D^0.571   (tokens)

N: parameters without embeddings; D: training tokens. Constants and exponents are strongly anti-correlated: an interval of
one constant alone says nothing, so `HyperparameterLaw` resamples whole cells and keeps the draws together. Refitting the
released dense table with the released recipe gives other constants (−0.766, 0.197, 0.613): anchor on the formula.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from workbench.errors import UserError


@dataclasses.dataclass(frozen=True)
class HyperParams:
    """A setting.

    Args:
        lr: peak learning rate (AdamW).
        batch_tokens: tokens per optimizer step.
        batch_sequences: the same in sequences, when the length was given.
    """

    lr: float
    batch_tokens: float
    batch_sequences: float | None = None


def step_law(params: float, tokens: float, seq_len: int | None = None) -> HyperParams:
    """Published step law.

    Args:
        params: parameters without embeddings.
        tokens: training tokens.
        seq_len: tokens per sequence, to get the batch in sequences.

    Raises:
        UserError: a size that is not positive.
    """
    if params <= 0 or tokens <= 0:
        raise UserError(f"The step law needs positive sizes; got {params:g} parameters and {tokens:g} tokens.")
    lr = 1.79 * float(params) ** -0.713 * float(tokens) ** 0.307
    batch = 0.58 * float(tokens) ** 0.571
    return HyperParams(lr, batch, None if seq_len is None else batch / seq_len)


# name → (learning rate from (N, D), what it holds for). Published constants quoted by the step-law paper (its table 1).
RULES: dict[str, tuple[Callable[[float, float], float], str]] = {
    "step law": (lambda n, d: step_law(n, d).lr, "0.2–1 B parameters, 4–100 B tokens, cosine to a fixed 1e-5"),
    "OpenAI 2020": (lambda n, d: 3.239e-3 - 1.395e-4 * np.log(n), "decoder up to 1.5 B parameters, no D"),
    "DeepSeek": (lambda n, d: 0.3118 * (6.0 * n * d) ** -0.125, "multi-step schedule, C without embeddings"),
    "Porian": (lambda n, d: 3.7 * n**-0.36, "compute-optimal tokens only"),
}


class HyperparameterLaw(BaseEstimator):
    """Fit lr = c·N^a·D^b and B = k·D^m on grids of runs.

    Per cell (n, d) every run within `tolerance` of the cell's best loss counts; ordinary least squares of ln lr on (ln N, ln D)
    and of ln B on ln D (arXiv 2503.04715, §4). A cell whose best run sits on the edge of its grid is named and left out.

    Args:
        tolerance: relative distance to the cell's best loss that still counts as best.
        samples: bootstrap resamples of cells.
        seed: of the resampling.
    """

    def __init__(self, tolerance: float = 0.0025, samples: int = 1000, seed: int = 0) -> None:
        self.tolerance = tolerance
        self.samples = samples
        self.seed = seed

    def fit(self, runs: pd.DataFrame, y: None = None) -> HyperparameterLaw:
        """Fit on columns n, d, lr, batch_tokens, loss (one row per run).

        Raises:
            UserError: missing columns, or fewer than 3 distinct N or D in usable cells.
        """
        missing = [c for c in ("n", "d", "lr", "batch_tokens", "loss") if c not in runs]
        if missing:
            raise UserError(f"The table of runs lacks the columns {', '.join(missing)}.")
        cells, self.edge_cells_ = [], []
        for (n, d), cell in runs.groupby(["n", "d"]):
            best = cell.loc[cell["loss"].idxmin()]
            edges = [
                best[c] in (cell[c].min(), cell[c].max()) and cell[c].nunique() > 2 for c in ("lr", "batch_tokens")
            ]
            if any(edges):
                self.edge_cells_.append((n, d))
            else:
                cells.append(cell[cell["loss"] <= best["loss"] * (1 + self.tolerance)])
        sizes = (len({c["n"].iloc[0] for c in cells}), len({c["d"].iloc[0] for c in cells}))
        if min(sizes, default=0) < 2 or max(sizes, default=0) < 3:
            raise UserError(
                f"Usable cells cover {sizes[0]} sizes and {sizes[1]} token counts; a law in both needs at least 3 and 2. "
                f"{len(self.edge_cells_)} cells had their best run on the edge of the grid: widen it."
            )
        self.coefficients_ = self._solve(cells)
        rng = np.random.default_rng(self.seed)
        draws = []
        while len(draws) < self.samples:
            picked = [cells[i] for i in rng.integers(0, len(cells), len(cells))]
            if len({c["n"].iloc[0] for c in picked}) > 1 and len({c["d"].iloc[0] for c in picked}) > 1:
                draws.append(self._solve(picked))
        self.draws_ = np.array(draws)
        return self

    @staticmethod
    def _solve(cells: list[pd.DataFrame]) -> np.ndarray:
        rows = pd.concat(cells)
        ln = np.log(rows[["n", "d", "lr", "batch_tokens"]].to_numpy(dtype=float))
        ones = np.ones(len(ln))
        rate, *_ = np.linalg.lstsq(np.column_stack([ones, ln[:, 0], ln[:, 1]]), ln[:, 2], rcond=None)
        batch, *_ = np.linalg.lstsq(np.column_stack([ones, ln[:, 1]]), ln[:, 3], rcond=None)
        return np.concatenate([rate, batch])

    def predict(self, n: float, d: float, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
        """{"lr": (value, low, high), "batch_tokens": (value, low, high)} from the joint bootstrap of cells."""
        tails = [(1 - level) / 2, (1 + level) / 2]
        found = {}
        for name, at in (
            ("lr", np.array([1, np.log(n), np.log(d), 0, 0])),
            ("batch_tokens", np.array([0, 0, 0, 1, np.log(d)])),
        ):
            low, high = np.quantile(np.exp(self.draws_ @ at), tails)
            found[name] = (float(np.exp(self.coefficients_ @ at)), float(low), float(high))
        return found


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The loss valley of one cell: loss ≈ exp(quadratic in (ln lr, ln batch)).

    Args:
        lr, batch_tokens: the quadratic's minimum.
        loss: predicted there.
        eigenvalues: of the Hessian; both positive means a valley.
        rms: root mean square residual of ln loss.
    """

    lr: float
    batch_tokens: float
    loss: float
    eigenvalues: tuple[float, float]
    rms: float

    @property
    def convex(self) -> bool:
        """Whether the cell is a valley."""
        return min(self.eigenvalues) > 0


def plateau(runs: pd.DataFrame, within: float = 0.05) -> Plateau:
    """Fit ln loss as a quadratic in (ln lr, ln batch) over the runs of one cell within `within` of its best loss.

    Raises:
        UserError: fewer than 7 such runs.
    """
    near = runs[runs["loss"] <= runs["loss"].min() * (1 + within)]
    if len(near) < 7:
        raise UserError(f"{len(near)} runs lie within {within:.0%} of the best; a quadratic in two variables needs 7.")
    x, z = np.log(near["lr"].to_numpy(float)), np.log(near["batch_tokens"].to_numpy(float))
    mx, mz = x.mean(), z.mean()
    x, z = x - mx, z - mz
    design = np.column_stack([np.ones_like(x), x, z, x * x, x * z, z * z])
    target = np.log(near["loss"].to_numpy(float))
    c, *_ = np.linalg.lstsq(design, target, rcond=None)
    hessian = np.array([[2 * c[3], c[4]], [c[4], 2 * c[5]]])
    best = -np.linalg.solve(hessian, c[1:3])
    at = np.array([1, best[0], best[1], best[0] ** 2, best[0] * best[1], best[1] ** 2])
    low, high = np.linalg.eigvalsh(hessian)
    rms = float(np.sqrt(np.mean((design @ c - target) ** 2)))
    return Plateau(*map(float, np.exp([best[0] + mx, best[1] + mz, at @ c])), (float(low), float(high)), rms)
