"""Fine-tune a model on data, by any method, in a folder that can be left and come back to at any step.

    prepare (everything checked, nothing loaded) → lock the folder → load, quantize, attach → dry run and forecast
    → train (curve from step 0, checkpoints, early stop, stop on request) → keep the best weights in `tuned/`

Calling `finetune` again with the same settings on the same folder continues from the last whole checkpoint: data order,
optimizer, schedule and random state go on as if nothing had happened, and a finished folder returns its result.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import JobError
from workbench.progress import Progress, silent
from workbench.training.config import FinetuneConfig
from workbench.training.folder import Folder, disk_errors, require_space

Log = Callable[..., None]


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning gave.

    Attributes:
        path: folder with the best weights; give it to `load_tuned`.
        metrics: steps, best_step, train_loss, and with evaluation eval_loss_start, eval_loss (of the kept weights),
            perplexity or eval_accuracy.
        forecast: the fields of `Forecast`, from before the first step.
        measured: what really happened: seconds, step_seconds (median of the last attempt), peak_bytes, file_bytes,
            trainable, total, precision.
        curve: rows {step, loss, …} and {step, eval_loss, …} from step 0 on.
        stopped: whether it was stopped before its last step and can be continued.
    """

    path: Path
    metrics: dict[str, Any]
    forecast: dict[str, Any]
    measured: dict[str, Any]
    curve: list[dict[str, float]]
    stopped: bool = False


def finetune(
    config: FinetuneConfig,
    directory: Path | str,
    *,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
    log: Log | None = None,
) -> FinetuneResult:
    """Train, or go on with, the fine-tuning in `directory`.

    Args:
        config: the settings.
        directory: created when missing; one fine-tuning each.
        progress: told (steps done, steps, text).
        should_stop: asked after every step; True saves that step and returns. Ctrl-C does the same, a second one leaves
            at once (the last checkpoint stays).
        log: called as log(step=…, loss=…) and log(step=…, eval_loss=…).

    Returns:
        The result; `stopped` tells whether steps are left.

    Raises:
        UserError: settings, data, model or folder that cannot work; nothing has been written then.
        JobError: the numbers broke, or disk or memory gave out; the last whole checkpoint is kept.
    """
    folder = Folder(Path(directory))
    stored = _finished(folder, config)
    if stored is not None:
        return stored
    from workbench.training.prepare import prepare

    progress(0, config.steps, "checking model and data")
    prepared = prepare(config)
    require_space(folder.directory, _space(prepared))
    with folder.locked():
        stored = _finished(folder, config)
        if stored is not None:
            return stored
        with disk_errors(folder.directory), _ctrl_c(should_stop) as asked:
            return _run(prepared, folder, progress, asked, log)


def _run(
    prepared: Any, folder: Folder, progress: Progress, should_stop: Callable[[], bool], log: Log | None
) -> FinetuneResult:
    from workbench.models.quiet import quiet
    from workbench.training import base, extras, forecasting, loop
    from workbench.training.meter import Peak

    config = prepared.config
    resume = folder.last_checkpoint(extras.extra_files(prepared.method))
    packed = folder.directory / "base" if config.quantize else None
    progress(0, config.steps, "loading the model")
    model = base.trainable_model(prepared, packed)
    state = folder.state()
    if "forecast" not in state:
        progress(0, config.steps, "two steps to forecast time and memory")
        forecast = dataclasses.asdict(forecasting.dry_run(prepared, model))
        folder.write(config=dataclasses.asdict(config), forecast=forecast, seconds=0.0, peak_bytes=0)
        state = folder.state()
    forecast = state["forecast"]

    watch = loop.Watch(config, progress, should_stop, log)
    callbacks = [watch, *extras.extras(prepared.method, resume)]
    args = loop.arguments(prepared, folder.checkpoints, forecast["precision"], resumed=resume is not None)
    trainer = loop.build(prepared, model, args, callbacks)
    start = time.perf_counter()
    try:
        with Peak() as peak, quiet():
            loop.train(trainer, resume, folder.directory)
    finally:
        seconds = state["seconds"] + time.perf_counter() - start
        folder.write(seconds=seconds, peak_bytes=max(state["peak_bytes"], peak.bytes))
    return _conclude(prepared, folder, trainer.state, watch, forecast)


