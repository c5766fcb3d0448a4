"""Badges and reproduction, on a real page of three lines that lives in this test."""

import json
import math
import subprocess
import sys
import types

import pandas as pd
import pytest

from workbench.errors import JobError, UserError
from workbench.papers import Finding, badge, job, reproduce
from workbench.papers.catalogue import load_card
from workbench.papers.cells import cell


@pytest.mark.parametrize(
    ("margins", "scale", "expected"),
    [
        ([0.1, 0.2, 0.3], "small", "holds"), ([0.1, -0.2, 0.3], "small", "partly"), ([0.1, -0.2, 0], "small", "fails"),
        ([0.1, 0.0, 0.3], "small", "partly"), ([0.1, 0.2], "small", "not run"), ([1.0, 1.0, 1.0], "smoke", "not run"),
        ([0.5, math.nan, 0.5], "small", "fails"), ([], "small", "not run"),
    ],
)  # fmt: skip
def test_the_rule(margins, scale, expected):
    assert badge.status(margins, scale) == expected


@pytest.fixture
def page(monkeypatch, tmp_path):
    """The page `nola` with another experiment: margin 1 − seed/2; notes which seeds were run."""
    calls = []

    def experiment(scale, seed, device, progress):
        progress(1, 2, "half")
        calls.append(seed)
        if seed == 9:
            raise RuntimeError("the power went")
        return Finding(pd.DataFrame([{"value": 1 - seed / 2}]), None, 1 - seed / 2, {"scale": scale})

    module = types.SimpleNamespace(experiment=experiment)
    monkeypatch.setattr("workbench.papers.reproduction.load_page", lambda slug: module, raising=True)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    return calls


def run(tmp_path, seeds=3, scale="small", **more):
    return reproduce("nola", scale=scale, seeds=seeds, badges=tmp_path / "badges", **more)


def test_result_has_the_promised_keys_and_the_badge_file_says_the_same(page, tmp_path):
    result = run(tmp_path, seeds=[0, 1, 4])
    keys = {"slug", "holds", "badge", "seeds", "rows", "seconds", "machine", "versions"}
    assert keys <= set(result)
    told = [(seed["seed"], seed["margin"], seed["holds"]) for seed in result["seeds"]]
    assert told == [(0, 1, True), (1, 0.5, True), (4, -1, False)]
    assert result["badge"] == "partly" and result["holds"] is False
    assert result["rows"] == [{"value": 1, "seed": 0}, {"value": 0.5, "seed": 1}, {"value": -1, "seed": 4}]
    stored = badge.read("nola", tmp_path / "badges")
    assert stored == json.loads(json.dumps(result))
    assert badge.status_of(load_card("nola"), tmp_path / "badges") == "partly"
    assert stored["threshold"] == load_card("nola")["threshold"]


@pytest.mark.parametrize("settings", [{"scale": "smoke"}, {"seeds": 2}])
def test_too_little_gives_no_badge(page, tmp_path, settings):
    result = run(tmp_path, **settings)
    assert result["badge"] == "not run"
    assert not (tmp_path / "badges").exists()
    assert result["holds"] is False if "scale" in settings else result["holds"] is True


def test_an_interrupted_run_continues_with_the_next_seed(page, tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path, seeds=[0, 1, 9])
    run(tmp_path, seeds=[0, 1, 2])
    assert page == [0, 1, 9, 2]
    run(tmp_path, seeds=[0])
    assert page[-1] == 0  # a finished run leaves nothing behind: the next one starts afresh


def test_an_interrupted_seed_continues_with_the_next_piece(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    calls, broken = [], [True]

    def piece(name):
        calls.append(name)
        if name == "b" and broken[0]:
            raise RuntimeError("the power went")
        return {"name": name, "value": 0.1}

    def experiment(scale, seed, device, progress):
        rows = [cell(name, lambda name=name: piece(name)) for name in "abc"]
        return Finding(pd.DataFrame(rows), None, 1.0)

    monkeypatch.setattr(
        "workbench.papers.reproduction.load_page", lambda slug: types.SimpleNamespace(experiment=experiment)
    )
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path, seeds=1)
    broken[0] = False
    result = run(tmp_path, seeds=2)
    assert calls == ["a", "b", "b", "c", "a", "b", "c"]  # the second seed shares nothing with the first
    assert [row["name"] for row in result["rows"]] == list("abcabc")
    assert list((tmp_path / "home" / "findings").glob("*.json")) == []
    assert cell("a", lambda: 5) == 5  # outside a run nothing is kept


