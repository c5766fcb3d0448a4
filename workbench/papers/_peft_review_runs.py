"""The grid behind the page `peft-review`: run twice with different training seeds, cell by cell in this process."""

from __future__ import annotations

import gc
import itertools
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.papers.cells import cell as kept
from workbench.progress import Progress

DOCUMENTS = 80  # modules of the standard library
LETTERS = 4000  # of a module that judges: more than the tokens that are asked for
_SMALL = {
    "models": ["tiny-lm"], "tasks": ["moby-dick"], "methods": ["lora", "ia3", "prompt", "vera", "compacter", "shira"],
    "budget": "params=lora:r=2", "outside": True, "seeds": 3, "trials": 4, "span": 100.0, "rates": {"full": 1e-3}, "steps": 30,
    "batch_size": 4, "window": 64, "eval_rows": 32, "test_share": 0.3, "test_tokens": 6000,
}  # fmt: skip
PLANS: dict[str, dict[str, Any]] = {
    "smoke": {**_SMALL, "methods": ["lora"], "seeds": 1, "trials": 1, "steps": 1, "eval_rows": 4, "test_tokens": 200,
              "window": 32},
    "small": _SMALL,
    "full": {**_SMALL, "models": ["smollm2-135m"], "seeds": 5, "rates": {}, "steps": 300,
             "batch_size": 16, "window": 256, "eval_rows": 256, "test_tokens": 60_000},
}  # fmt: skip
HALVES = ("A", "B")


def rows(plan: dict[str, Any], seed: int, progress: Progress) -> list[dict[str, Any]]:
    """Trials once, then every method with the seeds of half A and of half B.

    Args:
        plan: settings of a grid; its task names the kind of data only, the text is that of `material`.
        seed: of the split and, shifted, of the trainings.
        progress: called along the way; ends below 1.
    """
    from workbench.grid import planning, settings
    from workbench.grid.running import chosen

    config = {**plan, "split_seed": seed, "first_seed": 100 * seed + 1}
    made = planning.plan(config)
    for row in made.rows:
        row.task = "python"
    found, text = made.settings, material(made.settings)
    halves = [settings.seeds(found), [training + 50 for training in settings.seeds(found)]]
    trained = [row for row in made.rows if row.trials]
    total = len(trained) * (found["trials"] + 2 * found["seeds"]) + 3
    counts, done = itertools.count(1), {}

    def run(cell: dict[str, Any]) -> dict[str, Any]:
        progress(next(counts), total, f"seed {seed}: {cell['name']}, {cell['stage']}")
        done[cell["key"]] = kept(cell["key"], partial(_measure, cell, text))
        return done[cell["key"]]

    gc.freeze()  # the Trainer looks through all of memory for garbage after every cell
    for number, row in itertools.product(range(found["trials"]), trained):
        run(planning.cell(row, found, "trial", row.trials[number], settings.trial_seed(found)))
    table = []
    for half, trainings in zip(HALVES, halves, strict=True):
        for row in made.rows:
            for training in trainings if row.trials else trainings[:1]:
                best = chosen(row, found, done) if row.trials else {}
                if best is None:
                    raise ValueError(f"No trial of {row.name} gave a finite loss; widen its learning rates downwards.")
                cell = run(planning.cell(row, found, "final", best, training))
                table.append({"seed": seed, "half": half, **_scored(row, cell)})
    gc.unfreeze()
    return table


def material(found: dict[str, Any]) -> dict[str, Any]:
    """Modules of the standard library, split and encoded as `workbench.grid.material` does it.

    Args:
        found: checked settings.
    """
    from workbench import data, models
    from workbench.papers._transfer import standard_library
    from workbench.training.batches import spread

    tokenizer = models.load_tokenizer(found["models"][0])
    parts = data.split(standard_library(DOCUMENTS), test=found["test_share"], seed=found["split_seed"])
    encoded = {name: list(data.encode(parts[name], tokenizer, window=found["window"])) for name in ("train", "eval")}
    full = {name: [row for row in part if len(row["input_ids"]) == found["window"]] for name, part in encoded.items()}
    return {
        "kind": "text", "labels": [], "train": full["train"], "evaluation": spread(full["eval"], found["eval_rows"]),
        "test": [{**row, "text": row["text"][:LETTERS]} for row in parts["test"].rows], "general": [],
    }  # fmt: skip


def _measure(cell: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """One cell without its times: they would not be the same twice."""
    from torch.sparse import check_sparse_tensor_invariants as checked

    from workbench.evaluation.cells import plain
    from workbench.grid.cell import run

    with tempfile.TemporaryDirectory() as scratch, checked(False):  # torch warns where SHiRA leaves it open
        found = plain(run(cell, text, Path(scratch), lambda _: None))
    names = ("key", "seed", "eval_loss", "groups", "nll", "tokens", "trainable", "training_bytes", "learning_rate")
    return {name: found[name] for name in names if name in found}


def _scored(row: Any, cell: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": row.name, "method": row.method, "training_seed": cell["seed"],
        "loss": sum(cell["nll"]) / sum(cell["tokens"]),
        "nll": " ".join(f"{value:.4f}" for value in cell["nll"]), "tokens": " ".join(map(str, cell["tokens"])),
        "trainable": cell["trainable"], "training_bytes": cell.get("training_bytes", 0), "within_budget": row.within,
        "learning_rate": cell["learning_rate"],
    }  # fmt: skip


def measured(rows: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name → (nats (runs, documents), tokens (documents,)); the documents of several page seeds stand side by side."""
    found = {}
    for name, own in rows.groupby("name", sort=False):
        nats, tokens = [], []
        for _, part in own.groupby("seed", sort=True):
            ordered = part.drop_duplicates("nll") if name == "base" else part
            ordered = ordered.sort_values("training_seed")
            nats.append(np.array([[float(n) for n in text.split()] for text in ordered["nll"]]))
            tokens.append(np.array([int(n) for n in ordered["tokens"].iloc[0].split()], float))
        runs = min(map(len, nats))
        found[str(name)] = (np.concatenate([part[:runs] for part in nats], 1), np.concatenate(tokens))
    return found


def judged(rows: pd.DataFrame) -> dict[str, Any]:
    """What the claim speaks of, for the rows of one seed.

    Returns:
        behind: percent of loss by which the worst method (worst) is above full fine-tuning, negative when below; learned:
        percent of the untouched model's loss that full fine-tuning takes away; saved: percent of full fine-tuning's memory
        saved by the thirstiest method; agreement: percent of pairs with the same verdict in both halves; tied: rows tied
        with the best.
    """
    from workbench.grid.judging import judge

    methods = [name for name in rows["name"].unique() if name not in ("base", "full")]
    loss, memory = rows.groupby("name")["loss"].mean(), rows.groupby("name")["training_bytes"].max()
    ties = judge(measured(rows), higher=False, reference="full")
    return {
        "behind": float(100 * (loss[methods].max() / loss["full"] - 1)), "worst": str(loss[methods].idxmax()),
        "learned": float(100 * (1 - loss["full"] / loss["base"])),
        "saved": float(100 * (1 - memory[methods].max() / memory["full"])),
        "agreement": agreement(rows), "tied": sum(row["tied"] for row in ties.values()),
    }  # fmt: skip


def agreement(rows: pd.DataFrame) -> float:
    """Percent of pairs of rows with the same verdict in both halves."""
    from workbench.grid.judging import verdicts

    halves = [verdicts(measured(rows[rows["half"] == half])) for half in HALVES]
    return 100 * sum(halves[0][pair] == halves[1][pair] for pair in halves[0]) / len(halves[0])
