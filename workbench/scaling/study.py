"""The whole study behind `workbench fit`: read, fit, intervals, identification, hold-out, prediction."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.progress import Progress, silent
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.holdout import compare_laws, decades_beyond, holdout, sensitivity
from workbench.scaling.identification import identify
from workbench.scaling.laws import LAWS, get_law
from workbench.scaling.table import Runs, read_runs

FAR = 2.0  # decades beyond the data from which a prediction carries a warning
AUTO = ("chinchilla", "overtraining", "densing")


def study(
    source: str | Path | pd.DataFrame,
    law: str = "chinchilla",
    *,
    columns: dict[str, str] | None = None,
    objective: str = "huber",
    delta: float = 1e-3,
    samples: int = 1000,
    seed: int = 0,
    predict: dict[str, float] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit a law to a table of runs and say what it can be trusted for.

    Args:
        source: CSV file or table, one run per row (or curves with a run column).
        law: name of a law, or "auto": the law with the smallest median error on the held-out largest runs.
        columns: law column → column of the file.
        objective: "huber", "squared" or "quantile".
        delta: Huber's δ.
        samples: bootstrap resamples; with fewer than 3 runs per parameter a leave-one-out range is given instead.
        seed: of the resampling.
        predict: values of the law's columns to predict at.
        progress: called between the parts.

    Returns:
        {law, formula, n_runs, objective, parameters: {name: {value, low, high}}, interval, warnings, notes, holdout,
        sensitivity, prediction, seconds} and, for figures, "fitted" (the `ScalingLaw`), "runs" and "bootstrap".

    Raises:
        UserError: bad table, unknown law, too few runs.
    """
    begun = time.perf_counter()
    laws = None
    if law == "auto":
        runs = read_runs(source, get_law("chinchilla"), columns)
        laws = compare_laws(runs.table, AUTO, objective=objective, delta=delta)
        law = str(laws["method"].iloc[0])
    else:
        runs = read_runs(source, get_law(law), columns)
    progress(1, 5, "fitting")
    fitted = ScalingLaw(law, objective=objective, delta=delta).fit(runs.table)
    fit_seconds = fitted.seconds_
    progress(2, 5, f"{samples} resamples")
    boot = fitted.bootstrap(samples, seed=seed)
    few = len(runs.table) < 3 * len(boot.names)
    method = "leave-one-out" if few else "percentile"
    parameters = {}
    for name in boot.names:
        low, high = boot.interval(name, method=method)
        parameters[name] = {"value": fitted.parameters_[name], "low": low, "high": high}
    report = identify(fitted)
    warnings = [*runs.warnings, *report.warnings]
    if few:
        warnings.append(
            f"{len(runs.table)} runs for {len(boot.names)} parameters: the intervals are leave-one-out ranges, not 95 %."
        )
    progress(3, 5, "holding out the largest runs")
    held = _holdout(fitted, runs, warnings)
    progress(4, 5, "checking the choices")
    return {
        "law": law,
        "formula": LAWS[law].formula,
        "n_runs": len(runs.table),
        "objective": fitted.objective_,
        "parameters": parameters,
        "interval": method,
        "identification": {"rank": report.rank, "condition": report.condition, "agreement": report.agreement},
        "warnings": warnings,
        "notes": list(runs.notes),
        "holdout": held,
        "laws": None if laws is None else laws.to_dict("records"),
        "sensitivity": sensitivity(fitted, runs.table).to_dict("records"),
        "prediction": None if not predict else _predict(fitted, boot, predict, warnings),
        "fit_seconds": fit_seconds,
        "seconds": time.perf_counter() - begun,
        "fitted": fitted,
        "runs": runs,
        "bootstrap": boot,
    }


def _holdout(fitted: ScalingLaw, runs: Runs, warnings: list[str]) -> list[dict[str, Any]]:
    try:
        rows = holdout(fitted, runs.table)
    except UserError as error:
        warnings.append(str(error))
        return []
    own, rest = rows.iloc[0], rows.iloc[1:]
    better = rest[rest["median"] < own["median"]]
    if len(better):
        best = better.sort_values("median").iloc[0]
        warnings.append(
            f"On the {own['n']} largest runs the simple baseline “{best['method']}” is closer ({best['median']:.2%}) than "
            f"the law ({own['median']:.2%}): do not extrapolate with it."
        )
    return rows.to_dict("records")


def _predict(fitted: ScalingLaw, boot: Any, at: dict[str, float], warnings: list[str]) -> dict[str, Any]:
    missing = [column for column in fitted.law_.columns if column not in at]
    if missing:
        raise UserError(
            f"A prediction with {fitted.law_.name} needs {', '.join(fitted.law_.columns)}; give {missing[0]}=VALUE."
        )
    point = pd.DataFrame([{column: float(at[column]) for column in fitted.law_.columns}])
    value = float(fitted.predict(point)[0])
    low, high = boot.predict(point)
    beyond = float(decades_beyond(fitted, point)[0])
    if beyond > FAR:
        warnings.append(
            f"The prediction reaches {beyond:.1f} decades beyond the data; the interval covers the fit, not the law itself."
        )
    elif beyond > 0:
        warnings.append(f"The prediction reaches {beyond:.1f} decades beyond the data.")
    return {"at": at, "loss": value, "low": float(low[0]), "high": float(high[0]), "decades_beyond": max(0.0, beyond)}


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """The study without its Python objects: what `--json` prints."""
    hidden = ("fitted", "runs", "bootstrap")
    return {key: _number(value) for key, value in result.items() if key not in hidden}


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
