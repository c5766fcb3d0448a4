"""A store in a temporary folder whose workers never outlive the test."""

import os
import signal
import time

import pytest

from workbench.runs import Store
from workbench.runs.files import read_json
from workbench.runs.processes import OWNER, alive


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    store = Store(tmp_path / "runs")
    yield store
    for path in (tmp_path / "runs").glob(f"*/{OWNER}"):
        owner = read_json(path)
        if owner and owner["pid"] != os.getpid() and alive(path.parent):
            os.kill(owner["pid"], signal.SIGKILL)


@pytest.fixture
def until():
    """Wait for something to become true."""

    def wait(condition, seconds=30.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def steps_done(until):
    """Wait until a run has reported at least so many steps."""

    def wait(run, steps):
        until(lambda: (run.progress or {"done": 0})["done"] >= steps)

    return wait
