"""Run a plan: trials first, then the judged seeds, methods taking turns; every finished cell is a file and is not redone.

Turns (seed by seed, method by method) spread slow drifts of a shared machine over all methods, and after the first round
the table has every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from workbench.errors import JobError
from workbench.evaluation import cells as files
from workbench.grid import material, planning, settings
from workbench.grid.planning import Plan, Row
from workbench.grid.server import Server
from workbench.progress import Progress, silent

Done = dict[str, dict[str, Any]]


def run_grid(
    config: dict[str, Any],
    folder: Path | str,
    *,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
    command: str = "",
) -> dict[str, Any]:
    """Run, or go on with, the grid in `folder`.

    Args:
        config: keys of `settings.DEFAULTS`.
        folder: takes cells, `grid.json`, `cells.csv`, `rows.csv` and `report.html`.
        progress: over all cells.
        should_stop: asked several times a second; the cell at work is lost, finished ones stay.
        command: for the record.

    Returns:
        The record (see `record.build`), with `stopped`.

    Raises:
        UserError: a plan that cannot work, before anything is trained.
        JobError: cells whose process was killed; all others are finished and kept, and the record is written.
    """
    from workbench.grid import record, report

    folder = Path(folder)
    files.prepare(folder / "cells")
    plan = planning.plan(config)
    runner = Runner(plan, folder, progress, should_stop)
    with runner:
        stopped = not runner.all()
    found = record.build(plan, runner.done, runner.texts, command=command)
    found["stopped"] = stopped
    record.write(found, folder)
    if found["rows"]:
        (folder / "report.html").write_text(report.build(found), encoding="utf-8")
    if runner.killed:
        raise JobError(
            f"{len(runner.killed)} of {plan.cells} cells were killed, perhaps for lack of memory ({', '.join(runner.killed)}); "
            f"their last words are in {folder}/cells-0.log. All others are kept; resume tries the killed ones again."
        )
    return found


class Runner:
    """The cells of one plan in one folder.

    Attributes:
        done: cells by key.
        texts: (model, task) → the rows they share.
        servers: one for every cell that may work at a time.
        killed: names of cells whose process was killed.
    """

    def __init__(self, plan: Plan, folder: Path, progress: Progress, should_stop: Callable[[], bool]) -> None:
        self.plan, self.folder, self.progress, self.should_stop = plan, folder, progress, should_stop
        self.found = plan.settings
        self.done: Done = {}
        self.killed: list[str] = []
        self.texts: dict[tuple[str, str], dict[str, Any]] = {}
        self.servers: list[Server] = []
        self._free: SimpleQueue[Server] = SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Runner:
        for number in range(self.found["workers"]):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.servers.append(self._stack.enter_context(Server(self.folder / f"cells-{number}.log")))
            self._free.put(self.servers[-1])
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def all(self) -> bool:
        """Everything; False when a stop came first."""
        for row in self.plan.rows:
            if row.block not in self.texts:
                self.progress(0, self.plan.cells, f"rows of {row.task} for {row.model}")
                key = planning.material_key(row, self.found)
                self.texts[row.block] = material.ensure(self.folder, key, row.model, row.task, self.found)
        if settings.budget(self.found["budget"]).kind == "seconds" and not self._set_steps():
            return False
        return self.run(self.trials()) and self.run(self.finals())

    def trials(self) -> Iterator[dict[str, Any]]:
        """Tuning cells: trial by trial, every row in turn."""
        seed = settings.trial_seed(self.found)
        for number in range(self.found["trials"]):
            for row in self.plan.rows:
                if row.trials:
                    yield planning.cell(row, self.found, "trial", row.trials[number], seed)

    def finals(self) -> Iterator[dict[str, Any]]:
        """Judged cells: seed by seed, every row in turn, with the setting that its trials chose."""
        for number, seed in enumerate(settings.seeds(self.found)):
            for row in self.plan.rows:
                if not row.steps:
                    if number == 0:
                        yield planning.cell(row, self.found, "final", {}, seed)
                elif (best := chosen(row, self.found, self.done)) is not None:
                    yield planning.cell(row, self.found, "final", best, seed)

    def run(self, cells: Iterator[dict[str, Any]]) -> bool:
        """Those cells that are not there yet; False when a stop came first."""
        waiting = []
        for cell in cells:
            kept = files.read(self.folder / "cells", cell["key"])
            if kept is None:
                waiting.append(cell)
            else:
                self.done[cell["key"]] = kept
        with ThreadPoolExecutor(self.found["workers"]) as pool:
            futures = [pool.submit(self._one, cell) for cell in waiting]
            return all([future.result() for future in as_completed(futures)])

    def _one(self, cell: dict[str, Any]) -> bool:
        if self.should_stop():
            return False
        server = self._free.get()
        try:
            key = cell["key"]
            block = (cell["model"], cell["task"])
            row = next(row for row in self.plan.rows if row.name == cell["name"] and row.block == block)
            material_key = planning.material_key(row, self.found)
            job = {"folder": str(self.folder.absolute()), "cell": cell, "material": material_key}
            files.write(self.folder / "now", "job-" + key, job)
            file = self.folder / "now" / f"job-{key}.json"
            text = _words(cell)
            self.progress(len(self.done), self.plan.cells, text)
            try:
                if not server.run(file, self.should_stop):
                    return False
            except JobError:
                self.killed.append(text)
                return True
            self.done[key] = files.read(self.folder / "cells", key)
            for left in (file, self.folder / "now" / f"{key}.json"):
                left.unlink(missing_ok=True)
            self.progress(len(self.done), self.plan.cells, text)
            return True
        finally:
            self._free.put(server)

    def probes(self) -> bool:
        """A timed probe of every row: two steps and the evaluation."""
        return self.run(iter([probe(row, self.found) for row in self.plan.rows if row.steps]))

    def _set_steps(self) -> bool:
        """For a budget of seconds: as many steps as a timed step of the method allows, the same for all its cells."""
        if not self.probes():
            return False
        seconds = settings.budget(self.found["budget"]).value
        for row in self.plan.rows:
            if row.steps:
                timed = self.done.pop(probe(row, self.found)["key"])
                if "failed" not in timed:
                    row.steps = max(1, int(seconds / timed["step_seconds"]))
        return True


def _words(cell: dict[str, Any]) -> str:
    what = {"trial": f"learning rate {cell['learning_rate'] or 0:g}", "final": f"seed {cell['seed']}"}
    return f"{cell['name']}, {what.get(cell['stage'], 'timed')}"


PROBE_STEPS = 4


def probe(row: Row, found: dict[str, Any]) -> dict[str, Any]:
    """The probe cell of a row: a few steps, which also say what memory it takes."""
    first = row.trials[0] if row.trials else {}
    short = Row(**{**vars(row), "steps": PROBE_STEPS})
    return planning.cell(short, found, "probe", first, settings.trial_seed(found))


def chosen(row: Row, found: dict[str, Any], done: Done) -> dict[str, Any] | None:
    """The trial of a row with the lowest evaluation loss; None when every trial failed or one is not there yet."""
    seed = settings.trial_seed(found)
    scored = []
    for trial in row.trials:
        kept = done.get(planning.cell(row, found, "trial", trial, seed)["key"])
        if kept is None:
            return None
        if "eval_loss" in kept:
            scored.append((kept["eval_loss"], trial))
    return min(scored, key=lambda pair: pair[0])[1] if scored else None
