"""The job `grow`: two arms at equal FLOP, resumable, with a grown model that other rooms load."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from workbench.commands.grow import grow
from workbench.errors import UserError
from workbench.models import load_model, load_tokenizer
from workbench.models.growth_job import ARMS, check, rows_of
from workbench.runs import Store, merge
from workbench.runs.execute import RunStopped


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))


def test_both_arms_get_the_same_flop_and_stacking_jumps():
    result = Store().run_here("grow", {"operator": "stack", "factor": 2, "steps": 6})
    cost, steps = result["flop_per_step"], result["steps"]
    assert steps["grown"] == 6 < steps["small"]
    assert cost["small"] * steps["small"] == pytest.approx(cost["grown"] * steps["grown"], rel=0.1)
    assert 1.2 < cost["grown"] / cost["small"] < 2
    assert result["start"]["grown"] > result["start"]["small"] + 0.05  # its function changed
    assert result["end"]["grown"] < result["start"]["grown"] - 0.05  # and comes back
    run = Store().list()[0]
    rows = rows_of(merge(run.metrics()))
    assert {row["arm"] for row in rows} == set(ARMS)
    ends = {arm: max(row["flop"] for row in rows if row["arm"] == arm) for arm in ARMS}
    assert ends["small"] == pytest.approx(ends["grown"], rel=0.1)
    model = load_model(result["path"])
    assert model.config.num_hidden_layers == len(result["origins"])
    assert load_tokenizer(result["path"])("whale").input_ids == load_tokenizer("tiny-lm")("whale").input_ids


def test_a_stopped_growth_goes_on_where_it_was():
    asked = []

    def progress(done, total, text):
        if "step 2 of" in text and not asked:
            asked.append(text)
            Store().stop(Store().list()[0].id)

    with pytest.raises(RunStopped):
        Store().run_here("grow", {"steps": 4}, progress=progress)
    run = Store().list()[0]
    born = (run.directory / "grown" / "model.safetensors").stat().st_mtime_ns
    again = Store().continue_here("grow", {"steps": 4})
    assert not again["stopped"] and set(again["end"]) == set(ARMS)
    assert (run.directory / "grown" / "model.safetensors").stat().st_mtime_ns == born  # not grown twice
    rows = rows_of(merge(run.metrics()))
    steps = [(row["arm"], row["step"]) for row in rows]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize(("config", "words"), [
    ({"operator": "spit"}, "did you mean split"), ({"factor": 9}, "factor is 9"), ({"steps": -1}, "steps is -1"),
    ({"noise": "x"}, "noise is 'x'"), ({"sped": 1}, "no setting sped"), ({"seed": True}, "seed is True"),
])  # fmt: skip
def test_bad_settings_are_refused_before_anything_loads(config, words):
    with pytest.raises(UserError, match=words):
        check(config)


def test_from_the_command_line(tmp_path):
    assert "layers 0 1 0 1" in CliRunner().invoke(grow, ["--help"]).output
    done = CliRunner().invoke(grow, ["tiny-lm", "--operator", "zero", "--steps", "0", "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["steps"] == {"small": 0, "grown": 0} and told["end"] == {}
