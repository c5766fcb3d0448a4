"""Our own scaling measurements: tiny decoders × data × learning rate × batch on public-domain text.

    workbench sweep                      # every run that the table does not hold yet; stop it and start it again at will

Each run trains a Llama-architecture decoder on characters (ASCII, vocabulary 128, windows of 16) of the training part of
the bundled texts and reports the mean loss in nats per character over a fixed sample of held-out documents. Windows are
drawn without replacement, so no text is seen twice within a run; runs of one seed read the same windows in the same
order. Runs that differ in the learning rate only are trained side by side (`workbench.scaling.fleet`, which holds the
recipe).

Grid: 3 sizes × 3 budgets × 3 to 5 batches (×2 apart) × 6 rates (×√2·2 apart), chosen so that the best run does not sit
on the edge: models this small want batches of 30 to 100 characters. Three seeds for the smallest size on the
smallest budget. The larger runs (role "large") are there to be predicted: they take one setting each, given before they
were run.

Source: the grid and the recipe follow Li et al. 2025 (step law), arXiv 2503.04715, §3, scaled down.

Columns: n (parameters without embeddings), n_total, d (training tokens, here characters), lr, batch_tokens, seed, loss
(nats per token), width, layers, steps, seconds (the run's share of its fleet's time), role ("grid" or "large").
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import torch

WINDOW, VOCABULARY, HELD = 16, 128, 1024
SIZES = {"32x2": (32, 2), "48x3": (48, 3), "64x4": (64, 4), "96x5": (96, 5), "128x6": (128, 6), "192x6": (192, 6)}
GRID_SIZES = ("32x2", "48x3", "64x4")
RATES = tuple(2.0 ** (-10.5 + 1.5 * i) for i in range(6))
BATCHES = {32_768: (16, 32, 64, 128), 98_304: (16, 32, 64, 128, 256), 294_912: (32, 64, 128, 256)}  # by budget
FIELDS = ("n", "n_total", "d", "lr", "batch_tokens", "seed", "loss", "width", "layers", "steps", "seconds", "role")
DEAREST = ("64x4", 294_912, 32)  # left out: the best run of its cell lies inside without it
# Larger models, each with one rate: the grid's best rates fall like N^(−0.4), carried on from 2^(−8.5) at 195 thousand.
LARGE = {"32x2": (2.0**-7.5, (589_824,)), "96x5": (2.0**-9, (98_304, 294_912)), "128x6": (2.0**-9.5, (98_304,)),
         "192x6": (2.0**-10, (98_304,))}  # fmt: skip
TEXTS = ("sotu", "moby-dick", "kjv")


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run."""

    size: str
    tokens: int
    lr: float
    batch_tokens: int
    seed: int = 0
    role: str = "grid"

    @property
    def key(self) -> tuple:
        """What makes a run the same run in the table."""
        width, layers = SIZES[self.size]
        return width, layers, self.tokens, f"{self.lr:.6g}", self.batch_tokens, self.seed

    @property
    def fleet(self) -> tuple:
        """Jobs with the same value are trained side by side: all but the rate."""
        return self.size, self.tokens, self.batch_tokens, self.seed, self.role


def default_jobs() -> list[Job]:
    """The shipped sweep: the grid, two more seeds of its cheapest cell, and the larger runs."""
    jobs = [
        Job(size, tokens, lr, batch, seed)
        for size in GRID_SIZES
        for tokens, batches in BATCHES.items()
        for seed in ((0, 1, 2) if size == GRID_SIZES[0] and tokens == min(BATCHES) else (0,))
        for batch in batches
        if (size, tokens, batch) != DEAREST
        for lr in RATES
    ]
    return jobs + [
        Job(size, tokens, lr, 128, role="large") for size, (lr, budgets) in LARGE.items() for tokens in budgets
    ]


@functools.cache
def corpus() -> tuple[torch.Tensor, torch.Tensor]:
    """(training windows (count, WINDOW + 1) in the order of the text, held-out windows (HELD, WINDOW + 1)) as int64."""
    import numpy as np
    import torch

    from workbench.data import load, split

    parts = [split(load(name), seed=0) for name in TEXTS]
    train, held = (
        np.frombuffer(
            "\n".join(row["text"] for part in parts for row in part[which].rows).encode("ascii", "replace"), np.uint8
        )
        for which in ("train", "test")
    )
    count = (len(train) - 1) // WINDOW
    windows = np.lib.stride_tricks.sliding_window_view(train, WINDOW + 1)[::WINDOW][:count]
    starts = np.linspace(0, len(held) - WINDOW - 1, HELD).astype(int)
    shown = np.stack([held[start : start + WINDOW + 1] for start in starts])
    return torch.from_numpy(windows.astype(np.int64)), torch.from_numpy(shown.astype(np.int64))


