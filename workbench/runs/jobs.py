"""The jobs a run can name: a closed list, the only way from a run folder to code. Folders hold data, never code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.errors import JobError, choose

if TYPE_CHECKING:
    from workbench.runs.context import RunContext

# job → module:function; the function takes a RunContext and returns a dict of plain data.
JOBS: dict[str, str] = {
    "finetune": "workbench.training.job:run",
    "quantize": "workbench.compress.job:run",
    "prune": "workbench.compress.prune_job:run",
    "compare": "workbench.evaluation.job:run",
    "grid": "workbench.grid.job:run",
    "frontier": "workbench.compress.frontier:run",
    "export": "workbench.export.job:run",
    "demo": "workbench.demo:run",
    "reproduce": "workbench.papers.job:run",
    "reconstruct": "workbench.geometry.job:run",
    "edit": "workbench.vision.job:run",
    "grow": "workbench.models.growth_job:run",
    "forecast": "workbench.runs.forecast:run",
    "selftest": "workbench.runs.selftest:run",
}

# job → module:settings class whose field defaults a run's settings are compared with; else the module's DEFAULTS.
SETTINGS: dict[str, str] = {
    "finetune": "workbench.training.config:FinetuneConfig",
    "forecast": "workbench.training.config:FinetuneConfig",
}


def load(job: str) -> Callable[[RunContext], dict[str, Any]]:
    """The function behind `job`.

    Raises:
        UserError: when there is no such job.
        JobError: when this installation lacks it.
    """
    import importlib

    module, _, name = JOBS[choose("job", job, JOBS)].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JobError(f"The job {job!r} cannot be loaded ({error}); install workbench again.") from error


def defaults(job: str) -> dict[str, Any]:
    """Default settings of `job` (imports its module); empty when it states none."""
    import dataclasses
    import importlib

    if job in SETTINGS:
        module, _, name = SETTINGS[job].partition(":")
        found = {}
        for field in dataclasses.fields(getattr(importlib.import_module(module), name)):
            if field.default is not dataclasses.MISSING:
                found[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory()
        return found
    module = importlib.import_module(JOBS[choose("job", job, JOBS)].partition(":")[0])
    return dict(getattr(module, "DEFAULTS", {}))
