from __future__ import annotations

import pytest

from workbench.errors import UserError
from workbench.runs import Store
from workbench.training import load_tuned


@pytest.fixture
def settings(llama, texts):
    return {
        "model": llama,
        "data": texts,
        "steps": 5,
        "batch_size": 2,
        "window": 16,
        "eval_every": 2,
        "precision": "fp32",
    }


def test_job_in_the_store_has_the_promised_keys_metrics_and_a_loadable_path(settings, tmp_path):
    store = Store(tmp_path)
    result = store.run_here("finetune", settings)
    assert {"run", "forecast", "measured", "metrics", "path"} <= set(result)
    run = store.get(result["run"])
    assert run.status == "done"
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == [1, 2, 3, 4, 5]
    assert [row["step"] for row in run.metrics() if "eval_loss" in row] == [0, 2, 4, 5]
    assert load_tuned(result["path"])[0] is not None


def test_stopped_run_resumes_on_the_same_curve(settings, tmp_path):
    whole = Store(tmp_path / "whole").run_here("finetune", settings)
    store = Store(tmp_path / "parts")

    def stop(done, total, text):
        if done == 3:
            store.stop(store.list()[0].id)

    from workbench.runs.execute import RunStopped

    with pytest.raises(RunStopped):
        store.run_here("finetune", settings, progress=stop)
    run = store.list()[0]
    assert run.status == "stopped"
    result = store.resume_here(run.id)
    assert result["metrics"] == whole["metrics"]
    curve = [(row["step"], row["loss"]) for row in store.get(run.id).metrics() if "loss" in row]
    other = Store(tmp_path / "whole").get(whole["run"])
    assert curve == [(row["step"], row["loss"]) for row in other.metrics() if "loss" in row]


def test_bad_settings_leave_no_run(settings, tmp_path):
    with pytest.raises(UserError, match="no method called"):
        Store(tmp_path).run_here("finetune", {**settings, "method": "laro"})
    with pytest.raises(UserError, match="no setting called 'step'"):
        Store(tmp_path).run_here("finetune", {**settings, "step": 3})
    assert Store(tmp_path).list() == []