def train(jobs: list[Job]) -> list[dict[str, Any]]:
    """Train jobs that differ in the rate only, side by side; returns one row per job.

    Raises:
        UserError: more tokens than the corpus has, or a batch that is no whole number of windows.
    """
    import torch

    from workbench.scaling.fleet import Fleet, non_embedding, schedule

    torch.set_num_threads(1)
    job = jobs[0]
    if len({each.fleet for each in jobs}) > 1:
        raise UserError("Runs trained side by side may differ in the learning rate only.")
    if job.batch_tokens % WINDOW or job.batch_tokens > job.tokens:
        raise UserError(
            f"A batch of {job.batch_tokens} tokens is not a number of windows of {WINDOW}, or is more than the run's "
            f"{job.tokens}; round it with nearest_batch."
        )
    begun = time.perf_counter()
    windows, held = corpus()
    rows, steps = job.batch_tokens // WINDOW, job.tokens // job.batch_tokens
    if steps * rows > len(windows):
        raise UserError(
            f"{job.tokens} tokens are more than the {len(windows) * WINDOW} of the corpus; text is never repeated here."
        )
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(job.seed))
    width, layers = SIZES[job.size]
    fleet = Fleet(len(jobs), width, layers, VOCABULARY, job.seed)
    peaks = torch.tensor([[each.lr] for each in jobs])
    for step in range(steps):
        batch = windows[order[step * rows : (step + 1) * rows]]
        fleet.step(batch, schedule(step, steps, peaks))
    with torch.no_grad():
        losses = torch.stack([fleet.losses(part) for part in held.split(256)]).mean(dim=0)
    n, seconds = non_embedding(width, layers), (time.perf_counter() - begun) / len(jobs)
    return [
        {"n": n, "n_total": n + VOCABULARY * width, "d": each.tokens, "lr": f"{each.lr:.6g}",
         "batch_tokens": each.batch_tokens, "seed": each.seed, "loss": round(loss, 6), "width": width, "layers": layers,
         "steps": steps, "seconds": round(seconds, 2), "role": each.role}
        for each, loss in zip(jobs, losses.tolist(), strict=True)
    ]  # fmt: skip


def nearest_batch(tokens: float, budget: int) -> int:
    """The batch nearest in ratio to `tokens` that is a whole number of windows, and at least 4 steps of the budget."""
    most = max(1, budget // (4 * WINDOW))
    return WINDOW * int(min(max(1, round(tokens / WINDOW)), most))


def load_sweep(path: Path | None = None) -> Any:
    """The table as a DataFrame; by default the shipped one.

    Raises:
        UserError: no such file, or another kind of table.
    """
    import pandas as pd

    from workbench.paths import assets

    path = path or assets() / "scaling" / "sweep.csv"
    if not path.is_file():
        raise UserError(f"There is no sweep table at {path}; make one with: workbench sweep --out {path}")
    done(path)
    return pd.read_csv(path)


def done(path: Path) -> set[tuple]:
    """Keys of the runs that the table holds.

    Raises:
        UserError: a table with other columns.
    """
    if not path.is_file():
        return set()
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise UserError(
                f"{path} is not a sweep table (its columns are {', '.join(reader.fieldnames or ())}); name another."
            )
        return {
            (int(r["width"]), int(r["layers"]), int(r["d"]), f"{float(r['lr']):.6g}", int(r["batch_tokens"]), int(r["seed"]))
            for r in reader
        }  # fmt: skip


def work(job: Job) -> float:
    """Arithmetic of a run in FLOP, attention and readout included, plus a constant for each step: for order and time left."""
    from workbench.scaling.fleet import non_embedding

    width, layers = SIZES[job.size]
    per_token = 6.0 * (non_embedding(width, layers) + VOCABULARY * width) + 12.0 * layers * width * WINDOW
    return per_token * (job.tokens + HELD * WINDOW / 3) + 2e7 * (job.tokens // job.batch_tokens)


def missing(jobs: Iterable[Job], have: set[tuple]) -> list[Job]:
    """The jobs that are not in the table, in the order of `fleets`."""
    return [job for group in fleets(job for job in jobs if job.key not in have) for job in group]


def fleets(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs in groups that are trained side by side, first seeds first, the cheapest first."""
    ordered = sorted(jobs, key=lambda job: (job.fleet, job.lr))
    groups = [list(group) for _, group in itertools.groupby(ordered, key=lambda job: job.fleet)]
    return sorted(groups, key=lambda group: (group[0].seed, work(group[0])))


def sweep(
    path: Path, jobs: Iterable[Job] | None = None, *, processes: int | None = None, ray: bool = False,
    progress: Progress = silent,
) -> int:  # fmt: skip
    """Run what is missing, first seeds and cheap ones first; rows are appended to `path` as each fleet ends. Returns how
    many were run.

    Args:
        path: CSV table; runs that it holds are skipped, so a sweep can be killed and continued.
        jobs: what to run (default: the shipped sweep).
        processes: fleets side by side, one thread each (default: one per core).
        ray: hand the fleets to a Ray cluster instead of local processes.
        progress: called after every fleet.

    Raises:
        UserError: `ray` without Ray installed.
    """
    run_all = _through_ray() if ray else functools.partial(_local, processes=processes)
    todo = fleets(missing(default_jobs() if jobs is None else jobs, done(path)))
    total, spent = sum(work(job) for group in todo for job in group), 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    for group, rows in run_all(todo):
        new = not path.is_file()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)
        spent += sum(map(work, group))
        best = min(row["loss"] for row in rows)
        progress(
            spent, total, f"{group[0].size}, {group[0].tokens} tokens, batch {group[0].batch_tokens}: best {best:.3f}"
        )
    return sum(map(len, todo))


Results = Iterator[tuple[list[Job], list[dict[str, Any]]]]


def _local(todo: list[list[Job]], processes: int | None) -> Results:
    """Fleets in processes of this machine, or in this very process when one is enough; each result as it comes."""
    import multiprocessing

    if not todo:
        return
    count = processes or len(os.sched_getaffinity(0))
    if count == 1:
        yield from ((group, train(group)) for group in todo)
        return
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(train, group): group for group in todo}
        while waiting:
            for finished in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(finished), finished.result()


def _through_ray() -> Callable[[list[list[Job]]], Results]:
    """Fleets as tasks of a Ray cluster (the one RAY_ADDRESS names, else one on this machine)."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'workbench[sweep]', or leave --ray out.") from error

    def run_all(todo: list[list[Job]]) -> Results:
        ray.init(ignore_reinit_error=True)
        remote = ray.remote(num_cpus=1)(train)
        waiting = {remote.remote(group): group for group in todo}
        while waiting:
            (finished,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(finished), ray.get(finished)

    return run_all
