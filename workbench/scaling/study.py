"""The whole study behind `workbench fit`: read, fit, intervals, identification, hold-out, law against law, prediction, plan."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError, choose
from workbench.progress import Progress, silent
from workbench.scaling import planner
from workbench.scaling._read_table import read_table
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.holdout import compare_laws, decades_beyond, holdouts, sensitivity
from workbench.scaling.identification import identify
from workbench.scaling.laws import LAWS, Law, get_law
from workbench.scaling.table import Runs, missing_columns, read_runs
from workbench.scaling.uncertainty import bootstrap

FAR = 2.0  # decades beyond the data from which a prediction carries a warning
CLEARLY = 0.7  # of the median error: another law is clearly better
FEW = 3  # runs per parameter below which a bootstrap is a fiction
# Laws that compete on one table, the first being the one a table is read for. `auto` takes the first group whose columns exist.
RIVALS = (
    ("data-constrained", "chinchilla", "overtraining"),
    ("bivariate",),
    ("parscale", "parscale-power"),
    ("vocabulary",),
    ("chinchilla", "overtraining", "densing", "compute"),
    ("kaplan-steps",),
    ("learning-curve",),
    ("power", "pure-power"),
    ("compute",),
)


def study(
    source: str | Path | pd.DataFrame,
    law: str = "chinchilla",
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, Any] | None = None,
    curves: str = "last",
    objective: str = "huber",
    delta: float = 1e-3,
    interval: str = "bca",
    samples: int = 1000,
    seed: int = 0,
    predict: Mapping[str, float] | None = None,
    plan: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit a law to a table of runs and say what it can be trusted for.

    Args:
        source: CSV file, shipped table or table, one run per row (or curves with a run column).
        law: name of a law, or "auto": of the laws that the columns allow, the one with the smallest median error on the
            held-out largest runs.
        columns: law column → column of the file; "group" names the unit to resample, "error" a downstream error.
        where: column of the file → value: keep these rows only.
        curves: "last" fits the last row of each run, "all" fits all rows and resamples runs.
        objective: "huber", "squared" or "quantile".
        delta: Huber's δ.
        interval: "bca" or "percentile" (under Huber errors plain percentiles are too wide: tests/bench/bench_coverage.py); with
            fewer than 3 runs per parameter a leave-one-out range is given instead.
        samples: bootstrap resamples.
        seed: of the resampling.
        predict: values of the law's columns to predict at.
        plan: arguments of `workbench.scaling.planner.plan`: flops, served_tokens, schedule.
        progress: called between the parts.

    Returns:
        {law, formula, n_runs, objective, parameters: {name: {value, low, high}}, interval, units, warnings, notes, columns,
        identification, holdout, laws, sensitivity, prediction, plan, seconds} and, for figures, "fitted" (the `ScalingLaw`),
        "runs", "bootstrap" and "planned".

    Raises:
        UserError: bad table, unknown law, too few runs.
    """
    begun = time.perf_counter()
    choose("interval", interval, ("percentile", "bca"))
    if plan:
        planner.check(**plan)
        if law != "auto" and set(get_law(law).columns) != {"N", "D"}:
            raise UserError(
                f"A plan needs a law of N and D (chinchilla, overtraining, minicpm, densing); {law} is not."
            )
    raw = source if isinstance(source, pd.DataFrame) else read_table(source)
    settings = {"objective": objective, "delta": delta}
    reading = {"columns": columns, "where": where, "curves": curves}
    runs, laws, law = _choose(raw, law, reading, settings, plans=bool(plan))
    predict = None if not predict else _at(get_law(law), predict)
    progress(1, 5, "fitting")
    fitted = ScalingLaw(law, **settings).fit(runs.table)
    progress(2, 5, f"{samples} resamples")
    boot = bootstrap(fitted, samples, groups=runs.groups, seed=seed, units=runs.units)
    few = len(boot.jackknife) < FEW * len(boot.names)
    method = "leave-one-out" if few else interval
    parameters = {}
    for name in boot.names:
        found = [_none_below(v, name, fitted) for v in (fitted.parameters_[name], *boot.interval(name, method=method))]
        parameters[name] = dict(zip(("value", "low", "high"), found, strict=True))
    report = identify(fitted, boot)
    warnings = [*runs.warnings, *report.warnings]
    if few:
        units = "runs" if boot.units == "run" else f"groups of {boot.units}"
        warnings.append(
            f"{len(boot.jackknife)} {units} for {len(boot.names)} parameters: the intervals are leave-one-out ranges, not 95 %."
        )
    progress(3, 5, "holding out the largest runs")
    held = _holdout(fitted, runs, warnings)
    warnings += _better_law(laws, law)
    progress(4, 5, "checking the choices")
    moved = sensitivity(fitted, runs.table)
    if fitted.law_.floor in moved:
        moved[fitted.law_.floor] = [_none_below(v, fitted.law_.floor, fitted) for v in moved[fitted.law_.floor]]
    prediction = None if not predict else _predict(fitted, boot, predict, method, warnings)
    planned = None if not plan else _plan(fitted, boot, runs, plan, warnings)
    return {
        "law": law,
        "formula": LAWS[law].formula,
        "n_runs": len(runs.table),
        "objective": fitted.objective_,
        "parameters": parameters,
        "interval": method,
        "units": boot.units,
        "columns": dict(runs.mapping),
        "identification": {"rank": report.rank, "condition": report.condition, "agreement": report.agreement},
        "warnings": list(dict.fromkeys(warnings)),
        "notes": list(runs.notes),
        "holdout": held,
        "laws": None if laws is None else laws.to_dict("records"),
        "sensitivity": moved.to_dict("records"),
        "prediction": prediction,
        "plan": None if planned is None else _bands(planned),
        "fit_seconds": fitted.seconds_,
        "seconds": time.perf_counter() - begun,
        "fitted": fitted,
        "runs": runs,
        "bootstrap": boot,
        "planned": planned,
    }


