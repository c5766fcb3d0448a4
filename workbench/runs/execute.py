"""Run one job in this process: environment record, signals, sign of life, result, final status.

SIGTERM and SIGINT are a request to stop, answered at the job's next step; a second one leaves at once, with status
`interrupted`. A thread touches `worker.json` every two seconds and presses a detached worker whose job does not stop.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from workbench.errors import JobError, UserError
from workbench.progress import Progress, silent
from workbench.runs import jobs
from workbench.runs.compare import differences
from workbench.runs.context import RunContext, stop_reason
from workbench.runs.files import is_full, plain, read_json, write_json
from workbench.runs.hardware import command, environment
from workbench.runs.processes import OWNER, escalate, overdue, request_stop
from workbench.runs.run import Run

if TYPE_CHECKING:
    from workbench.runs.queue import Queue

_here = threading.local()
GRACE = 60.0  # seconds a job gets for the step it is in
SIGN_EVERY = 2.0


class RunStopped(JobError):
    """A run in the foreground was stopped and has kept its last step; `run` and `result` say where."""

    def __init__(self, run: Run, result: dict[str, Any] | None = None) -> None:
        super().__init__(f"Stopped; {run.directory} keeps what was done. Continue with: workbench runs resume {run.id}")
        self.run = run
        self.result = result


def working() -> bool:
    """Whether this thread runs a job: one that starts another inside its own process must not wait for itself."""
    return getattr(_here, "depth", 0) > 0


class Signals:
    """Turn SIGTERM and SIGINT into a request to stop while a job runs (in the main thread; elsewhere do nothing)."""

    def __init__(self, context: RunContext, foreground: bool) -> None:
        self.context, self.foreground = context, foreground
        self.seen = self.raised = self.closing = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler; the interpreter calls it in the main thread, between two steps of Python."""
        if self.closing or (self.raised and number == signal.SIGTERM):
            return
        if self.seen or overdue(self.context.directory) >= 1:
            self.raised = True
            raise KeyboardInterrupt
        self.seen = True
        self.context.asked = True
        with suppress(OSError):  # a full disk: the file only tells others
            request_stop(self.context.directory, signal.Signals(number).name, GRACE)
        if self.foreground:
            os.write(2, b"\nStopping after this step; Ctrl-C again leaves at once.\n")


def _sentence(error: BaseException, directory: Path) -> str:
    if isinstance(error, (UserError, JobError)):
        return str(error)
    if is_full(error, directory):
        return (
            f"The disk that holds {directory.parent} is full (or a size limit is reached); free some space, "
            f"then: workbench runs resume {directory.name}"
        )
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return "Out of memory; take a smaller batch, window or model, then start it again."
    first = next(iter(str(error).splitlines()), "")
    return f"{kind}: {first} (the whole trace is in log.txt)."


def _keep_watch(directory: Path, foreground: bool, ended: threading.Event) -> None:
    while not ended.wait(SIGN_EVERY):
        with suppress(OSError):  # a full disk must not end the watch
            os.utime(directory / OWNER)
        if not foreground:
            escalate(directory)


def _record(run: Run, foreground: bool, attempt: int) -> None:
    path = run.directory / "environment.json"
    words = command() if foreground else f"python -m workbench.runs.worker {run.directory}"
    now, before = {**environment(run.config, words), "attempt": attempt}, read_json(path)
    earlier = list(before.get("earlier", [])) if before else []
    if before:
        earlier.append({key: value for key, value in before.items() if key != "earlier" and value != now.get(key)})
    write_json(path, {**now, "earlier": earlier})
    write_json(run.directory / "differences.json", plain(differences(run.config, plain(jobs.defaults(run.job)))))


def execute(queue: Queue, run: Run, progress: Progress = silent, foreground: bool = False) -> dict[str, Any]:
    """Run the job of `run`, which this process owns, to its end, and store the outcome.

    Returns:
        what the job returned.

    Raises:
        RunStopped: it was stopped and has kept its last step.
        UserError, JobError: as the job raised them, or for a full disk.
        BaseException: anything else the job raised; the status is stored first.
    """
    attempt, ended = run.attempt, threading.Event()
    context = RunContext(run, attempt, progress)
    watch = threading.Thread(target=_keep_watch, args=(run.directory, foreground, ended), daemon=True)
    watch.start()
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        with Signals(context, foreground) as signals:
            try:
                context.log(f"attempt {attempt} begins, process {os.getpid()}")
                function = jobs.load(run.job)
                _record(run, foreground, attempt)
                result = plain(function(context))
                if not isinstance(result, dict):
                    raise JobError(f"The job {run.job} returned {type(result).__name__}, not a dict of results.")
                stopped = bool(result.get("stopped", context.saw_stop))
                context.log("stopped by " + stop_reason(run.directory) if stopped else "done")
                context.close()
                write_json(run.directory / "result.json", result)
                signals.closing = True
                queue.finish(run, "stopped" if stopped else "done")
            except BaseException as error:
                signals.closing = True
                _fail(queue, run, error)
                if not isinstance(error, (UserError, JobError)) and is_full(error, run.directory):
                    raise JobError(_sentence(error, run.directory)) from error
                raise
    finally:
        _here.depth -= 1
        ended.set()
        watch.join()
    if stopped:
        raise RunStopped(run, result)
    return result


def _fail(queue: Queue, run: Run, error: BaseException) -> None:
    """Store the status first: on a full disk there may be room for nothing else."""
    if isinstance(error, Exception):
        queue.finish(run, "failed", error=_sentence(error, run.directory))
    else:
        queue.finish(
            run, "interrupted", error="It was ended in the middle of a step; resume goes on from what was saved."
        )
    import traceback

    trace = "" if isinstance(error, (UserError, JobError)) else "".join(traceback.format_exception(error))
    try:
        with open(run.log_path, "a", encoding="utf-8") as file:
            file.write(trace or f"{error}\n")
    except OSError as full:
        print(f"The log takes no more lines ({full.strerror}).", file=sys.stderr)
