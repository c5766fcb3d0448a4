"""Live curves are made once for all who look, and not more often than they cost."""

from __future__ import annotations

import json

import pytest

from workbench.commands.rooms import apps_main

apps_main()
from workbench.apps import curve  # noqa: E402
from workbench.runs import Store  # noqa: E402
from workbench.runs.metrics import Writer  # noqa: E402


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A real run of a few rows; `grow()` appends one."""
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    store = Store()
    store.run_here("selftest", {"steps": 3})
    found = store.list()[0]
    writer = Writer(found.directory / "metrics.jsonl", 1)
    yield found, lambda step: writer.append({"step": step, "loss": 1.0})
    writer.close()


@pytest.fixture
def made(monkeypatch):
    """Calls of the drawing itself."""
    calls, draw = [], curve.draw

    def spy(runs, log=False):
        calls.append(log)
        return draw(runs, log)

    monkeypatch.setattr(curve, "draw", spy)
    curve._drawn.clear()
    return calls


def steps(text):
    return max(x for trace in json.loads(text)["data"] for x in trace["x"])


def test_two_who_look_get_one_drawing(run, made):
    first, second = (curve.payload([run[0]]) for _ in range(2))
    assert first is second and made == [False]
    assert curve.payload([run[0]], log=True) != first and made == [False, True]


def test_new_rows_are_drawn_when_the_last_drawing_is_old_enough(run, made, monkeypatch):
    monkeypatch.setattr(curve, "PAUSE", 0)
    before = curve.stamp([run[0]])
    curve.payload([run[0]])
    assert curve.stamp([run[0]]) == before
    run[1](50)
    assert curve.stamp([run[0]]) != before
    assert steps(curve.payload([run[0]])) == 50 and len(made) == 2


def test_a_young_drawing_stays_and_the_last_row_comes_later(run, made, monkeypatch):
    monkeypatch.setattr(curve, "PAUSE", 1e6)
    text, before = curve.payload([run[0]]), curve.stamp([run[0]])
    run[1](50)
    assert curve.stamp([run[0]]) == before and curve.payload([run[0]]) is text  # nothing to fetch, nothing to make
    now = curve.time.monotonic
    monkeypatch.setattr(curve.time, "monotonic", lambda: now() + 1e9)
    assert curve.stamp([run[0]]) != before
    assert steps(curve.payload([run[0]])) == 50 and len(made) == 2


def test_only_so_many_figures_are_kept(run, made, monkeypatch):
    monkeypatch.setattr(curve, "KEPT", 1)
    curve.payload([run[0]])
    curve.payload([run[0]], log=True)
    assert list(curve._drawn) == [curve._key([run[0]], True)]
