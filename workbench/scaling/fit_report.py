"""The report of `workbench fit`: constants, fit, sizes, doubt, prediction, plan, other choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import machine
from workbench.errors import UserError
from workbench.figures import doubt, frontier, iso
from workbench.figures import scaling as figures
from workbench.figures.formats import number
from workbench.report import Section, build_report
from workbench.scaling import planner
from workbench.scaling.fit_text import kind, plan_rows, plan_words
from workbench.scaling.holdout import split_largest
from workbench.scaling.uncertainty import profile

REACH = 1.0  # largest step in ln(parameter) of the profile figure
WORDS = {"N": "model", "D": "data", "C": "compute"}
PAIRS = 24  # steps of a profile curve


def rows_for_figures(result: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """The runs with compute (for laws of N and D), residual and whether they were held out; and the name of the x column."""
    fitted, table = result["fitted"], result["runs"].table.copy()
    x = "C" if _plans(fitted) else fitted.law_.columns[0]
    if _plans(fitted):
        table["C"] = 6.0 * table["N"] * table["D"] * planner.flop_unit(fitted)
    table["residual"] = fitted.residuals()
    try:
        train, _, _ = split_largest(fitted.law_, table)
        table["held"] = ~table.index.isin(train.index)
    except UserError:
        table["held"] = False
    return table, x


def _plans(fitted: Any) -> bool:
    """Whether the law is one of N and D that the planner can use."""
    return set(fitted.law_.columns) == {"N", "D"} and all(len(t.powers) <= 1 for t in fitted.law_.terms)


def law_curve(result: dict[str, Any], x: str, beyond: float = 1.0) -> pd.DataFrame:
    """The fitted law along its compute-optimal path (or along x), with the band, `beyond` decades past the data."""
    fitted, table = result["fitted"], result["runs"].table
    if _plans(fitted):
        values = 6.0 * table["N"] * table["D"] * planner.flop_unit(fitted)
        path = planner.frontier(fitted, values.min(), values.max() * 10**beyond, 60)
        label = "compute-optimal"
    else:
        values = table[x]
        wide = fitted.law_.log_residuals and values.max() / values.min() > 3
        reach = 10**beyond if wide else values.max() / values.min()
        path = pd.DataFrame({c: np.full(60, np.median(table[c])) for c in fitted.law_.columns})
        path[x] = np.geomspace(values.min(), values.max() * (reach if wide else 1.0), 60)
        label = fitted.law_.name
    low, high = result["bootstrap"].predict(path)
    return pd.DataFrame(
        {"group": label, x: path[x], "loss": fitted.predict(path), "low": low, "high": high, "beyond": path[x] > values.max()}
    )  # fmt: skip


def sections(result: dict[str, Any]) -> list[Section]:
    """The report's sections, also drawn by the app."""
    table, x = rows_for_figures(result)
    fitted = result["fitted"]
    parts = [_constants(result), _fit(result, table, x)]
    if _plans(fitted):
        parts.append(_sizes(result, table))
    parts.append(_doubt(result))
    if result["holdout"]:
        parts.append(_prediction(result))
    if result["planned"] is not None:
        parts.append(_plan(result, table))
    moved = pd.DataFrame(result["sensitivity"]).map(lambda v: number(v, 4) if isinstance(v, float) else v)
    moved = moved.rename(columns={"n": "runs"}).set_index("choice").T.rename_axis("constant").reset_index()
    text = "The same law under other choices of loss and runs. A constant that jumps is not known."
    return [*parts, Section("What if we had chosen otherwise", text, table=moved)]


def _constants(result: dict[str, Any]) -> Section:
    parameters = pd.DataFrame(
        [{"constant": name, "value": number(e["value"], 5), "interval": f"{number(e['low'], 4)} to {number(e['high'], 4)}"}
         for name, e in result["parameters"].items()]
    )  # fmt: skip
    found = result["identification"]
    cautions = "\n\n".join(result["warnings"]) or (
        f"Nothing stands in the way: all {len(parameters)} constants are identified (rank {found['rank']}, condition "
        f"{number(found['condition'], 2)}), {found['agreement']:.0%} of the starts reach this optimum."
    )
    read = ", ".join(f"{role} from `{name}`" for role, name in result["columns"].items())
    lead = f"`{result['formula']}`. Interval: {kind(result)}. Columns: {read}."
    return Section(
        "The law and its constants", f"{lead}\n\n{cautions}", table=parameters, note=" ".join(result["notes"])
    )


