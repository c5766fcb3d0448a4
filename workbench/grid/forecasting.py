"""What a grid will cost, from a few real steps of every row in a process of its own.

    seconds = Σ over cells (loading + steps · step + evaluation or test)

where the evaluation's seconds follow from a third of a training step per batch of rows (a forward pass without a backward).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.grid import planning, settings
from workbench.grid.running import Runner, probe
from workbench.progress import Progress, silent

FORWARD = 1 / 3  # of a training step
SAFETY = 1.1  # evaluation, disk and scheduling that are not timed


def forecast(
    config: dict[str, Any], *, progress: Progress = silent, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Plan, time four steps of every row, and say what the whole will take. Nothing is kept.

    Args:
        config: keys of `settings.DEFAULTS`.
        progress: over the probes.
        should_stop: asked between two probes.

    Returns:
        {cells, seconds, peak_bytes, rows: [{name, model, task, arguments, size, within_budget, cells, step_seconds,
        training_bytes, seconds, failed}], left_out}.

    Raises:
        UserError: a plan that cannot work.
    """
    plan = planning.plan(config)
    with tempfile.TemporaryDirectory() as scratch, Runner(plan, Path(scratch), progress, should_stop) as runner:
        for row in plan.rows:
            if row.block not in runner.texts:
                from workbench.grid import material

                key = planning.material_key(row, plan.settings)
                runner.texts[row.block] = material.ensure(Path(scratch), key, row.model, row.task, plan.settings)
        runner.probes()
        rows = [
            _row(row, runner.done.get(probe(row, plan.settings)["key"], {}), plan.settings, runner.texts[row.block])
            for row in plan.rows
        ]
    return {
        "cells": plan.cells, "seconds": SAFETY * sum(row["seconds"] for row in rows) / plan.settings["workers"],
        "peak_bytes": max((row["peak_bytes"] or 0 for row in rows), default=0), "rows": rows, "left_out": plan.left_out,
    }  # fmt: skip


def _row(row: planning.Row, timed: dict[str, Any], found: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    step = timed.get("step_seconds", 0.0)
    asked = settings.budget(found["budget"])
    steps = max(1, int(asked.value / step)) if asked.kind == "seconds" and step else row.steps
    batch = found["batch_size"]
    loading = timed.get("loading_seconds", 2.0)
    tested = len(text["test"]) if text["labels"] else found["test_tokens"] / found["window"]
    trial = loading + steps * step + FORWARD * step * len(text["evaluation"]) / batch
    final = loading + steps * step + FORWARD * step * tested / batch
    seeds = found["seeds"] if row.steps else 1
    return {
        "name": row.name, "model": row.model, "task": row.task, "arguments": row.arguments, "size": row.size,
        "budget": row.budget, "within_budget": row.within, "cells": len(row.trials) + seeds, "steps": steps,
        "step_seconds": step or None, "training_bytes": timed.get("training_bytes"),
        "peak_bytes": timed.get("peak_bytes"), "seconds": len(row.trials) * trial + seeds * final,
        "failed": timed.get("failed"),
    }  # fmt: skip
