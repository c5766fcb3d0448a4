"""From a form or an API call to a run: everything that can be wrong is said here, before any model loads.

Callers give keys (`choices`), never paths. What a job does not know is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from workbench.errors import UserError, choose
from workbench.runs import Run, Store

from . import catalogue, choices, live

Config = dict[str, Any]


def submit(job: str, config: Config, name: str | None = None) -> Run:
    """Check the settings of a job and put it in the queue.

    Args:
        job: one of `CHECKS`.
        config: its settings with keys in place of paths.
        name: a name to find the run by.

    Raises:
        UserError: what is wrong, where, what to do.
    """
    if not isinstance(config, dict):
        raise UserError("Settings are names with values.")
    catalogue.ready()
    checked = CHECKS[choose("job", str(job), CHECKS)](dict(config))
    run = Store().submit(job, checked, name=(name or "").strip() or None)
    live.forget()
    return run


def finetune(config: Config) -> Config:
    """Settings of a fine-tuning, with places for its keys.

    Raises:
        UserError: every problem that shows without reading weights.
    """
    from workbench import data, models
    from workbench.training.config import FinetuneConfig, raise_all
    from workbench.training.methods import find_method

    settings = FinetuneConfig.from_dict(config)
    problems = settings.problems()
    model = attempt(problems, lambda: choices.model_place(settings.model))
    source = attempt(problems, lambda: choices.data_place(settings.data))
    attempt(problems, lambda: find_method(settings.method).check(settings.method_args))
    if model:
        attempt(problems, lambda: models.resolve(model))
    if source and not any(problem.split()[0] in ("kind", "limit") for problem in problems):
        kind, columns, limit = settings.kind, settings.columns, settings.limit
        attempt(problems, lambda: data.load(source, kind=kind, columns=columns, limit=limit))
    raise_all(problems)
    return dataclasses.asdict(dataclasses.replace(settings, model=model, data=source))


def attempt(problems: list[str], step: Callable[[], Any]) -> Any:
    """The step's answer, or None with its complaint noted."""
    try:
        return step()
    except UserError as error:
        problems.append(choices.for_page(str(error)))
        return None


def quantize(config: Config) -> Config:
    """Settings of a compression, with places for its keys."""
    from workbench.compress.job import settings

    return smaller(settings(config))


def prune(config: Config) -> Config:
    """Settings of a pruning, with places for its keys."""
    from workbench.compress.prune_job import settings

    return smaller(settings(config))


def smaller(full: Config) -> Config:
    """Checked settings of a compression or pruning, with places for their keys; the model must be there."""
    from workbench import models
    from workbench.compress.job import is_adapter

    full["model"] = choices.model_place(full["model"])
    full["data"] = choices.data_place(full["data"])
    if not is_adapter(full["model"]):
        models.resolve(full["model"])
    return full


def reconstruct(config: Config) -> Config:
    """Settings of a reconstruction; its cloud is a key of `clouds`, or a generated shape."""
    from workbench.geometry import job

    from . import clouds

    place = clouds.settings(str(config["cloud"])) if config.get("cloud") else {}
    full = job.check({**config, **place})
    if full["cloud"] is not None:
        job.cloud_of(full)
    return full


def edit(config: Config) -> Config:
    """Settings of an edit of a drawn scene."""
    from workbench.vision import job

    return job.check(config)


def grow(config: Config) -> Config:
    """Settings of a growth, with places for the keys of model and data."""
    from workbench import models
    from workbench.models.growth_job import check

    full = check(config)
    full["model"], full["data"] = choices.model_place(full["model"]), choices.data_place(full["data"])
    models.resolve(full["model"])
    return full


def export(config: Config) -> Config:
    """Settings of an export, with places for its keys."""
    from . import exports

    return exports.settings(config)


def compare(config: Config) -> Config:
    """Settings of a comparison, with places for its keys."""
    from workbench.evaluation.job import DEFAULTS, check, labels, variant

    full = check({**DEFAULTS, **config})
    full["models"] = [choices.model_place(key) for key in full["models"]]
    full["data"] = choices.data_place(full["data"])
    for place in labels(full["models"]).values():
        variant(place)
    return full


def grid(config: Config) -> Config:
    """Settings of a grid, with places for the keys of models and data; sizes are solved when it starts."""
    from . import grids

    return grids.check(config)


def reproduce(config: Config) -> Config:
    """Settings of a paper's re-run."""
    from workbench.papers import find_pages
    from workbench.papers.reproduction import SCALES

    unknown = sorted(set(config) - {"slug", "scale", "seeds"})
    if unknown:
        raise UserError(f"A paper's re-run has no setting {', '.join(unknown)}; it has slug, scale and seeds.")
    choose("paper", str(config.get("slug", "")), [page["slug"] for page in find_pages()])
    choose("scale", str(config.get("scale", "small")), SCALES)
    seeds = config.get("seeds", 3)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= 20:
        raise UserError(f"seeds is {seeds!r}; it takes a whole number from 1 to 20. A verdict needs 3.")
    return {"scale": "small", "seeds": 3, **config}


def demo(config: Config) -> Config:
    """Settings of the demo, with places for its keys."""
    from workbench.demo import check

    full = {"model": "tiny-lm", "data": "moby-dick", "steps": 40, "seed": 0, **config}
    unknown = sorted(set(full) - {"model", "data", "steps", "seed"})
    if unknown:
        raise UserError(f"The demo has no setting {', '.join(unknown)}; it has model, data, steps and seed.")
    for key, least in (("steps", 1), ("seed", 0)):
        if isinstance(full[key], bool) or not isinstance(full[key], int) or full[key] < least:
            raise UserError(f"{key} is {full[key]!r}; it takes a whole number from {least} up.")
    full["model"], full["data"] = choices.model_place(full["model"]), choices.data_place(full["data"])
    check(full)
    return full


CHECKS: dict[str, Callable[[Config], Config]] = {
    "finetune": finetune,
    "forecast": finetune,
    "quantize": quantize,
    "prune": prune,
    "export": export,
    "reconstruct": reconstruct,
    "edit": edit,
    "grow": grow,
    "compare": compare,
    "grid": grid,
    "reproduce": reproduce,
    "demo": demo,
}


def parse(text: str) -> Config:
    """Settings as JSON text.

    Raises:
        UserError: text that is no JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"The settings are not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise UserError("The settings are not a JSON object of names and values.")
    return found