def _fit(result: dict[str, Any], table: pd.DataFrame, x: str) -> Section:
    fitted = result["fitted"]
    size = "N" if "N" in table else x
    shown = [x, *[c for c in fitted.law_.columns if c != x and table[c].nunique() > 2]][:3]
    text = (
        "The curve follows the cheapest size for every budget; runs off that path lie above it."
        if _plans(fitted)
        else ""
    )
    drawn = [figures.law(table, law_curve(result, x), x=x, size=size, target=result["runs"].target)]
    drawn += [figures.residuals(table, x=column, relative=fitted.law_.log_residuals) for column in shown]
    return Section("Fit and what it leaves over", text, figure=drawn, data=table)


def _sizes(result: dict[str, Any], table: pd.DataFrame) -> Section:
    fitted = result["fitted"]
    losses = np.quantile(table["loss"], [0.05, 0.3, 0.6])
    lines = [planner.iso_loss(fitted, float(loss)).assign(loss=round(float(loss), 3)) for loss in losses
             if loss > fitted.parameters_.get(fitted.law_.floor, 0.0)]  # fmt: skip
    lines = pd.concat(_inside(line, table) for line in lines)
    path = planner.frontier(fitted, table["C"].min(), table["C"].max() * 10, bootstrap=result["bootstrap"])
    text = "Each point of a line reaches the same loss; the optimal path is where it costs least compute."
    return Section(
        "Size against data", text,
        figure=[iso.iso_loss(lines, path[path["C"] <= table["C"].max()], table),
                frontier.frontier(path, _planned(result), float(table["C"].max()))], data=path,
    )  # fmt: skip


def _doubt(result: dict[str, Any]) -> Section:
    fitted, boot = result["fitted"], result["bootstrap"]
    law = fitted.law_
    known = [n for n in boot.names if result["parameters"][n]["value"] > 0]  # a floor of zero has no neighbourhood
    first = known[0]
    second = next((n for n in law.exponents if n in known), known[-1])
    drawn = []
    if first != second and len(boot.jackknife) >= 6:
        pick = [boot.names.index(first), boot.names.index(second)]
        rows = pd.DataFrame(boot.samples[:, pick], columns=[first, second])
        outline = pd.DataFrame(boot.region(first, second), columns=[first, second])
        best = pd.DataFrame([[fitted.parameters_[first], fitted.parameters_[second]]], columns=[first, second])
        drawn.append(doubt.joint(rows, outline if _sane(outline, rows) else None, best))
    parts = []
    for name in known[:5]:
        spread = np.std(np.log(np.maximum(boot.samples[:, boot.names.index(name)], 1e-300)))
        ratios = np.exp(np.linspace(-1, 1, PAIRS + 1) * np.clip(4 * spread, 0.002, REACH))
        heights = profile(fitted, name, fitted.parameters_[name] * ratios)
        parts.append(pd.DataFrame({"parameter": name, "ratio": ratios, "height": np.maximum(heights, 0.0)}))
    drawn.append(doubt.profile(pd.concat(parts, ignore_index=True)))
    return Section(
        "What stays open", "Constants trade off against each other: an interval of one alone hides that.", figure=drawn
    )


