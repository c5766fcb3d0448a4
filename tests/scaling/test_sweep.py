from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest

from workbench.errors import UserError
from workbench.scaling.sweep import FIELDS, Job, build, corpus, default_jobs, done, factor, missing, run_job, sweep

SHORT = Job("32x2", 8192, 2.0**-7, 1024)


def test_the_plan_covers_what_it_promises():
    jobs = default_jobs()
    assert len(jobs) >= 120 and len({job.key for job in jobs}) == len(jobs)
    models = [build(size, 0) for size in {job.size for job in jobs}]
    sizes = sorted(model.num_parameters() - 256 * model.config.hidden_size for model in models)
    assert sizes[0] < 40_000 and sizes[-1] > 2_500_000


def test_rate_warms_up_and_ends_at_the_fixed_floor():
    rates = [0.01 * factor(step, 100, 0.01) for step in range(100)]
    assert rates[4] == pytest.approx(0.01) and rates[0] == pytest.approx(0.002)
    assert rates[-1] == pytest.approx(1e-5, rel=0.3)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_held_out_text_is_not_trained_on():
    stream, held = corpus(0)
    train = stream.numpy().astype(np.uint8).tobytes()
    windows = [row.numpy().astype(np.uint8).tobytes() for row in held[:40]]
    # Formulas repeat across the Bible and the addresses; whole windows of 129 bytes almost never do.
    assert sum(window in train for window in windows) <= 1


def test_a_run_learns_and_repeats_exactly():
    first, second = run_job(SHORT), run_job(SHORT)
    assert tuple(first) == FIELDS
    assert first["loss"] == second["loss"]
    assert first["loss"] < np.log(256) - 1  # clearly below the uniform 5.545 nats


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path):
    path = tmp_path / "sweep.csv"
    jobs = [SHORT, Job("32x2", 4096, 2.0**-7, 1024)]
    assert sweep(path, jobs[1:], processes=1) == 1
    assert sweep(path, jobs, processes=1) == 1
    assert sweep(path, jobs, processes=1) == 0
    with open(path, newline="") as file:
        assert [int(row["d"]) for row in csv.DictReader(file)] == [4096, 8192]
    assert missing(jobs, done(path)) == []


def test_refusals(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a sweep table"):
        done(other)
    with pytest.raises(UserError, match="never repeated"):
        run_job(Job("32x2", 2**40, 0.01, 2**30))
