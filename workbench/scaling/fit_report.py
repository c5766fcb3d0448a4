"""The report of `workbench fit`: fit, residuals, map of equal losses, intervals, hold-out, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import machine
from workbench.errors import UserError
from workbench.figures import scaling as figures
from workbench.figures.formats import number
from workbench.report import Section, build_report
from workbench.scaling.holdout import size_axis, split_largest
from workbench.scaling.planner import frontier, iso_loss

KIND = {"percentile": "95 % interval over resampled runs", "leave-one-out": "range over leave-one-out refits"}


def rows_for_figures(result: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """The runs with compute (for laws of N and D), residual and whether they were held out; and the name of the x column."""
    fitted, table = result["fitted"], result["runs"].table.copy()
    _, values = size_axis(fitted.law_, table)
    both = {"N", "D"} <= set(fitted.law_.columns)
    x = "C" if both else fitted.law_.columns[0]
    table[x] = values
    table["residual"] = fitted.residuals()
    try:
        train, _, _ = split_largest(fitted.law_, table)
        table["held"] = ~table.index.isin(train.index)
    except UserError:
        table["held"] = False
    return table, x


def law_curve(result: dict[str, Any], x: str, beyond: float = 1.0) -> pd.DataFrame:
    """The fitted law along its compute-optimal path (or along x), with the band, `beyond` decades past the data."""
    fitted, table = result["fitted"], result["runs"].table
    _, values = size_axis(fitted.law_, table)
    if x == "C":
        path = frontier(fitted, values.min(), values.max() * 10**beyond, 60)
        label = "compute-optimal"
    else:
        path = pd.DataFrame({c: np.full(60, np.median(table[c])) for c in fitted.law_.columns})
        path[x] = np.geomspace(values.min(), values.max() * 10**beyond, 60)
        label = fitted.law_.name
    low, high = result["bootstrap"].predict(path)
    return pd.DataFrame(
        {
            "group": label,
            x: path[x],
            "loss": fitted.predict(path),
            "low": low,
            "high": high,
            "beyond": path[x] > values.max(),
        }
    )


def sections(result: dict[str, Any]) -> list[Section]:
    """The report's sections, also drawn by the app."""
    table, x = rows_for_figures(result)
    size = "N" if "N" in table else x
    parameters = pd.DataFrame(
        [{"parameter": name, "value": number(e["value"], 5), "interval": f"{number(e['low'], 4)} to {number(e['high'], 4)}"}
         for name, e in result["parameters"].items()]
    )  # fmt: skip
    cautions = (
        " ".join(result["warnings"]) or "Nothing stands in the way: all parameters are identified, all starts agree."
    )
    notes = " ".join(result["notes"])
    out = [
        Section("The law and its constants", f"`{result['formula']}`. {KIND[result['interval']]}. {cautions}", table=parameters,
                note=notes),
        Section("Fit", "The curve follows the cheapest size for every budget; runs off that path lie above it."
                if x == "C" else "", figure=[figures.law(table, law_curve(result, x), x=x, size=size),
                                             figures.residuals(table, x=x)], data=table),
    ]  # fmt: skip
    if x == "C":
        losses = np.quantile(table["loss"], [0.05, 0.3, 0.6])
        lines = [iso_loss(result["fitted"], float(loss)).assign(loss=round(float(loss), 3)) for loss in losses]
        lines = pd.concat(_inside(line, table) for line in lines)
        path = frontier(result["fitted"], table["C"].min(), table["C"].max())
        out.append(Section("Size against data", figure=figures.iso_loss(lines, path, table), data=lines))
    if result["holdout"]:
        held = (
            pd.DataFrame(result["holdout"])
            .rename(columns={"method": "prediction by"})
            .assign(
                median=lambda t: [f"{v:.2%}" for v in t["median"]], worst=lambda t: [f"{v:.2%}" for v in t["worst"]]
            )
        )
        out.append(Section("Does it predict?", "The largest runs were held out, the law and three simple baselines were fitted "
                           "to the rest. Error is relative to the measured loss.", table=held))  # fmt: skip
    moved = pd.DataFrame(result["sensitivity"])
    moved = moved.map(lambda v: number(v, 4) if isinstance(v, float) else v)
    text = "The same fit under other choices. A parameter that jumps is not known."
    out.append(Section("What if we had chosen otherwise", text, table=moved))
    return out


def _inside(line: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The part of a line within three times the range of the runs."""
    keep = np.ones(len(line), bool)
    for column in ("N", "D"):
        keep &= line[column].between(table[column].min() / 3, table[column].max() * 3).to_numpy()
    return line[keep] if keep.any() else line.iloc[:1]


def write(result: dict[str, Any], path: str | Path) -> Path:
    """Write the self-contained report.

    Args:
        result: of `workbench.scaling.study.study`.
        path: the .html file.

    Raises:
        UserError: a folder that does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {str(path.parent)!r} for the report; make it first.")
    here = machine.describe()
    prediction = result["prediction"]
    facts = {"Runs": result["n_runs"], "Fitted in": f"{result['fit_seconds'] * 1e3:.0f} ms"}
    if result["holdout"]:
        facts["Error on the largest runs"] = f"{result['holdout'][0]['median']:.2%}"
    if prediction:
        facts["Predicted loss"] = f"{prediction['loss']:.4f} ({prediction['low']:.4f}–{prediction['high']:.4f})"
    page = build_report(
        f"Scaling law {result['law']}",
        sections(result),
        lead=f"{result['n_runs']} runs fitted by {result['formula']}.",
        facts=facts,
        footer={
            "Machine": here["machine"],
            "Versions": f"python {here['python']}",
            "Date": here["date"],
            "command": f"workbench fit DATA.csv --law {result['law']} --report {path.name}",
        },
    )
    path.write_text(page, encoding="utf-8")
    return path
