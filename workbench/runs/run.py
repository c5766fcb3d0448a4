"""One run as a reader sees it: command line, notebook and app alike. Reading changes nothing and needs no lock.

    runs/20250611-143055-finetune-a1b2/
      config.json        the settings, as submitted          status.json    status, attempt, place in the queue, history
      differences.json   settings that are not the default   progress.json  done, total, text
      environment.json   machine, versions, seed, command    worker.json    who works on it (its age: last sign of life)
      metrics.jsonl      one row a line, only appended       stop.json      there when a stop has been asked for
      checkpoints/  log.txt  result.json  and whatever the job writes

The status shown is the stored one corrected by what is true now: `running` without a living owner is `interrupted`,
`running` with a request to stop is `stopping`.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.runs import metrics as _metrics
from workbench.runs.files import peek, read_json
from workbench.runs.processes import STOP, alive

ID = re.compile(r"(\d{8}-\d{6})-([a-z]{2,20})-[0-9a-f]{4}")
STATES = ("queued", "running", "stopping", "stopped", "interrupted", "failed", "done")
ACTIVE = frozenset({"running", "stopping"})
ENDED = frozenset({"stopped", "interrupted", "failed", "done"})
RESUMABLE = frozenset({"stopped", "interrupted", "failed"})

KILLED = (
    "Its process ended without a word: it was killed, or the machine went down. Resume goes on from what was saved."
)
UNREADABLE = "Its status file cannot be read. Resume goes on from what was saved."


class Run:
    """A run folder. Properties read the folder anew, so a kept `Run` is never stale."""

    __slots__ = ("directory",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.directory == self.directory

    def __hash__(self) -> int:
        return hash(self.directory)

    @property
    def id(self) -> str:
        """Name of the folder: date, time, job, four random digits."""
        return self.directory.name

    @property
    def job(self) -> str:
        """The job, one of `workbench.runs.JOBS`."""
        return ID.fullmatch(self.id).group(2)

    def stored(self) -> dict[str, Any] | None:
        """status.json as it lies there, None when it cannot be read."""
        found = peek(f"{self.directory}/status.json")
        return dict(found) if found is not None and found.get("status") in STATES else None

    def record(self) -> dict[str, Any]:
        """Everything in status.json, with the status as it is now.

        Raises:
            UserError: when the run has been deleted.
        """
        stored = self.stored()
        if stored is None:
            if not self.directory.is_dir():
                raise UserError(f"The run {self.id} has been deleted.")
            living = alive(self.directory)
            attempts = [row.get("attempt", 1) for row in self.metrics()]
            return {
                "status": "running" if living else "interrupted",
                "error": None if living else UNREADABLE,
                "attempt": max((n for n in attempts if isinstance(n, int)), default=1),
                "created": time.mktime(time.strptime(ID.fullmatch(self.id).group(1), "%Y%m%d-%H%M%S")),
                "history": [],
            }
        if (stored["status"] == "running" or (stored["status"] == "queued" and stored.get("foreground"))) and not alive(
            self.directory
        ):
            if self.stored() != stored:  # it ended, properly, between the two looks
                return self.record()
            return {**stored, "status": "interrupted", "error": KILLED}
        if stored["status"] == "running" and os.path.exists(f"{self.directory}/{STOP}"):
            return {**stored, "status": "stopping"}
        return stored

    @property
    def status(self) -> str:
        """queued, running, stopping, stopped, interrupted, failed or done."""
        return self.record()["status"]

    @property
    def name(self) -> str | None:
        """The name the user gave it."""
        return self.record().get("name")

    @property
    def created(self) -> float:
        """When it was submitted, Unix seconds."""
        return self.record().get("created", 0.0)

    @property
    def error(self) -> str | None:
        """Why it failed or was interrupted, one sentence."""
        return self.record().get("error")

    @property
    def attempt(self) -> int:
        """0 before its first start, one more for every start."""
        return self.record().get("attempt", 0)

    @property
    def seconds(self) -> float:
        """Time spent running, over all attempts."""
        record, total, begun = self.record(), 0.0, None
        for event in record.get("history", []):
            if event["status"] == "running":
                begun = event["time"]
            elif begun is not None:
                total, begun = total + event["time"] - begun, None
        return total + (time.time() - begun if begun is not None and record["status"] in ACTIVE else 0.0)

    @property
    def config(self) -> dict[str, Any]:
        """The settings as submitted."""
        return read_json(self.directory / "config.json") or {}

    @property
    def progress(self) -> dict[str, Any] | None:
        """`{"done", "total", "text", "time"}` of the last report, None before the first."""
        return read_json(self.directory / "progress.json")

    @property
    def log_path(self) -> Path:
        """Everything the job printed."""
        return self.directory / "log.txt"

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log; reads at most 64 kB whatever its size."""
        try:
            with open(self.log_path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 65_536))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def metrics(self, since: int = 0) -> _metrics.Rows:
        """Logged rows after byte `since`; the answer's `.offset` is where to go on (see `workbench.runs.metrics`)."""
        return _metrics.read(self.directory / "metrics.jsonl", since)

    def result(self) -> dict[str, Any] | None:
        """What the job returned, None unless it is done or was stopped."""
        return read_json(self.directory / "result.json") if self.status in ("done", "stopped") else None

    def environment(self) -> dict[str, Any] | None:
        """Machine, versions, seed and command of the last attempt; earlier ones that differ are under `earlier`."""
        return read_json(self.directory / "environment.json")

    def differences(self) -> dict[str, Any] | None:
        """Settings that are not the default (see `workbench.runs.differences`), None before the first start."""
        return read_json(self.directory / "differences.json")

    def stamp(self) -> tuple:
        """Changes whenever status, progress, metrics or log do: compare it to skip a redraw. A few microseconds."""
        found: list[Any] = [self.status]
        for name in ("status.json", "progress.json", "metrics.jsonl", "log.txt"):
            try:
                stat = os.stat(f"{self.directory}/{name}")
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
            except OSError:
                found.append(None)
        return tuple(found)
