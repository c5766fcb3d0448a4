"""The job `compare` of the run store: models by name or folder, measured on the test part of one split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError

if TYPE_CHECKING:
    from workbench.evaluation.compare import Variant
    from workbench.models import ModelRef
    from workbench.runs import RunContext

DEFAULTS = {"models": [], "data": "moby-dick", "window": 256, "tokens": 12_000, "items": 48, "seed": 0}


def run(context: RunContext) -> dict[str, Any]:
    """Compare `models` (the first is the reference); cells stay in the run's folder and are not measured twice.

    Args:
        context: its config holds the keys of `DEFAULTS`.

    Returns:
        rows, tied_best, budget, tests, stopped.

    Raises:
        UserError: settings, models or data that cannot work, before any model is loaded.
        JobError: a model that cannot be measured.
    """
    from workbench.data import load, split
    from workbench.evaluation.compare import Settings, compare

    config = check({**DEFAULTS, **context.config})
    variants = {name: variant(model) for name, model in labels(config["models"]).items()}
    examples = load(config["data"])
    if examples.kind != "text":
        raise UserError(f"{config['data']} holds {examples.kind} rows; models are compared on plain text.")
    found = compare(
        variants,
        split(examples, seed=config["seed"])["test"],
        settings=Settings(window=config["window"], tokens=config["tokens"], items=config["items"], seed=config["seed"]),
        folder=Path(context.directory) / "cells",
        progress=context.progress,
        should_stop=context.should_stop,
    )
    return {
        "rows": found.rows.astype(object).where(found.rows.notna(), None).to_dict("records"),
        "tied_best": found.tied_best,
        "budget": found.budget,
        "tests": found.tests,
        "stopped": found.stopped,
    }


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Refuse settings that cannot work, all of them in one sentence; returns them.

    Raises:
        UserError: unknown keys, no models, numbers out of range.
    """
    wrong = [f"there is no setting {key!r}" for key in config if key not in DEFAULTS]
    models = config["models"]
    if not isinstance(models, list) or not models or not all(isinstance(name, str) and name for name in models):
        wrong.append("models must be a list of names or folders")
    for key, least in (("window", 2), ("tokens", 1), ("items", 1), ("seed", 0)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            wrong.append(f"{key} is {value!r}, it must be a whole number of at least {least}")
    if wrong:
        raise UserError(f"This comparison cannot run: {'; '.join(wrong)}. Known settings: {', '.join(DEFAULTS)}.")
    return config


def labels(models: list[str]) -> dict[str, str]:
    """Short, distinct names for the table: a folder's last part, more of its path where two would be the same.

    Raises:
        UserError: one model named twice.
    """
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)} is named twice; name each model once.")
    for parts in range(1, 20):
        short = ["/".join(Path(model).parts[-parts:]) for model in models]
        if len(set(short)) == len(short):
            return dict(zip(short, models, strict=True))
    return {model: model for model in models}


def variant(model: str) -> Variant:
    """How to load `model`, and what tells its weights from others: names, sizes and dates of its files.

    Bundled and hub models go by their name alone: their files may not be there before the first load.

    Raises:
        UserError: nothing of that name can be loaded.
    """
    from workbench.chat import open_model
    from workbench.evaluation.compare import Variant
    from workbench.models import resolve

    def load() -> tuple[Any, Any]:
        opened = open_model(model)
        return opened.model, opened.tokenizer

    folder = Path(model)
    if (folder / "adapter_config.json").is_file():
        base = _base(folder)
        refs, places = [base.name], (folder, base.path)
    else:
        ref = resolve(model)
        refs, places = [ref.name], (ref.path,)
        folder = ref.path if ref.kind == "folder" else None
    files = (
        [] if folder is None else [folder] if folder.is_file() else sorted(p for p in folder.iterdir() if p.is_file())
    )
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return Variant(load, {"model": model, "weights": refs, "files": stamps}, tuple(path for path in places if path))


def _base(folder: Path) -> ModelRef:
    """The model under an adapter: a packed one kept beside it, else the one that it names."""
    import json

    from workbench.models import resolve

    if (folder / "base").is_dir():
        return resolve(str(folder / "base"))
    named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise UserError(
            f"{folder}/adapter_config.json does not name its base model; set base_model_name_or_path there."
        )
    return resolve(named)
