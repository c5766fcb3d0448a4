"""Extrapolation as the score: hold out the largest runs, predict them, and beat simple baselines.

Baselines, all fitted to the same training rows: *no constant* (the law without its floor), *log-linear* (ln L linear in the
logs of the columns), *carry forward* (the loss of the nearest smaller run). A law that does not beat them has not earned
its parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from workbench.errors import UserError
from workbench.scaling.laws import Law

SIZES = {"N": "model", "D": "data", "C": "compute", "m": "training set"}  # what the smallest or largest of a column is


def compute(table: pd.DataFrame) -> np.ndarray:
    """Training compute 6·N·D in floating point (in 64-bit integers it overflows for the largest published runs)."""
    return 6.0 * table["N"].to_numpy(dtype=float) * table["D"].to_numpy(dtype=float)


def size_axis(law: Law, table: pd.DataFrame) -> tuple[str, np.ndarray]:
    """What “largest” means for a law: compute 6ND where it has N and D, else its first column."""
    if {"N", "D"} <= set(law.columns):
        return "compute", compute(table)
    return law.columns[0], table[law.columns[0]].to_numpy(dtype=float)


def decades_beyond(fitted: Any, table: pd.DataFrame) -> np.ndarray:
    """How many decades each row of `table` lies beyond the fitted runs, the largest over the law's columns (n,)."""
    beyond = np.zeros(len(table))
    for column in fitted.law_.columns:
        seen = np.log10(fitted.x_[column])
        asked = np.log10(table[column].to_numpy(dtype=float))
        beyond = np.maximum(beyond, np.maximum(asked - seen.max(), seen.min() - asked))
    return beyond


def split_largest(law: Law, table: pd.DataFrame, share: float = 0.2, by: str | None = None) -> tuple[Any, Any, str]:
    """(training rows, held-out rows, axis name): the largest `share` by compute, or by the column `by`.

    Raises:
        UserError: when too few runs remain to fit the law.
    """
    named = by and by != "compute"
    axis, values = (by, table[by].to_numpy(dtype=float)) if named else size_axis(law, table)
    cut = np.quantile(values, 1 - share)
    held = values > cut
    if not held.any():
        held = values == values.max()
    need = len(law.parameters) + 1
    if (~held).sum() < need:
        raise UserError(
            f"Holding out the largest {share:.0%} by {axis} leaves {(~held).sum()} runs; {law.name} needs {need}. "
            "Add runs or hold out less."
        )
    return table[~held], table[held], axis


def holdout(fitted: Any, table: pd.DataFrame, share: float = 0.2, by: str | None = None) -> pd.DataFrame:
    """Relative errors of the law and of the baselines on the held-out largest runs.

    Args:
        fitted: a fitted `ScalingLaw`; a clone is refitted on the remaining rows.
        table: all rows, with a column `loss`.
        share: share held out.
        by: column to order by (default: compute).

    Returns:
        rows (method, median, worst, n, axis, decades): |L̂ − L| / L over the held-out runs; decades: how far the largest of
        them lies beyond the training runs.

    Raises:
        UserError: too few runs remain, or all of them share one value of a column.
    """
    train, test, axis = split_largest(fitted.law_, table, share, by)
    truth = test["loss"].to_numpy(dtype=float)
    refitted = clone(fitted).fit(train)
    beyond = float(decades_beyond(refitted, test).max())
    predictions = {fitted.law_.name: refitted.predict(test), **_baselines(fitted, train, test)}
    rows = []
    for name, prediction in predictions.items():
        error = np.abs(prediction - truth) / np.abs(truth)
        rows.append({"method": name, "median": np.median(error), "worst": error.max(), "n": len(truth), "axis": axis,
                     "decades": beyond})  # fmt: skip
    return pd.DataFrame(rows)


def holdouts(fitted: Any, table: pd.DataFrame, share: float = 0.2) -> tuple[pd.DataFrame, list[str]]:
    """`holdout` by compute, then by each column of the law that has at least three values: (rows, why one was left out)."""
    axes = ["compute"] if {"N", "D"} <= set(fitted.law_.columns) else []
    axes += [c for c in fitted.law_.columns if table[c].nunique() > 2]
    parts, problems = [], []
    for axis in axes:
        try:
            parts.append(holdout(fitted, table, share, axis))
        except UserError as error:
            problems.append(str(error))
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()), problems


