"""The rows that all cells of one model and task share: split once by document, encoded once, kept in the grid's folder.

Every method then trains on the same rows in the same order (the order depends on the seed alone) and answers the same
questions; a cell has nothing left to prepare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.evaluation import cells as files

GENERAL_ROWS = 12


def make(model: str, task: str, found: dict[str, Any]) -> dict[str, Any]:
    """Encode and cut.

    Returns:
        {kind, labels, train, evaluation: encoded rows, test: rows of text, general: rows of text or []}.

    Raises:
        UserError: too little data for the settings.
    """
    from workbench import data, models
    from workbench.training.batches import spread

    tokenizer = models.load_tokenizer(model)
    examples = data.load(task, limit=found["limit"])
    parts = data.split(examples, test=found["test_share"], seed=found["split_seed"])
    encoded = {part: list(data.encode(parts[part], tokenizer, window=found["window"])) for part in ("train", "eval")}
    if len(encoded["train"]) < found["batch_size"]:
        raise UserError(
            f"The training part of {task} has {len(encoded['train'])} rows, fewer than a batch of {found['batch_size']}."
        )
    test = parts["test"].rows
    if examples.kind == "classification":
        test = spread(test, found["test_rows"])
    return {
        "kind": examples.kind,
        "labels": list(examples.labels),
        "train": [_lean(row) for row in encoded["train"]],
        "evaluation": [_lean(row) for row in spread(encoded["eval"], found["eval_rows"])],
        "test": [dict(row) for row in test],
        "general": _general(found),
    }


def _lean(row: dict[str, Any]) -> dict[str, Any]:
    return {"input_ids": list(row["input_ids"]), "labels": row["labels"], "group": row.get("group")}


def _general(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Text that no cell trains on, for what was forgotten."""
    if not found["general"]:
        return []
    from workbench import data
    from workbench.training.batches import spread

    examples = data.load(found["general"])
    if examples.kind != "text":
        raise UserError(f"{found['general']} holds {examples.kind} rows; forgetting is measured on plain text.")
    return [dict(row) for row in spread(data.split(examples, seed=found["split_seed"])["test"].rows, GENERAL_ROWS)]


def path(folder: Path, key: str) -> Path:
    """Where it lies."""
    return folder / "material" / f"{key}.json"


def ensure(folder: Path, key: str, model: str, task: str, found: dict[str, Any]) -> dict[str, Any]:
    """The kept rows, made when they are not there."""
    kept = files.read(folder / "material", key)
    if kept is None:
        kept = make(model, task, found)
        files.write(folder / "material", key, kept)
    return kept