def _none_below(value: float, name: str, fitted: ScalingLaw) -> float:
    """A floor far below every loss is no floor: 0."""
    return 0.0 if name == fitted.law_.floor and value < 1e-9 * float(np.abs(fitted.y_).min()) else value


def _choose(
    raw: pd.DataFrame, law: str, reading: Mapping[str, Any], settings: Mapping[str, Any], plans: bool
) -> tuple[Runs, pd.DataFrame | None, str]:
    """(runs, how the rival laws did on the held-out largest runs, name of the law)."""
    if law != "auto":
        runs = read_runs(raw, get_law(law), **reading)
        has = {*runs.table.columns, *_more(runs.table)}
        rivals = next((g for g in RIVALS if law in g and all(set(LAWS[r].columns) <= has for r in g)), (law,))
        return runs, _compare(runs.table, rivals, settings), law
    for group in RIVALS:
        if not missing_columns(raw, get_law(group[0]), reading["columns"]):
            break
    else:
        group = RIVALS[4]  # nothing fits: let the commonest law say what is missing
    runs = read_runs(raw, get_law(group[0]), **reading)
    laws = _compare(runs.table, group, settings)
    if laws is None:
        return runs, None, group[0]
    able = laws[[not plans or set(LAWS[name].columns) == {"N", "D"} for name in laws["method"]]]
    return runs, laws, str((able if len(able) else laws)["method"].iloc[0])


def _more(table: pd.DataFrame) -> set[str]:
    return {"C"} if {"N", "D"} <= set(table.columns) else set()


def _compare(table: pd.DataFrame, laws: tuple[str, ...], settings: Mapping[str, Any]) -> pd.DataFrame | None:
    if len(laws) < 2:
        return None
    try:
        return compare_laws(table, laws, **settings)
    except UserError:  # too few runs to hold any out; `_holdout` says so
        return None