def _sane(outline: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """An ellipse of logs says something only where it stays within a few times the cloud."""
    return bool((outline.max() < 3 * rows.quantile(0.99)).all() and (outline.min() > rows.quantile(0.01) / 3).all())


def _prediction(result: dict[str, Any]) -> Section:
    held = pd.DataFrame(result["holdout"])
    shown = pd.DataFrame({"prediction by": list(dict.fromkeys(held["method"]))})
    reach = []
    for axis, part in held.groupby("axis", sort=False):
        cells = {row.method: f"{row.median:.2%} ({row.worst:.1%})" for row in part.itertuples()}
        shown[f"{part['n'].iloc[0]} runs of largest {WORDS.get(axis, axis)}"] = [
            cells.get(m, "–") for m in shown["prediction by"]
        ]
        reach.append(f"{part['decades'].iloc[0]:.1f} decades in {axis}")
    text = (
        "The largest runs were held out, the law and simple baselines were fitted to the rest. Median error of the predicted "
        f"value, worst in brackets. The held-out runs reach beyond the others by {', '.join(reach)}."
    )
    note = ""
    if result["laws"]:
        told = [f"{row['method']} ({row['parameters']} constants) {row['median']:.2%}, worst {row['worst']:.1%}"
                for row in result["laws"]]  # fmt: skip
        note = f"Law against law on the {result['laws'][0]['n']} held-out runs, median error: {'; '.join(told)}."
    return Section("Does it predict?", text, table=shown, note=note)


def _planned(result: dict[str, Any]) -> pd.DataFrame | None:
    plan = result["planned"]
    if plan is None:
        return None
    unit = planner.flop_unit(result["fitted"]) ** 0.5
    row = {"C": plan.flops, "loss": plan.loss[0]}
    for name, band in (("N", plan.params), ("D", plan.tokens)):
        row |= {name: band[0] / unit, f"{name}_low": band[1] / unit, f"{name}_high": band[2] / unit}
    return pd.DataFrame([row])


def _plan(result: dict[str, Any], table: pd.DataFrame) -> Section:
    plan, fitted = result["planned"], result["fitted"]
    shown = pd.DataFrame(plan_rows(plan), columns=["planned", "value", "95 % interval"])
    budgets = plan.flops / 10.0 ** np.array([3.0, 2.0, 1.0, 0.0])
    budgets = budgets[(budgets > table["C"].min()) | (budgets == plan.flops)]
    curves = planner.iso_flop(fitted, budgets)
    text = (
        "Size and tokens are the law's optimum for this compute. The intervals carry the doubt of the fit, not that of the "
        "law's form."
    )
    if plan.total_flops > plan.flops:
        text = (
            "The loss is the best that the training budget reaches; training and serving together then cost least. "
            + text
        )
    text += "\n\n" + "\n\n".join(plan_words(plan))
    return Section("Plan", text, figure=iso.iso_flop(curves, _planned(result)), data=curves, table=shown)


def _inside(line: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The part of a line within three times the range of the runs."""
    keep = np.ones(len(line), bool)
    for column in ("N", "D"):
        keep &= line[column].between(table[column].min() / 3, table[column].max() * 3).to_numpy()
    return line[keep] if keep.any() else line.iloc[:1]


def folder_of(path: str | Path) -> Path:
    """The report's path, or a refusal when its folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {str(path.parent)!r} for the report; make it first.")
    return path


def write(result: dict[str, Any], path: str | Path, source: str = "DATA.csv", command: str = "") -> Path:
    """Write the self-contained report.

    Args:
        result: of `workbench.scaling.study.study`.
        path: the .html file.
        source: the table's name.
        command: how the report was made, for its last line.

    Raises:
        UserError: a folder that does not exist.
    """
    path = folder_of(path)
    here = machine.describe()
    prediction, plan = result["prediction"], result["planned"]
    facts = {"Runs": result["n_runs"], "Fitted in": f"{result['fit_seconds'] * 1e3:.0f} ms"}
    if result["holdout"]:
        facts["Error on the largest runs"] = f"{result['holdout'][0]['median']:.2%}"
    if prediction:
        facts["Predicted loss"] = f"{prediction['loss']:.4f} ({prediction['low']:.4f}–{prediction['high']:.4f})"
    if plan is not None:
        facts["Planned loss"] = f"{plan.loss[0]:.4f} ({plan.loss[1]:.4f}–{plan.loss[2]:.4f})"
    name = Path(source).name
    page = build_report(
        f"Scaling law {result['law']}",
        sections(result),
        lead=f"{result['n_runs']} runs of {name} fitted by {result['formula']}.",
        facts=facts,
        footer={
            "Machine": here["machine"],
            "Versions": f"python {here['python']}",
            "Date": here["date"],
            "command": command or f"workbench fit {name} --law {result['law']} --report {path.name}",
        },
    )
    path.write_text(page, encoding="utf-8")
    return path