def _baselines(fitted: Any, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, np.ndarray]:
    law = fitted.law_
    found: dict[str, np.ndarray] = {}
    loss = train["loss"].to_numpy(dtype=float)
    if law.floor is not None and len(law.terms) > 1 and law.log_residuals:
        terms = tuple(term for term in law.terms if term.coefficient != law.floor)
        bounds = {name: limits for name, limits in (fitted.bounds or {}).items() if name != law.floor}
        bare = clone(fitted).set_params(law=dataclasses.replace(law, terms=terms), bounds=bounds)
        found["no constant"] = bare.fit(train).predict(test)
    if (loss > 0).all():
        design = np.column_stack([np.ones(len(train)), *(np.log(train[c]) for c in law.columns)])
        weights, *_ = np.linalg.lstsq(design, np.log(loss), rcond=None)
        ahead = np.column_stack([np.ones(len(test)), *(np.log(test[c]) for c in law.columns)])
        found["log-linear"] = np.exp(ahead @ weights)
    distance = sum(
        (np.log(test[c].to_numpy(float))[:, None] - np.log(train[c].to_numpy(float))[None]) ** 2 for c in law.columns
    )
    found["carry forward"] = loss[distance.argmin(axis=1)]
    return found


def compare_laws(
    table: pd.DataFrame, laws: tuple[str, ...], share: float = 0.2, by: str | None = None, **settings: Any
) -> pd.DataFrame:
    """Fit several laws on the smaller runs and score all on the same held-out largest: best law first.

    Args:
        table: all rows with the columns of every law and `loss`; compute C is added where N and D are there.
        laws: names.
        share: share held out.
        by: column to order by (default: compute where the table has N and D, else the first law's first column).
        settings: of `ScalingLaw`.

    Raises:
        UserError: no law can be fitted to the smaller runs.
    """
    from workbench.scaling.fitter import ScalingLaw
    from workbench.scaling.laws import get_law

    if {"N", "D"} <= set(table.columns):
        table = table.assign(C=compute(table))
        by = by or "C"
    by = by or get_law(laws[0]).columns[0]
    rows, problems = [], []
    for name in laws:
        try:
            model = ScalingLaw(name, **settings)
            train, test, axis = split_largest(get_law(name), table, share, by)
            truth = test["loss"].to_numpy(dtype=float)
            error = np.abs(model.fit(train).predict(test) - truth) / np.abs(truth)
            rows.append({"method": name, "median": np.median(error), "worst": error.max(), "n": len(truth), "axis": axis,
                         "parameters": len(model.vector_)})  # fmt: skip
        except UserError as error:
            problems.append(str(error))
    if not rows:
        raise UserError(problems[0])
    return pd.DataFrame(rows).sort_values("median", ignore_index=True)


def sensitivity(fitted: Any, table: pd.DataFrame, drop: int = 5) -> pd.DataFrame:
    """How far the parameters move when the choices move.

    Choices: δ ×10 and ÷10, squared loss, least absolute errors, without the `drop` highest losses, without the smallest and
    without the largest runs (by the law's first column).

    Returns:
        rows (choice, n, one column per parameter); choices that leave too few runs are left out.
    """
    first = table[fitted.law_.columns[0]]
    word = SIZES.get(str(first.name), str(first.name))
    variants = {
        "as fitted": (clone(fitted), table),
        "delta × 10": (clone(fitted).set_params(delta=fitted.delta * 10), table),
        "delta ÷ 10": (clone(fitted).set_params(delta=fitted.delta / 10), table),
        "squared": (clone(fitted).set_params(objective="squared"), table),
        "least absolute": (clone(fitted).set_params(objective="huber", delta=1e-5), table),
        f"without the {drop} highest losses": (clone(fitted), table.drop(table["loss"].nlargest(drop).index)),
        f"without the smallest {word}": (clone(fitted), table[first > first.min()]),
        f"without the largest {word}": (clone(fitted), table[first < first.max()]),
    }
    rows = []
    for name, (law, used) in variants.items():
        try:
            rows.append({"choice": name, "n": len(used), **law.fit(used).parameters_})
        except UserError:  # too few runs or one value left: nothing to compare with
            continue
    return pd.DataFrame(rows)
