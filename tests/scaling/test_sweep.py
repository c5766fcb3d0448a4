from __future__ import annotations

import csv
import sys
import types

import numpy as np
import pandas as pd
import pytest

from workbench.data import load, split
from workbench.errors import UserError
from workbench.paths import assets
from workbench.scaling import sweep as room
from workbench.scaling.fleet import non_embedding
from workbench.scaling.hyperparameters import by_cell
from workbench.scaling.sweep import (
    DEAREST,
    FIELDS,
    SIZES,
    WINDOW,
    Job,
    corpus,
    default_jobs,
    done,
    fleets,
    load_sweep,
    missing,
    nearest_batch,
    sweep,
    train,
    work,
)

SHORT = [Job("32x2", 8192, lr, 512) for lr in (2.0**-7, 2.0**-5)]


def test_the_plan_covers_what_it_promises():
    jobs = default_jobs()
    assert len(jobs) >= 120 and len({job.key for job in jobs}) == len(jobs)
    sizes = sorted(non_embedding(*SIZES[size]) for size in {job.size for job in jobs})
    assert sizes[0] < 40_000 and sizes[-1] > 2_500_000
    grid = [job for job in jobs if job.role == "grid" and job.seed == 0]
    assert len({job.size for job in grid}) == len({job.tokens for job in grid}) == 3
    for cell in {(job.size, job.tokens) for job in grid}:
        own = [job for job in grid if (job.size, job.tokens) == cell]
        rates, batches = sorted({job.lr for job in own}), sorted({job.batch_tokens for job in own})
        assert (
            len(own) == len(rates) * len(batches)
            and len(rates) == 6
            and len(batches) >= (3 if cell == DEAREST[:2] else 4)
        )
        assert np.allclose(np.divide(rates[1:], rates[:-1]), 8**0.5)


def test_training_windows_are_the_training_documents_and_no_other():
    windows, held = corpus()
    assert windows.shape[1] == held.shape[1] == WINDOW + 1 and int(windows.max()) < 128
    assert (windows[:-1, -1] == windows[1:, 0]).all()  # each window's last target starts the next
    text = windows[:, :WINDOW].numpy().astype(np.uint8).tobytes().decode()
    parts = split(load("sotu"), seed=0)
    for part, inside in (("train", True), ("test", False), ("eval", False)):
        pieces = [row["text"][1000:1200].encode("ascii", "replace").decode() for row in parts[part].rows[:20]]
        assert all((piece in text) == inside for piece in pieces)


def test_a_fleet_learns_repeats_exactly_and_equals_single_runs():
    first, second = train(SHORT), train(SHORT)
    assert tuple(first[0]) == FIELDS
    losses = [row["loss"] for row in first]
    assert losses == [row["loss"] for row in second]
    assert max(losses) < np.log(128) - 1  # clearly below the uniform 4.852 nats
    alone = [train([job])[0]["loss"] for job in SHORT]
    assert losses == pytest.approx(alone, rel=1e-3)
    assert train([Job("32x2", 8192, 2.0**-7, 512, seed=1)])[0]["loss"] != alone[0]


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path):
    path, told = tmp_path / "sweep.csv", []
    jobs = [*SHORT, Job("32x2", 4096, 2.0**-7, 512)]
    assert sweep(path, SHORT[:1], processes=1) == 1
    assert sweep(path, jobs, processes=1, progress=lambda done, total, text: told.append(done / total)) == 2
    assert sweep(path, jobs, processes=1) == 0
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["d"]) for row in rows] == [8192, 4096, 8192]
    assert missing(jobs, done(path)) == []
    assert told == sorted(told) and told[-1] == 1
    assert len(load_sweep(path)) == 3


def test_processes_find_what_one_process_finds(tmp_path):
    path = tmp_path / "sweep.csv"
    assert sweep(path, SHORT, processes=2) == 2
    assert list(load_sweep(path)["loss"]) == pytest.approx([row["loss"] for row in train(SHORT)], rel=1e-6)


def test_first_seeds_come_first_and_cheap_fleets_before_dear_ones():
    groups = fleets(default_jobs())
    assert [job for group in groups for job in group] == missing(default_jobs(), set())
    assert all(len({job.fleet for job in group}) == 1 for group in groups)
    order = [(group[0].seed, work(group[0])) for group in groups]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("tokens", "budget", "expected"),
    [(310, 32768, 304), (1, 32768, 16), (1e9, 32768, 8192), (41, 32768, 48), (700, 100, 16)],
)
def test_nearest_batch(tokens, budget, expected):
    assert nearest_batch(tokens, budget) == expected


class Reference:
    """A future of the stand-in for Ray; hashable, as Ray's are."""

    def __init__(self, value):
        self.value = value


class OneMachineRay:
    """The five calls of Ray that are used, carried out at once in this process."""

    def __init__(self):
        self.started = self.asked = None

    def init(self, **settings):
        self.started = settings

    def remote(self, **settings):
        self.asked = settings
        return lambda function: types.SimpleNamespace(remote=lambda *given: Reference(function(*given)))

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        return reference.value


def test_ray_is_refused_when_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'workbench\[sweep\]'"):
        sweep(tmp_path / "sweep.csv", SHORT, ray=True)
    assert not (tmp_path / "sweep.csv").exists()


def test_ray_gets_one_task_of_one_core_for_each_fleet(tmp_path, monkeypatch):
    ray = OneMachineRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(room, "train", lambda group: [dict.fromkeys(FIELDS, len(group)) for _ in group])
    jobs = [*SHORT, Job("32x2", 4096, 2.0**-7, 512)]
    assert sweep(tmp_path / "sweep.csv", jobs, ray=True) == 3
    assert ray.started is not None and ray.asked == {"num_cpus": 1}
    with open(tmp_path / "sweep.csv", newline="") as file:
        assert [row["n"] for row in csv.DictReader(file)] == ["1", "2", "2"]


def test_refusals(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a sweep table"):
        done(other)
    with pytest.raises(UserError, match="workbench sweep --out"):
        load_sweep(tmp_path / "none.csv")
    with pytest.raises(UserError, match="never repeated"):
        train([Job("32x2", 2**40, 0.01, 2**30)])
    with pytest.raises(UserError, match="number of windows"):
        train([Job("32x2", 8192, 0.01, 100)])
    with pytest.raises(UserError, match="rate only"):
        train([SHORT[0], Job("32x2", 4096, 0.01, 512)])


def test_the_shipped_table_is_the_shipped_plan():
    path = assets() / "scaling" / "sweep.csv"
    table = load_sweep()
    assert done(path) == {job.key for job in default_jobs()}
    assert len(table) >= 120
    assert not table.duplicated(["n", "d", "lr", "batch_tokens", "seed"]).any()
    assert np.isfinite(table["loss"]).all() and (table["loss"] > 1).all()
    grid = table[table["role"] == "grid"]
    best = pd.Series({place: cell["loss"].min() for place, cell in by_cell(grid)})
    assert len(best) == 9
    smallest = best.xs(grid["n"].min(), level=0)
    assert (smallest.sort_index().diff().dropna() < 0).all()  # more text, lower loss
