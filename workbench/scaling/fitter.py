"""`ScalingLaw`: one estimator for every law, in scikit-learn's manner.

    law = ScalingLaw("chinchilla").fit(runs)              # runs: DataFrame with columns N, D, loss
    law.parameters_                                        # {"E": 1.817, "A": 477.8, …}
    law.predict(more_runs)                                 # L̂
    law.bootstrap(1000).interval("alpha")                  # resamples runs, not checkpoints

The default objective is the published one: Σ Huber_δ(ln L̂ − ln L) with δ = 1e-3 (Hoffmann et al. 2022, appendix D.3;
Besiroglu et al. 2024), minimised globally (`workbench.scaling.engine`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from workbench.errors import UserError, choose
from workbench.scaling import engine
from workbench.scaling.laws import Law, get_law

OBJECTIVES = ("huber", "squared", "quantile")


class ScalingLaw(RegressorMixin, BaseEstimator):
    """Fit one law to a table of training runs.

    Args:
        law: name of a law (`workbench methods --kind law`).
        objective: "huber" (robust, the published choice), "squared", or "quantile".
        delta: where Huber turns linear, in units of the residual (ln loss for most laws).
        quantile: share of runs below the curve, for objective "quantile".
        log_residuals: None takes the law's own choice; False fits plain differences, as some published fits do.

    Attributes:
        parameters_: name → fitted value in the units of the columns given.
        objective_: Σ w ρ at the optimum.
        starts_: objective of every polished start; agreement is evidence of a global optimum.
        seconds_: time the fit took.
    """

    def __init__(
        self,
        law: str = "chinchilla",
        objective: str = "huber",
        delta: float = 1e-3,
        quantile: float = 0.5,
        log_residuals: bool | None = None,
    ) -> None:
        self.law = law
        self.objective = objective
        self.delta = delta
        self.quantile = quantile
        self.log_residuals = log_residuals

    def fit(self, X: pd.DataFrame, y: Any = None, sample_weight: Any = None) -> ScalingLaw:
        """Fit.

        Args:
            X: one row per run, holding the law's columns; and `loss` when `y` is not given.
            y: losses (n,), or None to read the column `loss`.
            sample_weight: (n,) or None.

        Raises:
            UserError: missing columns, values that are not positive numbers (row named), fewer runs than parameters + 1.
        """
        law = self._law()
        x, loss = _arrays(law, X, y)
        distinct = len(np.unique(np.column_stack([*x.values(), loss]), axis=0))
        need = len(law.parameters) + 1
        if distinct < need:
            raise UserError(
                f"The law {law.name} has {len(law.parameters)} parameters, so it needs at least {need} different runs; "
                f"the table has {distinct}. Add runs or choose a law with fewer parameters."
            )
        begun = time.perf_counter()
        weights = np.ones(len(loss)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        best, starts = engine.fit(law, x, loss, weights, self._objective())
        self.seconds_ = time.perf_counter() - begun
        self.law_, self.x_, self.y_, self.weights_ = law, x, loss, weights
        self.vector_ = best.parameters[0]
        self.parameters_ = dict(zip(law.parameters, map(float, self.vector_), strict=True))
        self.objective_ = float(best.objective[0])
        self.starts_ = starts.objective
        self.start_parameters_ = starts.parameters
        self.n_features_in_ = len(law.columns)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """L̂ for the rows of `X` (n,)."""
        x, _ = _arrays(self.law_, X, np.ones(len(X)))
        return self.law_.predict(x, self.vector_[None])[0]

    def residuals(self) -> np.ndarray:
        """ln L̂ − ln L of the fitted runs (or L̂ − L for laws on plain residuals), (n,)."""
        fitted = self.law_.predict(self.x_, self.vector_[None])[0]
        return np.log(fitted) - np.log(self.y_) if self.law_.log_residuals else fitted - self.y_

    def refit(self, weights: np.ndarray) -> np.ndarray:
        """Parameters under many weightings of the same runs: (batch, n) → (batch, p), one batched Newton solve."""
        found = engine.refit(self.law_, self.x_, self.y_, weights, self.vector_, self._objective())
        return found.parameters

    def bootstrap(self, samples: int = 1000, *, groups: Any = None, seed: int = 0):
        """Resample runs (or whole `groups` of them) with replacement; see `workbench.scaling.uncertainty`."""
        from workbench.scaling.uncertainty import bootstrap

        return bootstrap(self, samples, groups=groups, seed=seed)

    def _law(self) -> Law:
        import dataclasses

        law = get_law(self.law)
        choose("objective", self.objective, OBJECTIVES)
        if self.log_residuals is None or self.log_residuals == law.log_residuals:
            return law
        return dataclasses.replace(law, log_residuals=self.log_residuals)

    def _objective(self) -> engine.Objective:
        return engine.Objective(self.objective, self.delta, self.quantile)


def _arrays(law: Law, table: pd.DataFrame, y: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The law's columns and the losses as float64, or one sentence that names the first bad row."""
    missing = [column for column in law.columns if column not in table]
    if y is None and "loss" not in table:
        missing.append("loss")
    if missing:
        raise UserError(
            f"The law {law.name} needs the columns {', '.join(law.columns)} and loss; missing: {', '.join(missing)}. "
            f"The table has: {', '.join(map(str, table.columns))}."
        )
    x = {column: _numbers(table[column], column, positive=True) for column in law.columns}
    loss = _numbers(pd.Series(y) if y is not None else table["loss"], "loss", positive=law.log_residuals)
    return x, loss


def _numbers(values: pd.Series, name: str, *, positive: bool) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(numbers) | ((numbers <= 0) if positive else False)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"Row {row + 1} has {values.iloc[row]!r} in {name}; {int(bad.sum())} rows are affected. "
            f"Every value must be a {'positive ' if positive else ''}number: fix or drop those rows."
        )
    return numbers
