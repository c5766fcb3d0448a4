"""The report of a grid, one self-contained page: scores with intervals, score against cost, the table, how it was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.figures import intervals, pareto
from workbench.grid.record import table
from workbench.report import Section, build_report

if TYPE_CHECKING:
    import plotly.graph_objects as go

COSTS = ("trainable", "step_seconds", "training_bytes")


def blocks(record: Mapping[str, Any]) -> list[tuple[str, str, pd.DataFrame]]:
    """(model, task, its rows) for every block that has rows."""
    rows = pd.DataFrame(record["rows"])
    return [] if rows.empty else [(m, t, part) for (m, t), part in rows.groupby(["model", "task"], sort=False)]


def scores(rows: pd.DataFrame, budget: str = "") -> go.Figure:
    """Scores of one block with their intervals, and who is tied with the best.

    Args:
        rows: of one model and task.
        budget: in words, for the caption.
    """
    metric = rows["metric"].iloc[0]
    # A model that is not trained has one seed only; the caption speaks of the others.
    rows = rows.assign(n=rows[f"{metric}_n"], seeds=rows["seeds"].max())
    return intervals(rows, metric, budget=budget, items="documents")


def against(rows: pd.DataFrame, cost: str = "trainable") -> go.Figure:
    """Scores of one block against a cost, with intervals and the front.

    Args:
        rows: of one model and task.
        cost: a column such as trainable, step_seconds or training_bytes.
    """
    metric = rows["metric"].iloc[0]
    return pareto(rows.dropna(subset=[c for c in (cost,) if c in rows]), cost, metric)


def build(record: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        record: from `record.build`.
    """
    found, sections = record["settings"], []
    for model, task, rows in blocks(record):
        trained = rows[rows["trainable"] > 0] if "trainable" in rows else rows
        costs = [c for c in ("trainable", "step_seconds") if c in trained and trained[c].notna().any()]
        sections.append(Section(
            f"{model} on {task}", text=sentence(rows), figure=[scores(rows, found["budget"])], data=rows.drop(columns="trials"),
        ))  # fmt: skip
        sections.append(Section(
            f"What it costs: {model}, {task}", figure=[against(trained, cost) for cost in costs],
            note="A point is a method; the base model and methods that train nothing have no cost and are left out.",
        ))  # fmt: skip
        listed = table({"rows": rows.to_dict("records")})
        sections.append(Section(f"Table: {model}, {task}", table=listed, note=edges(rows)))
    if record["left_out"] or record["failed"]:
        sections.append(Section("Left out", text="\n\n".join([*record["left_out"], *record["failed"]])))
    machine = record["machine"]
    return build_report(
        "Methods compared at one budget", sections, lead=lead(record),
        facts={"budget": found["budget"], "trials a method": found["trials"], "seeds": found["seeds"],
               "rows": len(record["rows"])},
        footer={
            "command": record["command"],
            "steps": f"{found['steps']} of {found['batch_size']} rows, {found['window']} tokens each",
            **{k: machine[k] for k in ("machine", "cores", "torch", "transformers", "peft", "date") if k in machine},
        },
    )  # fmt: skip


def lead(record: Mapping[str, Any]) -> str:
    """One or two sentences with the finding."""
    several = record["tied_best"]
    if not record["rows"]:
        return "No row could be measured."
    if record["settings"]["seeds"] == 1:
        return "One seed: chance of training has not been seen, so no winner is named."
    if len(several) == 1:
        return f"{several[0]} is ahead of every other row, and a paired test can tell."
    return f"{len(several)} rows are tied with the best: {', '.join(several)}. The order among them is chance."


def sentence(rows: pd.DataFrame) -> str:
    """What the block shows, from its rows."""
    metric = rows["metric"].iloc[0]
    best = rows.sort_values(metric, ascending=metric == "loss").iloc[0]
    tied = rows[rows[f"{metric}_tied"].astype(bool)]
    apart = rows[~rows[f"{metric}_tied"].astype(bool)]
    text = f"{len(tied)} of {len(rows)} rows cannot be told from the best ({best['name']}, {best[metric]:.3f})."
    if len(apart):
        text += f" Separated from it after correction: {', '.join(apart['name'])}."
    return text


def edges(rows: pd.DataFrame) -> str:
    """What the intervals mean, and whose chosen learning rate lies at an end of what was tried."""
    at = rows[rows["at_the_edge"].astype(bool)]["name"].tolist()
    text = (
        "Intervals hold over documents and seeds together; tests are paired by document and seed and corrected by Holm."
    )
    if not at:
        return text
    return (
        f"{text} The chosen learning rate is the smallest or largest tried for {', '.join(at)}: more may be had there."
    )
