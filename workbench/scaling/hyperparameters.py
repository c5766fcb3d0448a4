"""Learning rate and batch size as power laws of model and data size, and the loss valley in which they lie.

    lr(N, D) = 1.79 · N^(−0.713) · D^0.307          B(D) = 0.58 · D^0.571   (tokens)

N: parameters without embeddings; D: training tokens; B: tokens per optimizer step. At fixed (N, D) the loss is nearly a
quadratic in (ln lr, ln B): a valley with a wide floor, which is why a law that is a little off costs little.

How the constants arise: per (N, D) cell every run within 0.25 % of the cell's best counts; ordinary least squares of ln
lr on (ln N, ln D) and of ln B on ln D; bootstrap. Constants and exponents are strongly anti-correlated, so an interval
of one constant alone says nothing: `HyperparameterLaw` keeps the draws together. Runs inside one cell are not
independent, so whole cells are drawn.

Source: Li et al. 2025 (step law), arXiv 2503.04715, §4 and table 1; code github.com/step-law/steplaw. Departure: the
bootstrap draws cells (`cluster="run"` draws runs, as published). Refitting the released dense table with the released
recipe gives other exponents (−0.766, 0.197, 0.613): the formula is the anchor, not the table.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from workbench.errors import UserError, choose
from workbench.scaling._rules import RULES, HyperParams, Rule, step_law

__all__ = ["RULES", "HyperParams", "HyperparameterLaw", "Plateau", "Rule", "plateau", "step_law"]


COLUMNS = ("n", "d", "lr", "batch_tokens", "loss")
FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # regressors of ln lr, and of ln B, beside the constant
    "step": (("N", "D"), ("D",)),
    "compute": (("C",), ("C",)),  # DeepSeek's form: both powers of C = 6ND
}


class HyperparameterLaw(BaseEstimator):
    """Fit lr = c·N^a·D^b and B = k·D^m on grids of runs.

    Rows of one setting (several seeds) are averaged first. Per cell (n, d) every setting within `tolerance` of the
    cell's best loss counts. A cell whose best setting sits on the edge of its grid is named in `edge_cells_` and left
    out: its optimum may lie outside.

    Args:
        tolerance: relative distance to the cell's best loss that still counts as best.
        cluster: what the bootstrap draws: "cell", or "run" as published.
        form: "step" (above) or "compute" (both powers of 6ND, DeepSeek's form).
        samples: bootstrap resamples.
        seed: of the resampling.

    Attributes:
        parameters_: name → fitted value; "lr" and "B" are the logarithms of the constants.
        draws_: (samples, p) resampled coefficients in the same order; read them together.
        edge_cells_: (n, d) → why the cell was left out.
    """

    def __init__(
        self, tolerance: float = 0.0025, cluster: str = "cell", form: str = "step", samples: int = 1000, seed: int = 0
    ) -> None:
        self.tolerance = tolerance
        self.cluster = cluster
        self.form = form
        self.samples = samples
        self.seed = seed

    def fit(self, runs: pd.DataFrame, y: None = None) -> HyperparameterLaw:
        """Fit.

        Args:
            runs: columns n, d, lr, batch_tokens, loss; one row per run.
            y: not used.

        Raises:
            UserError: missing columns, values that are not positive, or usable cells with fewer than 3 distinct N or D.
        """
        choose("cluster", self.cluster, ("cell", "run"))
        choose("form", self.form, FORMS)
        cells, self.edge_cells_ = [], {}
        for place, cell in by_cell(runs):
            edge = edge_of(cell)
            if edge:
                self.edge_cells_[place] = edge
            else:
                cells.append(cell[cell["loss"] <= cell["loss"].min() * (1 + self.tolerance)])
        sizes = [len({c[axis].iloc[0] for c in cells}) for axis in ("n", "d")]
        if min(sizes) < 3:
            dropped = "; ".join(f"N = {n:g}, D = {d:g}: {why}" for (n, d), why in self.edge_cells_.items())
            raise UserError(
                f"Usable cells cover {sizes[0]} model sizes and {sizes[1]} token counts; the law needs 3 of each. "
                + (f"Left out, widen their grids: {dropped}." if dropped else "Add cells.")
            )
        near = pd.concat(cells)
        self.n_runs_, self.n_cells_ = len(near), len(cells)
        logs = self._logs(near["n"].to_numpy(float), near["d"].to_numpy(float))
        self._center = {name: values.mean() for name, values in logs.items()}
        unit = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
        unit = np.arange(len(near)) if self.cluster == "run" else unit
        parts, draws = [], []
        rng = np.random.default_rng(self.seed)
        units = int(unit.max()) + 1
        counts = rng.multinomial(units, np.full(units, 1 / units), size=4 * self.samples)
        keep = np.ones(len(counts), bool)
        for regressors, column in zip(FORMS[self.form], ("lr", "batch_tokens"), strict=True):
            x = np.column_stack([np.ones(len(near)), *(logs[r] - self._center[r] for r in regressors)])
            target = np.log(near[column].to_numpy(float))
            parts.append(np.linalg.lstsq(x, target, rcond=None)[0])
            weight = counts[:, unit]
            gram = np.einsum("sr,ri,rj->sij", weight, x, x, optimize=True)
            keep &= np.linalg.cond(gram / np.trace(gram, axis1=1, axis2=2)[:, None, None]) < 1e8
            draws.append((gram, (weight * target) @ x))
        counted = np.flatnonzero(keep)[: self.samples]  # draws of too few distinct cells determine no law
        self._parts = parts
        self._draws = [np.linalg.solve(g[counted], v[counted][..., None])[..., 0] for g, v in draws]
        self.draws_ = np.concatenate([self._uncentred(i, d) for i, d in enumerate(self._draws)], axis=1)
        self.coefficients_ = np.concatenate([self._uncentred(i, p[None])[0] for i, p in enumerate(parts)])
        names = [
            f"{what}{of}"
            for what, rs in zip(("lr", "B"), FORMS[self.form], strict=True)
            for of in ("", *map("_{}".format, rs))
        ]
        self.parameters_ = dict(zip(names, map(float, self.coefficients_), strict=True))
        return self

    @staticmethod
    def _logs(n: np.ndarray, d: np.ndarray) -> dict[str, np.ndarray]:
        return {"N": np.log(n), "D": np.log(d), "C": np.log(6.0) + np.log(n) + np.log(d)}

    def _uncentred(self, which: int, vectors: np.ndarray) -> np.ndarray:
        """Coefficients with the constant at ln N = ln D = 0, from those with the constant at the middle of the data."""
        shift = np.array([self._center[r] for r in FORMS[self.form][which]])
        return np.column_stack([vectors[:, 0] - vectors[:, 1:] @ shift, vectors[:, 1:]])

    def predict(self, n: float, d: float, interval: float = 0.95) -> dict[str, tuple[float, float, float]]:
        """The setting for a run, with an interval from the joint bootstrap.

        Args:
            n: parameters without embeddings.
            d: training tokens.
            interval: share of the draws inside.

        Returns:
            {"lr": (value, low, high), "batch_tokens": (value, low, high)}.

        Raises:
            UserError: a size that is not positive.
        """
        if not (n > 0 and d > 0):
            raise UserError(f"The law needs positive sizes; got {n:g} parameters and {d:g} tokens.")
        logs = self._logs(np.float64(n), np.float64(d))
        tails, found = [(1 - interval) / 2, (1 + interval) / 2], {}
        for i, name in enumerate(("lr", "batch_tokens")):
            at = np.array([1.0, *(logs[r] - self._center[r] for r in FORMS[self.form][i])])
            low, high = np.quantile(np.exp(self._draws[i] @ at), tails)
            found[name] = (float(np.exp(self._parts[i] @ at)), float(low), float(high))
        return found


def by_cell(runs: pd.DataFrame) -> list[tuple[tuple[float, float], pd.DataFrame]]:
    """[((n, d), settings of that cell)], losses averaged over the seeds of a setting.

    Raises:
        UserError: missing columns, or a value that is not a positive number.
    """
    missing = [c for c in COLUMNS if c not in runs]
    if missing:
        raise UserError(f"The table of runs lacks the columns {', '.join(missing)}.")
    values = runs[list(COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"Row {row + 1} has {runs[COLUMNS[column]].iloc[row]!r} in {COLUMNS[column]}; {int(bad.any(axis=1).sum())} rows "
            "are affected. Every value must be a positive number: fix or drop those rows."
        )
    mean = runs[list(COLUMNS)].astype(float).groupby(list(COLUMNS[:4]), as_index=False)["loss"].mean()
    return [(place, cell.reset_index(drop=True)) for place, cell in mean.groupby(["n", "d"])]


def edge_of(cell: pd.DataFrame) -> str:
    """In words, the edge of the grid that the best setting of a cell sits on; empty when it lies inside."""
    best = cell.loc[cell["loss"].idxmin()]
    words = []
    for column, name in (("lr", "rate"), ("batch_tokens", "batch")):
        values = cell[column]
        if values.nunique() > 2 and best[column] in (values.min(), values.max()):
            words.append(
                f"best run at the {'lowest' if best[column] == values.min() else 'highest'} {name} {best[column]:g}"
            )
    return " and ".join(words)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The loss valley of one cell: loss ≈ exp(quadratic in (ln lr, ln batch)).

    Args:
        lr, batch_tokens: where the quadratic is flat (its minimum when `convex`).
        loss: predicted there.
        eigenvalues: of the Hessian of ln loss, smaller first; both positive means a valley.
        rms: root mean square residual of ln loss.
        runs: how many runs the quadratic saw.
        contour: (65, 2) of (lr, batch) at `within` above the minimum; empty when there is no valley.
    """

    lr: float
    batch_tokens: float
    loss: float
    eigenvalues: tuple[float, float]
    rms: float
    runs: int
    contour: np.ndarray = dataclasses.field(repr=False, compare=False)

    @property
    def convex(self) -> bool:
        """Whether the cell is a valley."""
        return min(self.eigenvalues) > 0


def plateau(runs: pd.DataFrame, within: float = 0.005, near: float = 0.05) -> Plateau:
    """Fit ln loss as a quadratic in (ln lr, ln batch) to the runs of one cell.

    Args:
        runs: columns lr, batch_tokens, loss of one (N, D).
        within: height of the contour above the minimum, as a share of the loss.
        near: only runs within this share of the best loss are fitted; farther out the valley is no quadratic.

    Raises:
        UserError: fewer than 7 such runs.
    """
    close = runs[runs["loss"] <= runs["loss"].min() * (1 + near)]
    if len(close) < 7:
        raise UserError(f"{len(close)} runs lie within {near:.0%} of the best; a quadratic in two variables needs 7.")
    logs = np.log(close[["lr", "batch_tokens"]].to_numpy(float))
    center = logs.mean(axis=0)
    x, z = (logs - center).T
    design = np.column_stack([np.ones_like(x), x, z, x * x, x * z, z * z])
    target = np.log(close["loss"].to_numpy(float))
    c, *_ = np.linalg.lstsq(design, target, rcond=None)
    hessian = np.array([[2 * c[3], c[4]], [c[4], 2 * c[5]]])
    best = -np.linalg.lstsq(hessian, c[1:3], rcond=None)[0]
    height = c[0] + c[1:3] @ best / 2
    values, axes = np.linalg.eigh(hessian)
    contour = np.empty((0, 2))
    if values[0] > 0:
        turn = np.linspace(0, 2 * np.pi, 65)
        circle = np.column_stack([np.cos(turn), np.sin(turn)]) * np.sqrt(2 * np.log1p(within) / values)
        contour = np.exp(center + best + circle @ axes.T)
    rms = float(np.sqrt(np.mean((design @ c - target) ** 2)))
    lr, batch = np.exp(best + center)
    return Plateau(float(lr), float(batch), float(np.exp(height)), tuple(map(float, values)), rms, len(close), contour)