def _conclude(prepared: Any, folder: Folder, trained: Any, watch: Any, forecast: dict[str, Any]) -> FinetuneResult:
    """Keep the best weights, write the result, clear what only resuming needs when no step is left."""
    from workbench.training.save import keep, weight_bytes

    curve = [
        {name: value for name, value in row.items() if name != "epoch"}
        for row in trained.log_history
        if "loss" in row or "eval_loss" in row
    ]
    best = trained.best_model_checkpoint or f"{folder.checkpoints}/checkpoint-{trained.global_step}"
    packed = folder.directory / "base"
    keep(Path(best), folder.tuned, prepared, packed if packed.is_dir() else None)
    state = folder.state()
    done = trained.global_step
    measured = {
        "seconds": state["seconds"],
        "step_seconds": statistics.median(watch.step_seconds or [0.0]),
        "peak_bytes": state["peak_bytes"],
        "file_bytes": weight_bytes(folder.tuned),
        "trainable": forecast["trainable"],
        "total": forecast["total"],
        "precision": forecast["precision"],
    }
    stopped = watch.stopped
    metrics = summary(curve, int(Path(best).name.rpartition("-")[2]), done, watch.early)
    result = FinetuneResult(folder.tuned, metrics, forecast, measured, curve, stopped)
    if not stopped:
        folder.write(result={**dataclasses.asdict(result), "path": folder.tuned.name})
        shutil.rmtree(folder.checkpoints)
        shutil.rmtree(packed, ignore_errors=True)
    return result


def summary(curve: list[dict[str, float]], best: int, steps: int, early: bool) -> dict[str, Any]:
    """The numbers worth a line, from the curve."""
    losses = [row["loss"] for row in curve if "loss" in row]
    held_out = {row["step"]: row for row in curve if "eval_loss" in row}
    tail = losses[-max(1, len(losses) // 10) :]
    found: dict[str, Any] = {"steps": steps, "best_step": best, "train_loss": sum(tail) / len(tail)}
    if 0 in held_out:
        found["eval_loss_start"] = held_out[0]["eval_loss"]
    if best in held_out:
        found["eval_loss"] = held_out[best]["eval_loss"]
        if "eval_accuracy" in held_out[best]:
            found["eval_accuracy"] = held_out[best]["eval_accuracy"]
        else:
            found["perplexity"] = math.exp(min(700.0, found["eval_loss"]))
    if early:
        found["stopped_early"] = True
    return found


def _finished(folder: Folder, config: FinetuneConfig) -> FinetuneResult | None:
    state = folder.check(config)
    if "result" not in state:
        return None
    stored = dict(state["result"])
    path = folder.directory / stored.pop("path")
    if not path.is_dir():
        raise JobError(
            f"{folder.directory} is finished but {path.name} is gone; choose another folder and train again."
        )
    return FinetuneResult(path=path, **stored)


def _space(prepared: Any) -> int:
    """Bytes on disk at the worst moment: three checkpoints with two optimizer moments each, and the kept weights."""
    return 3 * (prepared.file_bytes + 8 * prepared.trainable) + prepared.file_bytes + 10_000_000


@contextmanager
def _ctrl_c(should_stop: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Make the first Ctrl-C a request to stop and the second one final, unless somebody else handles Ctrl-C already."""
    standard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not standard:
        yield should_stop
        return
    seen = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if seen.is_set():
            raise KeyboardInterrupt
        seen.set()
        os.write(2, b"\nStopping after this step; Ctrl-C again leaves at once.\n")

    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: seen.is_set() or should_stop()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
