"""What a job function sees of its run: settings, folder, metrics, progress and the question whether to stop."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from workbench.progress import Progress, silent
from workbench.runs.files import read_json, write_json
from workbench.runs.metrics import Writer
from workbench.runs.processes import STOP
from workbench.runs.run import Run

PROGRESS_EVERY = 0.25  # seconds between two writes of progress.json
LOG_EVERY = 10.0  # seconds between two progress lines in the log


class RunContext:
    """Given to the job function `fn(run: RunContext) -> dict`.

    Attributes:
        directory: the run folder; the job writes what it makes here.
        config: its settings.
        attempt: 1 at first, one more for every resume. `resumed` is True from 2 on.
        checkpoints: the folder for what resume needs. Save beside and rename over, then any kill is harmless.
    """

    def __init__(self, run: Run, attempt: int, progress: Progress = silent) -> None:
        self.id = run.id
        self.directory: Path = run.directory
        self.config: dict[str, Any] = run.config
        self.attempt = attempt
        self.resumed = attempt > 1
        self.checkpoints = self.directory / "checkpoints"
        self.asked = False  # set by a signal
        self.saw_stop = False  # the job has been told
        self._show = progress
        self._metrics = Writer(self.directory / "metrics.jsonl", attempt)
        self._stop = str(self.directory / STOP)
        self._written = self._logged = -1e9
        self._last: dict[str, Any] | None = None

    def log_metrics(self, **values: Any) -> None:
        """Append one row. `step` (a number) orders rows and lets a resume replace those after its checkpoint."""
        self._metrics.append(values)

    def progress(self, done: float, total: float, text: str) -> None:
        """Report progress; call it as often as you like."""
        self._show(done, total, text)
        now = time.monotonic()
        self._last = {"done": float(done), "total": float(total), "text": str(text), "time": time.time()}
        if now - self._written >= PROGRESS_EVERY:
            self._write()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self.log(f"{done / total:4.0%}  {text}" if total else text)

    def should_stop(self) -> bool:
        """Whether a stop was asked for. A job that sees True saves its last step and returns (one `stat` call)."""
        if not self.saw_stop and (self.asked or os.path.exists(self._stop)):
            self.saw_stop = True
        return self.saw_stop

    def log(self, text: str) -> None:
        """Add a line, with the time, to the run's log."""
        with open(self.directory / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')}  {text}\n")

    def _write(self) -> None:
        self._written = time.monotonic()
        write_json(self.directory / "progress.json", self._last, flush=False)
        self._last = None

    def close(self) -> None:
        """Write the last progress report and close the metrics."""
        if self._last is not None:
            self._write()
        self._metrics.close()


def stop_reason(directory: Path) -> str:
    """Who asked for the stop, for the log."""
    return str((read_json(directory / STOP) or {}).get("by", "nobody"))
