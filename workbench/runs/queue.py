"""The queue: one job works at a time, whoever looks starts the next. No daemon.

Whoever looks (a command, a page of the app, a worker that has just finished) takes the lock when something is due,
marks runs whose process is gone as interrupted, presses workers that do not stop, and starts the first run that waits
when nothing works. Truth is in the folders; the lock only orders the writers, so a crash anywhere loses nothing.

A run in the foreground (`foreground` in its status) waits in the same queue, but is started by its own process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.runs.files import locked, read_json, trouble, write_json
from workbench.runs.folders import find, records_in
from workbench.runs.processes import OWNER, STOP, escalate, identity, is_me, overdue, spawn
from workbench.runs.run import ACTIVE, Run

RESERVE = ".reserve"  # given up so that the last status of a run fits on a disk it has filled
RESERVE_BYTES = 65_536


class Queue:
    """The runs under `root` as a queue. Methods whose text says so expect the caller to hold the lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trouble: str | None = None  # why the last look could not bring the queue up to date

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a folder that is read-only, full or no folder into one sentence."""
        try:
            yield
        except OSError as error:
            raise UserError(trouble(error, self.root)) from error

    def settle(self) -> None:
        """Bring the queue up to date. Takes the lock only when something is due.

        A run folder that cannot be written to does not stop anyone from looking: `trouble` then says why.
        """
        if self._due():
            try:
                with locked(self.root):
                    self.advance()
                self.trouble = None
            except OSError as error:
                self.trouble = trouble(error, self.root)

    def _due(self) -> bool:
        pairs, active = records_in(self.root), False
        for run, record in pairs:
            if _unmarked(run, record) or (record["status"] == "stopping" and overdue(run.directory) >= 1):
                return True
            active = active or record["status"] in ACTIVE
        queue = in_order(pairs)
        return bool(queue) and not active and not queue[0][1].get("foreground")

    def advance(self) -> tuple[list[Run], list[Run]]:
        """With the lock held: mark, press, start. Returns the runs that work and those that wait."""
        active, waiting = [], []
        for run, record in records_in(self.root):
            if _unmarked(run, record):
                self.set(run, "interrupted", when=_last_sign(run), error=record["error"], position=None)
            elif record["status"] in ACTIVE:
                active.append(run)
                if not record.get("foreground"):
                    escalate(run.directory)
            else:
                waiting.append((run, record))
        queue = in_order(waiting)
        if queue and not active and not queue[0][1].get("foreground"):
            head = queue.pop(0)[0]
            self._launch(head)
            active.append(head)
        return active, [run for run, _ in queue]

    def _launch(self, run: Run) -> None:
        """Start the worker. Until it lives, this process is the owner, so a crash in between reads as interrupted."""
        self.begin(run)
        try:
            owner = spawn(run.directory, run.record().get("cwd"))
        except OSError as error:
            self.set(run, "failed", error=f"Its worker could not be started ({error.strerror}).")
            return
        write_json(run.directory / OWNER, owner)

    def begin(self, run: Run) -> None:
        """With the lock held: this process becomes the owner and a new attempt starts."""
        (run.directory / STOP).unlink(missing_ok=True)
        write_json(run.directory / OWNER, identity())
        try:
            (run.directory / RESERVE).write_bytes(b"\0" * RESERVE_BYTES)
        except OSError:
            (run.directory / RESERVE).unlink()  # a part of it would take the last bytes for nothing
            raise
        self.set(run, "running", attempt=run.record().get("attempt", 0) + 1, position=None, error=None)

    def claim(self, id: str) -> Run:
        """Become the worker of a run (called by the worker process).

        Raises:
            UserError: when another process works on it, another run works, or it does not wait.
        """
        with self.writing(), locked(self.root):
            run = find(self.root, id)
            status, owner = run.status, read_json(run.directory / OWNER)
            if status in ACTIVE:
                if is_me(owner):
                    return run
                pid = (owner or {}).get("pid", "unknown")
                raise UserError(f"{id} already has a worker (process {pid}); a second one is refused.")
            if status != "queued":
                raise UserError(f"{id} is {status}; put it in the queue with: workbench runs resume {id}")
            busy = next((other for other, record in records_in(self.root) if record["status"] in ACTIVE), None)
            if busy is not None:
                raise UserError(f"{busy.id} works; {id} waits and starts by itself.")
            self.begin(run)
        return run

    def finish(self, run: Run, status: str, error: str | None = None) -> None:
        """Store how a run ended; nobody owns it any more. When the disk is full, the reserve makes room."""
        with locked(self.root):
            try:
                self.set(run, status, error=error)
            except OSError:
                (run.directory / RESERVE).unlink(missing_ok=True)
                self.set(run, status, error=error)
            for name in (RESERVE, OWNER):
                (run.directory / name).unlink(missing_ok=True)

    def set(self, run: Run, status: str, *, when: float | None = None, **fields: Any) -> None:
        """With the lock held: store a new status and remember the change."""
        record = run.stored() or run.record()
        event = {"status": status, "time": when or time.time(), "process": os.getpid()}
        history = [*record.get("history", []), event]
        write_json(run.directory / "status.json", {**record, **fields, "status": status, "history": history})

    def last_place(self) -> int:
        """With the lock held: the place behind everyone who waits."""
        waiting = in_order(records_in(self.root))
        return 1 + max((record.get("position") or 0 for _, record in waiting), default=-1)


def in_order(runs: Iterable[tuple[Run, dict[str, Any]]]) -> list[tuple[Run, dict[str, Any]]]:
    """Those of `runs` that wait, with their records, in the order in which they start."""
    waiting = [(run, record) for run, record in runs if record["status"] == "queued" and not record.get("held")]
    return sorted(waiting, key=lambda pair: (pair[1].get("position") or 0, pair[1].get("created", 0.0), pair[0].id))


def _unmarked(run: Run, record: dict[str, Any]) -> bool:
    """Whether the run has lost its process and nobody has written that down yet."""
    stored = run.stored()
    return record["status"] == "interrupted" and (stored is None or stored["status"] != "interrupted")


def _last_sign(run: Run) -> float:
    times = []
    for name in (OWNER, "metrics.jsonl", "progress.json"):
        with suppress(OSError):
            times.append((run.directory / name).stat().st_mtime)
    return max(times, default=time.time())
