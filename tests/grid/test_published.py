"""Published results of peft in our table: status filter, intervals, ties, nothing filled in."""

import json

import pytest

from workbench.errors import UserError
from workbench.grid.published import load_peft_results


def result(
    name, accuracy, *, status="success", kind="LORA", forgetting=None, trainable=9_175_040, memory=22_273_851_392
):
    """A file of the shape that peft writes (shortened)."""
    last = {"step": 5000, "test accuracy": accuracy, "train loss": 0.6}
    if forgetting is not None:
        last["forgetting"] = forgetting
    return {
        "run_info": {
            "created_at": "2025-06-19T19:15:35+00:00", "total_time": 1993.5, "experiment_name": f"lora/llama-3.2-3B-{name}",
            "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "max_steps": 5000, "seed": 0,
                             "optimizer_kwargs": {"lr": 1e-4}},
            "peft_config": None if kind is None else {"peft_type": kind, "use_dora": False}, "error_msg": "",
        },
        "train_info": {
            "cuda_memory_max": memory, "train_time": 1796.2, "file_size": 36715216, "num_trainable_params": trainable,
            "num_total_params": 3221924864, "status": status, "metrics": [{"step": 250, "valid accuracy": 0.34}, last],
        },
        "meta_info": {"system_info": {"gpu": "NVIDIA L40S"}, "package_info": {"peft-version": "0.15.2"}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    runs = {
        "a": result("rank32", 0.482, forgetting=0.05), "b": result("rank64", 0.513), "c": result("vera", 0.354, kind="VERA"),
        "d": result("broken", 0.9, status="failed"), "e": result("full", 0.472, kind=None, trainable=3_212_749_824),
    }  # fmt: skip
    for name, content in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "other.json").write_text('{"x": 1}', encoding="utf-8")
    return tmp_path


def test_finished_runs_become_rows_best_first(folder):
    found = load_peft_results(folder)
    assert [row["accuracy"] for row in found["rows"]] == [0.513, 0.482, 0.472, 0.354]
    assert [row["method"] for row in found["rows"]] == ["lora", "lora", "full", "vera"]
    assert found["rows"][1]["name"] == "lora rank32"
    assert {text.split()[0].rstrip(":") for text in found["left_out"]} == {"d.json", "other.json"}


def test_the_first_three_tie_and_the_last_does_not(folder):
    # 0.513 against 0.482 on 1319 questions: z = 1.59, p = 0.11; against 0.354: z = 8.2
    found = load_peft_results(folder)
    assert [row["accuracy_tied"] for row in found["rows"]] == [True, True, True, False]


def test_the_interval_is_that_of_a_share(folder):
    row = load_peft_results(folder)["rows"][0]
    assert (row["accuracy_high"] - row["accuracy_low"]) / 2 == pytest.approx(
        1.96 * (0.513 * 0.487 / 1319) ** 0.5, rel=0.01
    )


def test_missing_forgetting_stays_missing(folder):
    assert [row["forgetting"] for row in load_peft_results(folder)["rows"]] == [None, 0.05, None, None]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="MetaMathQA"):
        load_peft_results(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="None of the 1 files"):
        load_peft_results(tmp_path)
