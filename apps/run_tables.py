"""Tables of runs for the page Scaling: those that ship, uploaded ones, and one made of the user's own fine-tunings.

The last has a row for every evaluation, with the columns run, model, method, N (all parameters), trainable, D (tokens seen),
step, batch_tokens, lr, seed, loss (held out, nats per token). A fit takes the last row of each run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from workbench.errors import UserError
from workbench.paths import assets
from workbench.runs import Run
from workbench.training.config import FinetuneConfig

from . import choices, live

ENDED = ("done", "stopped")


def tables() -> list[tuple[str, str]]:
    """(label, key) of the tables that ship, and of uploaded CSV files."""
    shipped = [(f"{path.stem} · published runs", path.stem) for path in sorted((assets() / "scaling").glob("*.csv"))]
    return shipped + [(f"{name} · uploaded", key) for key, name in choices.uploads().items() if name.endswith(".csv")]


def place(key: str) -> Path:
    """The file behind a key.

    Raises:
        UserError: a key that names no table.
    """
    shipped = {path.stem: path for path in (assets() / "scaling").glob("*.csv")}
    if key in shipped:
        return shipped[key]
    if str(key).startswith("upload:"):
        return Path(choices.data_place(key))
    raise UserError(f"{str(key)[:80]!r} is no table of runs; choose one from the list, or upload a CSV.")


def usable(runs: Iterable[Run]) -> list[Run]:
    """Fine-tunings that ended and measured a held-out loss after their first step."""
    return [run for run in runs if run.job == "finetune" and run.status in ENDED and held_out(run)]


def held_out(run: Run) -> list[dict]:
    """Its evaluations after step 0."""
    return [row for row in live.metrics(run) if row.get("eval_loss") is not None and row["step"] > 0]


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """All evaluations of all runs.

    Raises:
        UserError: fewer than two runs, or one that measured nothing.
    """
    names = live.names(list(runs))
    if len(names) < 2:
        raise UserError("A law needs several runs; choose at least two that differ in size, tokens or steps.")
    rows = []
    for name, run in names.items():
        config = {**defaults(), **live.config(run)}
        measured = (run.result() or {}).get("measured", {})
        step_tokens = config["batch_size"] * config["accumulation"] * config["window"]
        evaluated = held_out(run)
        if not evaluated or "total" not in measured:
            raise UserError(f"{name} has measured no held-out loss; take it off the list, or resume it.")
        for row in evaluated:
            rows.append(
                {
                    "run": name, "model": choices.shown(config["model"]), "method": config["method"], "N": measured["total"],
                    "trainable": measured["trainable"], "D": row["step"] * step_tokens, "step": row["step"],
                    "batch_tokens": step_tokens, "lr": config["learning_rate"], "seed": config["seed"],
                    "loss": row["eval_loss"],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def defaults() -> dict:
    """Settings of a fine-tuning that was not told otherwise."""
    settings = FinetuneConfig(model="", data="")
    return {
        name: getattr(settings, name)
        for name in ("batch_size", "accumulation", "window", "learning_rate", "seed", "method")
    }


def keep(runs: Iterable[Run]) -> str:
    """Keep the table beside the uploads; returns its key."""
    runs = list(runs)
    made = table(runs)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{len(runs)} runs.csv"
        made.to_csv(path, index=False)
        return choices.keep_upload(path)
