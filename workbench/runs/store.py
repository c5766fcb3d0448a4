"""The store: submit, list, stop, resume, reorder, delete. Every look brings the queue (`queue.py`) up to date first."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.errors import UserError, choose
from workbench.progress import Progress, silent
from workbench.runs import jobs
from workbench.runs.execute import GRACE, RunStopped, execute, working
from workbench.runs.files import locked, read_json, write_json
from workbench.runs.folders import clean_name, create, find, plain_config, records_in, remove_if_untouched, sweep
from workbench.runs.processes import OWNER, identity, request_stop
from workbench.runs.queue import Queue, in_order
from workbench.runs.run import ACTIVE, ENDED, RESUMABLE, Run


class Store:
    """The runs under one folder; any number of stores, in any number of processes, may use it at once.

    Args:
        root: the folder (default: ./runs, or WORKBENCH_RUNS). It is made on the first submit.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root if root is not None else paths.runs_root()).absolute()
        self._queue = Queue(self.root)

    @property
    def trouble(self) -> str | None:
        """Why the last look could not bring the queue up to date (folder read-only, disk full), else None."""
        return self._queue.trouble

    def settle(self) -> None:
        """Bring the queue up to date: mark runs whose process is gone, start the next. Cheap when nothing is due."""
        self._queue.settle()

    # -- looking

    def list(self) -> list[Run]:
        """Every run, newest first."""
        self.settle()
        pairs = records_in(self.root)
        pairs.sort(key=lambda pair: (pair[1].get("created", 0.0), pair[0].id), reverse=True)
        return [run for run, _ in pairs]

    def get(self, id: str) -> Run:
        """The run called `id`.

        Raises:
            UserError: when `id` is not a run id (it never becomes a path) or there is no such run.
        """
        self.settle()
        return find(self.root, id)

    def find(self, job: str, config: dict[str, Any]) -> Run | None:
        """The newest run of `job` with exactly these settings, None when there is none: to continue instead of redo."""
        wanted = plain_config(config)
        return next((run for run in self.list() if run.job == job and run.config == wanted), None)

    def queue(self) -> list[Run]:
        """Runs that wait, in the order in which they will start."""
        self.settle()
        return [run for run, _ in in_order(records_in(self.root))]

    def wait(self, id: str, timeout: float | None = None) -> Run:
        """Look until the run has ended.

        Raises:
            UserError: when it has not after `timeout` seconds.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (run := self.get(id)).status not in ENDED:
            if time.monotonic() > deadline:
                raise UserError(f"{id} is still {run.status} after {timeout:.0f} s; wait longer, or stop it.")
            time.sleep(0.1)
        return run

    # -- acting

    def submit(self, job: str, config: dict[str, Any], name: str | None = None, start: bool = True) -> Run:
        """Put a run at the end of the queue; it starts at once when nothing works.

        Args:
            job: one of `workbench.runs.JOBS`.
            config: its settings, plain data.
            name: a name to find it by.
            start: False holds it back until `resume`.

        Raises:
            UserError: unknown job, settings that are not plain data, a folder that cannot be written to.
        """
        with self._queue.writing():
            run = self._create(job, config, name, held=not start)
            try:
                with locked(self.root):
                    self._queue.advance()
            except OSError:  # the disk took the folder and no more: the queue is as it was before
                if run.status == "queued":
                    remove_if_untouched(run)
                raise
        return run

    def run_here(
        self, job: str, config: dict[str, Any], *, name: str | None = None, progress: Progress = silent
    ) -> dict[str, Any]:
        """Run a job in this process, in a run folder like any other, once it is its turn.

        Returns:
            what the job returned.

        Raises:
            RunStopped: after Ctrl-C or a stop; the last step is kept.
            UserError: bad settings (a folder in which nothing was done is removed again).
            JobError: the job could not finish.
            KeyboardInterrupt: after a second Ctrl-C; the run is marked interrupted.
        """
        jobs.load(job)
        with self._queue.writing():
            run = self._create(job, config, name, foreground=True)
        try:
            return self._here(run, progress)
        except UserError:
            remove_if_untouched(run)
            raise

    def continue_here(
        self, job: str, config: dict[str, Any], *, name: str | None = None, progress: Progress = silent, hint: str = ""
    ) -> dict[str, Any]:
        """Continue the newest unfinished run with these settings, return a finished one's result, or start the first.

        Args:
            job, config, name, progress: as for `run_here`.
            hint: what else could be done while such a run works or waits, behind the sentence that says so.

        Raises:
            UserError: it works or waits already; otherwise what `run_here` raises.
        """
        found = self.find(job, config)
        if found is None:
            return self.run_here(job, config, name=name, progress=progress)
        status = found.status
        if status == "done":
            return found.result()
        if status in RESUMABLE:
            return self.resume_here(found.id, progress)
        raise UserError(
            f"This {job} is {status} already as {found.id}; look at it with: workbench runs show {found.id}{hint}."
        )

    def resume_here(self, id: str, progress: Progress = silent) -> dict[str, Any]:
        """Continue a stopped, interrupted or failed run in this process; returns and raises like `run_here`."""
        run = self._resumable(id)
        with self._queue.writing(), locked(self.root):
            self._requeue(self._resumable(id), foreground=True)
        return self._here(run, progress)

    def resume(self, id: str) -> Run:
        """Put a stopped, interrupted or failed run (or one held back) at the end of the queue, in the same folder.

        Raises:
            UserError: when it works, waits already, or is done.
        """
        self.settle()
        with self._queue.writing(), locked(self.root):
            run = self._resumable(id)
            self._requeue(run, foreground=False)
            self._queue.advance()
        return run

    def rerun(self, id: str) -> Run:
        """Submit a new run with the job, settings and name of another."""
        run = self.get(id)
        return self.submit(run.job, run.config, run.name)

    def stop(self, id: str, grace: float = GRACE) -> Run:
        """Ask a run to stop: it saves its last step and ends. One that waits leaves the queue.

        Args:
            id: the run.
            grace: seconds for the step it is in; after that it gets SIGTERM, after twice that it is killed.

        Raises:
            UserError: when it has ended already.
        """
        self.settle()
        with self._queue.writing(), locked(self.root):
            run = find(self.root, id)
            status = run.status
            if status in ENDED:
                raise UserError(f"{id} is {status} already; there is nothing to stop.")
            if status == "queued":
                self._queue.set(run, "stopped", position=None, held=False)
            else:
                request_stop(run.directory, "a stop request", grace)
            self._queue.advance()
        return run

    def reorder(self, id: str, position: int) -> Run:
        """Move a run that waits to `position` (0 starts next; a number past the end means last).

        Raises:
            UserError: when it does not wait.
        """
        with self._queue.writing(), locked(self.root):
            run = find(self.root, id)
            if run.status != "queued":
                raise UserError(f"{id} is {run.status}; only runs that wait have a place in the queue.")
            order = [other for other, _ in in_order(records_in(self.root)) if other != run]
            order.insert(max(0, position), run)
            for place, other in enumerate(order):
                stored = other.stored()
                if stored["position"] != place:
                    write_json(other.directory / "status.json", {**stored, "position": place})
        return run

    def delete(self, id: str) -> None:
        """Delete a run's folder for good.

        Raises:
            UserError: while it works.
        """
        import shutil

        self.settle()
        with self._queue.writing():
            with locked(self.root):
                run = find(self.root, id)
                if run.status in ACTIVE:
                    raise UserError(f"{id} is {run.status}; stop it first: workbench runs stop {id}")
                doomed = self.root / f".trash-{id}-{os.getpid()}"
                os.rename(run.directory, doomed)
            shutil.rmtree(doomed)
            sweep(self.root)

    def _here(self, run: Run, progress: Progress) -> dict[str, Any]:
        try:
            while not self._my_turn(run, progress):
                time.sleep(0.2)
        except KeyboardInterrupt:
            with locked(self.root):
                self._queue.set(run, "stopped", position=None)
            raise
        try:
            return execute(self._queue, run, progress, foreground=True)
        finally:
            self.settle()

    def _my_turn(self, run: Run, progress: Progress) -> bool:
        with self._queue.writing(), locked(self.root):
            active, queue = self._queue.advance()
            if run.status != "queued":
                raise RunStopped(run)
            if working() or (not active and queue[0] == run):
                self._queue.begin(run)
                return True
        ahead = len(active) + queue.index(run)
        progress(
            0, 1, f"waits for {active[0].id if active else queue[0].id}" + (f" and {ahead - 1} more" * (ahead > 1))
        )
        return False

    def _resumable(self, id: str) -> Run:
        run = find(self.root, id)
        record = run.record()
        status = record["status"]
        if status == "queued" and record.get("held"):
            return run
        if status not in RESUMABLE:
            hint = "submit its settings again" if status == "done" else "there is nothing to resume"
            raise UserError(f"{id} is {status}; {hint}.")
        if read_json(run.directory / "config.json") is None:
            raise UserError(f"{run.directory / 'config.json'} cannot be read, so {id} cannot go on; submit it anew.")
        return run

    def _requeue(self, run: Run, foreground: bool) -> None:
        if foreground:
            write_json(run.directory / OWNER, identity())
        self._queue.set(run, "queued", position=self._queue.last_place(), held=False, foreground=foreground, error=None)

    def _create(self, job: str, config: dict[str, Any], name: str | None, **fields: bool) -> Run:
        choose("job", job, jobs.JOBS)
        fields = {"held": False, "foreground": False, **fields}
        return create(self.root, job, plain_config(config), self._queue.last_place, name=clean_name(name), **fields)