def _holdout(fitted: ScalingLaw, runs: Runs, warnings: list[str]) -> list[dict[str, Any]]:
    rows, problems = holdouts(fitted, runs.table)
    warnings += problems[:1] if rows.empty else []
    for axis, part in rows.groupby("axis", sort=False) if len(rows) else ():
        own, rest = part.iloc[0], part.iloc[1:]
        better = rest[rest["median"] < own["median"]].sort_values("median")
        if len(better):
            best = better.iloc[0]
            warnings.append(
                f"On the {own['n']} runs with the largest {axis} the simple baseline “{best['method']}” is closer "
                f"({best['median']:.2%}) than the law ({own['median']:.2%}): do not extrapolate in {axis} with it."
            )
    return rows.to_dict("records")


def _better_law(laws: pd.DataFrame | None, law: str) -> list[str]:
    """A sentence when another law did much better on the held-out runs."""
    if laws is None or law not in set(laws["method"]):
        return []
    best, own = laws.iloc[0], laws[laws["method"] == law].iloc[0]
    if best["median"] > CLEARLY * own["median"]:
        return []
    return [
        f"The law {best['method']} predicts the {own['n']} held-out runs better (median {best['median']:.2%} against "
        f"{own['median']:.2%}): look at both."
    ]


def _at(law: Law, asked: Mapping[str, float]) -> dict[str, float]:
    """Where to predict: every column of the law as a positive number."""
    at = dict(asked)
    if "C" in law.columns and {"N", "D"} <= set(at):
        at.setdefault("C", 6.0 * at["N"] * at["D"])
    for column in law.columns:
        if column not in at:
            raise UserError(f"A prediction with {law.name} needs {', '.join(law.columns)}; give {column}=VALUE.")
        if isinstance(at[column], bool) or not isinstance(at[column], int | float) or not 0 < at[column] < np.inf:
            raise UserError(
                f"A prediction needs a positive number for {column}, not {at[column]!r}; write 7e9, not 7B."
            )
    return at


def _predict(
    fitted: ScalingLaw, boot: Any, at: Mapping[str, float], method: str, warnings: list[str]
) -> dict[str, Any]:
    point = pd.DataFrame([{column: float(at[column]) for column in fitted.law_.columns}])
    value = float(fitted.predict(point)[0])
    x = {column: point[column].to_numpy() for column in fitted.law_.columns}
    low, high = boot.of(lambda vectors: fitted.law_.predict(x, vectors)[:, 0], method=method)
    beyond = float(decades_beyond(fitted, point)[0])
    if beyond > FAR:
        warnings.append(
            f"The prediction reaches {beyond:.1f} decades beyond the data; the interval covers the fit, not the law itself."
        )
    elif beyond > 0:
        warnings.append(f"The prediction reaches {beyond:.1f} decades beyond the data.")
    return {
        "at": dict(at),
        "loss": value,
        "low": low,
        "high": high,
        "decades_beyond": max(0.0, beyond),
    }


def _plan(fitted: ScalingLaw, boot: Any, runs: Runs, asked: Mapping[str, Any], warnings: list[str]) -> planner.Plan:
    link = None
    if "error" in runs.table:
        try:
            link = planner.ErrorLink.fit(runs.table, boot)
        except UserError as error:
            warnings.append(f"No downstream error is planned. {error}")
    planned = planner.plan(fitted, bootstrap=boot, link=link, **asked)
    warnings += planned.warnings
    return planned


def _bands(planned: planner.Plan) -> dict[str, Any]:
    """The plan as plain data: {value, low, high} for every number with an interval."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(planned):
        value = getattr(planned, field.name)
        is_band = isinstance(value, tuple) and field.name != "warnings"
        found[field.name] = dict(zip(("value", "low", "high"), value, strict=True)) if is_band else value
    return {**found, "warnings": list(planned.warnings)}


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """The study without its Python objects: what `--json` prints. Numbers that do not exist become null."""
    hidden = ("fitted", "runs", "bootstrap", "planned")
    return {key: _number(value) for key, value in result.items() if key not in hidden}


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_number(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
