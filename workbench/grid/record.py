"""The record of a grid: settings, plan, every cell with its answers, and what follows from them. Made to be recomputed.

`rows_of(record)` computes rows, tests and ties from the cells alone; a record on disk must agree with it.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import choose
from workbench.evaluation import cells as files
from workbench.grid import judging, planning
from workbench.grid.planning import Plan
from workbench.paths import assets

FORMAT = 1
_COSTS = (
    "trainable", "file_bytes", "total", "training_bytes", "saved_bytes", "peak_bytes", "step_seconds", "train_seconds",
    "seconds",
)  # fmt: skip
_REPEATED = ("batch_size", "window", "precision", "test_tokens", "general", "task", "model", "kind")


def build(
    plan: Plan,
    done: Mapping[str, Mapping[str, Any]],
    texts: Mapping[tuple[str, str], Mapping[str, Any]],
    command: str = "",
) -> dict[str, Any]:
    """The record of a grid, finished or not.

    Args:
        plan: what was asked for.
        done: cells by key; a cell that could not be measured has `failed`.
        texts: the rows of text that each block shares.
        command: how to run it again.
    """
    from workbench.machine import describe

    blocks = []
    for block, text in texts.items():
        rows = [row for row in plan.rows if row.block == block]
        cells = [cell for cell in done.values() if (cell["model"], cell["task"]) == block and cell["stage"] != "probe"]
        found = {
            "model": block[0], "task": block[1], "kind": text["kind"], "labels": list(text["labels"]),
            "plan": [_planned(row) for row in rows], "cells": [_lean(cell) for cell in cells],
        }  # fmt: skip
        if text["labels"]:
            found["items"] = {
                "groups": [row["group"] for row in text["test"]],
                "answers": [text["labels"].index(row["label"]) for row in text["test"]],
            }
        blocks.append(found)
    record = {
        "what": "grid", "format": FORMAT, "command": command, "settings": plan.settings, "left_out": plan.left_out,
        "blocks": blocks, "machine": describe(),
    }  # fmt: skip
    return files.plain({**record, **rows_of(record)})


def _planned(row: planning.Row) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name not in ("model", "task", "kind")}


def _lean(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _short(value) for name, value in cell.items() if name not in _REPEATED}


def _short(value: Any) -> Any:
    """Numbers without the digits that nobody can read."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def rows_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """{rows, tied_best, failed} from the cells of a record.

    Returns:
        rows: one per model, task, base and method; the score stands under `metric` (accuracy, or loss in nats per token)
        with its intervals; costs are medians over the judged cells.
    """
    rows: list[dict[str, Any]] = []
    failed = []
    for block in record["blocks"]:
        finals: dict[str, list[dict[str, Any]]] = {}
        for cell in block["cells"]:
            if "failed" in cell:
                failed.append(
                    f"{cell['name']} ({cell['stage']}, learning rate {cell['learning_rate']}): {cell['failed']}"
                )
            elif cell["stage"] == "final":
                finals.setdefault(cell["name"], []).append(cell)
        if not finals:
            continue
        accuracy = bool(block["labels"])
        metric = "accuracy" if accuracy else "loss"
        measured = {name: judging.scores(cells, block.get("items", {})) for name, cells in finals.items()}
        most = max(len(pair[0]) for pair in measured.values())
        whole = {n: pair for n, pair in measured.items() if len(pair[0]) in (1, most) or most == 1}
        judged = judging.judge(whole, higher=accuracy, reference=record["settings"]["reference"])
        for plan in block["plan"]:
            if plan["name"] in judged:
                rows.append(_row(block, plan, finals[plan["name"]], judged[plan["name"]], metric))
    return {
        "rows": rows,
        "tied_best": [_name(row, rows) for row in rows if row[f"{row['metric']}_tied"]],
        "failed": failed,
    }


def _name(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    several = len({(other["model"], other["task"]) for other in rows}) > 1
    return f"{row['name']} on {row['model']}, {row['task']}" if several else row["name"]


def _row(
    block: Mapping[str, Any], plan: Mapping[str, Any], cells: list[dict[str, Any]], judged: dict[str, Any], metric: str
) -> dict[str, Any]:
    trials = [
        {"learning_rate": cell["learning_rate"], "arguments": cell["arguments"], "eval_loss": cell.get("eval_loss")}
        for cell in block["cells"]
        if cell["stage"] == "trial" and cell["name"] == plan["name"]
    ]
    rates = [trial["learning_rate"] for trial in plan["trials"]]
    chosen = cells[0]["learning_rate"]
    score = {f"{metric}{'' if k == 'value' else '_' + k}": judged[k] for k in ("value", "low", "high", "tied")}
    score |= {f"{metric}_{k}": judged[k] for k in ("items_low", "items_high", "seeds_low", "seeds_high", "n")}
    tests = {k: judged[k] for k in ("difference", "difference_low", "difference_high", "p", "p_holm") if k in judged}
    costs = {
        name: statistics.median(values)
        for name in _COSTS
        if (values := [cell[name] for cell in cells if cell.get(name) is not None])
    }
    general = [cell["general_loss"] for cell in cells if cell.get("general_loss") is not None]
    return {
        "name": plan["name"], "method": plan["method"], "model": block["model"], "task": block["task"],
        "base": plan["base"], "metric": metric, **score, "seeds": judged["seeds"],
        "within_budget": plan["within"], "size": plan["size"], "budget": plan["budget"], **costs, **tests,
        "general_loss": statistics.fmean(general) if general else None, "steps": plan["steps"],
        "learning_rate": chosen, "at_the_edge": len(rates) > 2 and chosen in (min(rates), max(rates)),
        "arguments": cells[0]["arguments"], "trials": trials,
    }  # fmt: skip


def write(record: Mapping[str, Any], folder: Path) -> None:
    """`grid.json` (everything), `rows.csv` and `cells.csv` (flat) into the folder."""
    files.write(folder, "grid", dict(record))
    _csv(folder / "rows.csv", [{k: v for k, v in row.items() if k != "trials"} for row in record["rows"]])
    flat = []
    for block in record["blocks"]:
        for cell in block["cells"]:
            plain = {k: v for k, v in cell.items() if not isinstance(v, list)}
            flat.append({"model": block["model"], "task": block["task"], **plain})
    _csv(folder / "cells.csv", flat)


def _csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def standing(name: str) -> dict[str, Any]:
    """A committed grid: `minilm` (which century a paragraph is from), `minilm-wide` (the same with rates over a hundredfold
    range) or `smollm2` (adaptation to one author).

    Raises:
        UserError: no such grid is there; the sentence names those that are.
    """
    folder = assets() / "findings"
    there = {path.stem.removeprefix("grid-"): path for path in sorted(folder.glob("grid-*.json"))}
    return json.loads(there[choose("committed grid", name, there)].read_text(encoding="utf-8"))


def table(record: Mapping[str, Any]) -> pd.DataFrame:
    """The columns people read, best first inside each block, for `print_table` and the report."""
    rows = pd.DataFrame(record["rows"])
    if rows.empty:
        return rows
    several = {name: rows[name].nunique() > 1 for name in ("model", "task")}
    parts = []
    for _, block in rows.groupby(["model", "task"], sort=False):
        metric = block["metric"].iloc[0]
        parts.append(block.sort_values(metric, ascending=metric == "loss"))
    rows = pd.concat(parts, ignore_index=True)
    metrics = [m for m in ("accuracy", "loss") if m in rows]
    scored = [f"{m}{end}" for m in metrics for end in ("", "_low", "_high", "_tied")]
    shown = ["name", *(n for n, more in several.items() if more), *scored, "trainable", "file_bytes", "training_bytes",
             "step_seconds", "general_loss", "learning_rate", "p_holm", "method", "within_budget", "seeds"]  # fmt: skip
    found = rows[[name for name in shown if name in rows and not rows[name].isna().all()]].copy()
    if not found["within_budget"].all():
        found["note"] = ["" if inside else "outside the budget" for inside in found["within_budget"]]
    return found.rename(columns={"file_bytes": "disk_bytes"})
