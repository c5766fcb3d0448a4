"""Named endpoints for `gradio_client`: submit a run, follow it, stop it, resume it. No page is needed for any of them.

from gradio_client import Client
client = Client("http://127.0.0.1:7860")
run = client.predict("finetune", {"model": "tiny-lm", "data": "moby-dick", "steps": 50}, "", api_name="/submit")["run"]
client.predict(run, 0, api_name="/metrics")   # {"rows": […], "offset": …}: go on from the offset
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from workbench.errors import JobError, UserError
from workbench.runs import Run, Store

from . import choices, live
from . import submit as checks


def record(run: Run) -> dict[str, Any]:
    """One run as the endpoints give it; places on the server appear as keys."""
    known, progress = run.record(), run.progress or {}
    return {
        "run": run.id,
        "job": run.job,
        "title": live.title(run),
        "status": known["status"],
        "error": known.get("error"),
        "progress": {key: progress.get(key) for key in ("done", "total", "text")},
        "seconds": round(run.seconds, 1),
        "config": {key: choices.shown(value) for key, value in live.config(run).items()},
    }


def submit(job: str, config: dict, name: str) -> dict:
    """Put a job in the queue.

    Args:
        job: finetune, forecast, quantize, prune, export, compare, grid, reproduce, demo, reconstruct or edit.
        config: its settings; models and data by their names or keys, never by path.
        name: a name to find the run by; empty for none.
    """
    return record(checks.submit(job, config, name))


def status(run: str) -> dict:
    """Status, progress and settings of a run.

    Args:
        run: its id.
    """
    return record(Store().get(run))


def metrics(run: str, since: float) -> dict:
    """What a run has logged after byte `since`, and the offset to go on from.

    Args:
        run: its id.
        since: 0, or the offset of the answer before.
    """
    rows = Store().get(run).metrics(max(0, int(since)))
    return {"rows": list(rows), "offset": rows.offset}


def result(run: str) -> dict:
    """What a finished run returned; places on the server appear as keys.

    Args:
        run: its id.
    """
    found = Store().get(run).result() or {}
    # Clients take an object with a `path` for a file to fetch; what a run made is named by its key.
    names = {"path": "model"}
    return {names.get(key, key): choices.shown(value) for key, value in found.items()}


def stop(run: str) -> dict:
    """Ask a run to stop; it keeps its last step.

    Args:
        run: its id.
    """
    found = Store().stop(run)
    live.forget()
    return record(found)


def resume(run: str) -> dict:
    """Put a stopped, interrupted or failed run back in the queue, on the same curve.

    Args:
        run: its id.
    """
    found = Store().resume(run)
    live.forget()
    return record(found)


def runs() -> list:
    """Every run, newest first."""
    return [record(run) for run, _ in live.snapshot().runs]


def models() -> list:
    """Keys of the models that can be named: bundled ones, folders, and what runs have made."""
    snap = live.snapshot()
    known = choices.base_models() + choices.run_models([run for run, _ in snap.runs], live.title)
    return [{"key": key, "label": label} for label, key in known]


ENDPOINTS: tuple[Callable[..., Any], ...] = (submit, status, metrics, result, stop, resume, runs, models)


def register() -> None:
    """Add the endpoints to the current `gr.Blocks`."""
    for function in ENDPOINTS:
        gr.api(plainly(function), api_name=function.__name__, queue=False)


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with bad input turned into the sentence the client shows."""
    import functools

    @functools.wraps(function)
    def inner(*values: Any, **named: Any) -> Any:
        try:
            return function(*values, **named)
        except (UserError, JobError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return inner
