"""Sparse deltas in the fine-tuning job: they move, with the optimizer they need, also after a stop; said by name."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from workbench.training import FinetuneConfig, finetune, load_tuned
from workbench.training.extras import extra_files, own_optimizer
from workbench.training.methods import find_method, list_methods

MOVING = {"density": 0.02, "interval": 5, "accumulate": 2, "initial_rate": 1.0}


@pytest.fixture
def config(llama, texts) -> FinetuneConfig:
    return FinetuneConfig(
        llama, texts, method="spiel", method_args=MOVING, steps=9, batch_size=2, window=16, eval_every=4, eval_rows=4,
        accumulation=2, precision="fp32", learning_rate=5e-3,
    )  # fmt: skip


def weights(result):
    return load_file(result.path / "adapter_model.safetensors")


def stop_after(steps: int):
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("selection", ["gradient", "momentum"])
def test_deltas_move_learn_and_take_the_same_steps_after_a_stop(selection, config, tmp_path):
    config = replace(config, method_args={**MOVING, "selection": selection})
    whole = finetune(config, tmp_path / "whole")
    still = finetune(replace(config, method_args={**MOVING, "selection": "static"}), tmp_path / "still")
    places = {name: value for name, value in weights(whole).items() if "spiel_indices" in name}
    assert places and any(not torch.equal(value, weights(still)[name]) for name, value in places.items())
    assert all(torch.equal(value, value.unique()) for value in places.values())
    assert whole.metrics["eval_loss"] < whole.metrics["eval_loss_start"]
    assert load_tuned(whole.path)[0] is not None

    finetune(config, tmp_path / "parts", should_stop=stop_after(6))  # inside the second phase: updates 5 to 7
    again = finetune(config, tmp_path / "parts")
    assert again.curve == whole.curve
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


def test_said_trains_exactly_d_numbers_by_name(config, tmp_path):
    result = finetune(
        replace(config, method="said", method_args={"d": 50}, steps=3, accumulation=1, learning_rate=None),
        tmp_path / "run",
    )
    assert result.measured["trainable"] == 50
    assert result.metrics["eval_loss"] < result.metrics["eval_loss_start"]


def test_only_sparse_deltas_bring_their_own_optimizer():
    assert own_optimizer(find_method("lora"), None, None) is None
    assert extra_files(find_method("spiel")) and not extra_files(find_method("said"))


def test_both_are_listed_with_help_for_every_argument():
    methods = {method["name"]: method for method in list_methods()}
    for name, argument in (("spiel", "selection"), ("said", "structure")):
        assert all(entry["help"] for entry in methods[name]["arguments"])
        assert argument in {entry["name"] for entry in methods[name]["arguments"]}
        assert methods[name]["help"].endswith(".")
    assert methods["said"]["learning_rate"] == 3e-2 and methods["spiel"]["learning_rate"] == 3e-3