def test_a_second_process_on_the_same_work_is_refused_and_may_follow_when_the_first_has_ended(page, tmp_path):
    keep = tmp_path / "kept.json"
    code = (
        "import sys, time; from pathlib import Path; from workbench.papers.reproduction import only_one\n"
        "with only_one(Path(sys.argv[1]), 'nola'):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(keep)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(JobError, match="another process"):
            run(tmp_path, keep=keep)
        assert page == []
        other.kill()
    assert run(tmp_path, keep=keep)["slug"] == "nola"


def test_kept_seeds_of_other_sources_are_not_used(page, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path, seeds=[0, 9])
    monkeypatch.setattr("workbench.machine.versions", lambda *names: {"torch": "99"})
    run(tmp_path, seeds=[0, 1])
    assert page == [0, 9, 0, 1]


def test_a_badge_whose_threshold_was_moved_counts_as_not_run(page, tmp_path):
    run(tmp_path, seeds=[0, 1, 4])
    card = {**load_card("nola"), "threshold": "within 50 points"}
    assert badge.status_of(card, tmp_path / "badges") == "not run"


def test_a_margin_that_is_not_a_number_is_kept_as_nothing(page, tmp_path, monkeypatch):
    broken = types.SimpleNamespace(experiment=lambda **_: Finding(pd.DataFrame([{"value": math.nan}]), None, math.nan))
    monkeypatch.setattr("workbench.papers.reproduction.load_page", lambda slug: broken)
    result = run(tmp_path)
    assert result["badge"] == "fails"
    assert [s["margin"] for s in result["seeds"]] == [None] * 3
    assert badge.status_of(load_card("nola"), tmp_path / "badges") == "fails"


def test_progress_runs_from_zero_to_one(page, tmp_path):
    seen = []
    run(tmp_path, progress=lambda done, total, text: seen.append(done / total))
    assert seen == sorted(seen) and seen[0] == pytest.approx(1 / 6) and seen[-1] == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seeds": 0}, "at least 1"), ({"seeds": [1, 1]}, "distinct"), ({"seeds": [-1]}, "from 0"),
        ({"scale": "smal"}, "did you mean small"), ({"device": "cuda:77"}, "not available"), ({"device": "gpu"}, "gpu"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_runs(page, tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        run(tmp_path, **settings)
    assert page == []


class Context:
    """What the run store gives a job."""

    def __init__(self, directory, **config):
        self.directory, self.config, self.lines, self.stop_after = directory, config, [], None

    def progress(self, done, total, text):
        self.told = text

    def log_metrics(self, **values):
        self.lines.append(values)

    def should_stop(self):
        return self.stop_after is not None and len(self.lines) >= self.stop_after


def test_the_job_logs_every_seed_stops_between_steps_and_resumes(page, tmp_path):
    context = Context(tmp_path, slug="nola", seeds=3, scale="smoke")
    context.stop_after = 2
    assert job.run(context) == {"stopped": True, "slug": "nola"}
    assert [line["seed"] for line in context.lines] == [0, 1]
    assert page == [0, 1]
    again = Context(tmp_path, slug="nola", seeds=3, scale="smoke")
    assert job.run(again)["slug"] == "nola"
    assert page == [0, 1, 2]
    assert [line["margin"] for line in again.lines] == [1, 0.5, 0]


def test_the_job_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match="needs a slug"):
        job.run(Context(tmp_path))
    with pytest.raises(UserError, match="does not know sedes"):
        job.run(Context(tmp_path, slug="nola", sedes=3))
