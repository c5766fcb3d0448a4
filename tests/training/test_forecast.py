from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from workbench.training import FinetuneConfig, finetune, forecast, forecasting
from workbench.training.base import trainable_model
from workbench.training.batches import Order
from workbench.training.meter import Peak
from workbench.training.prepare import prepare


@pytest.fixture
def config(llama, texts) -> FinetuneConfig:
    return FinetuneConfig(llama, texts, steps=6, batch_size=2, window=16, eval_every=3, eval_rows=4, precision="fp32")


@pytest.mark.parametrize("method", ["lora", "full", "prefix"])
def test_dry_run_leaves_every_weight_as_it_was(method, config):
    prepared = prepare(replace(config, method=method))
    model = trainable_model(prepared)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    forecasting.dry_run(prepared, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


@pytest.mark.parametrize("method", ["lora", "full", "vera"])
def test_forecast_names_the_bytes_and_counts_that_come_true(method, config, tmp_path):
    config = replace(config, method=method)
    before = forecast(config)
    result = finetune(config, tmp_path / "run")
    for name in ("trainable", "total", "file_bytes", "precision"):
        assert getattr(before, name) == result.measured[name] == result.forecast[name]
    assert 0.8 < before.peak_bytes / result.measured["peak_bytes"] < 1.25
    assert before.seconds >= config.steps * before.step_seconds > 0
    assert before.timed.keys() == {"fp32"}


def clock(monkeypatch, times):
    """Replace measured seconds: `times` by arithmetic for a step, 0 for everything else."""

    def seconds(action):
        action()
        return next((times[value] for value in action.args if isinstance(value, str)), 0.0)

    monkeypatch.setattr(forecasting, "_seconds", seconds)


def test_auto_takes_the_faster_arithmetic(config, monkeypatch):
    times = {"fp32": 2.0, "bf16": 1.0}
    clock(monkeypatch, times)
    monkeypatch.setattr(forecasting, "candidates", lambda precision: tuple(times))
    prepared = prepare(replace(config, precision="auto"))
    model = trainable_model(prepared)
    found = forecasting.dry_run(prepared, model)
    assert found.timed == times and found.precision == "bf16" and found.step_seconds == 1.0
    times["bf16"] = 3.0
    assert forecasting.dry_run(prepared, model).precision == "fp32"


@pytest.mark.parametrize(("bf16", "tried"), [(1.4, ("fp32", "bf16")), (1.6, ("fp32",))])
def test_bf16_is_timed_only_where_a_matrix_product_is_not_emulated(bf16, tried, monkeypatch):
    monkeypatch.setattr(
        forecasting, "_seconds", lambda product: {torch.float32: 1.0, torch.bfloat16: bf16}[product.args[0].dtype]
    )
    assert forecasting.candidates("auto") == tried
    assert forecasting.candidates("bf16") == ("bf16",)


def test_time_follows_steps_accumulation_and_the_mean_length_of_rows(llama, answers, texts, config, monkeypatch):
    clock(monkeypatch, {"fp32": 1.0})
    prepared = prepare(replace(config, accumulation=3))
    found = forecasting.dry_run(prepared, trainable_model(prepared))
    assert (found.step_seconds, found.seconds) == (3.0, 18.0)  # packed windows: every row has 16 tokens

    prepared = prepare(replace(config, data=answers, window=32, batch_size=8))
    found = forecasting.dry_run(prepared, trainable_model(prepared))
    timed = [len(Order(prepared.train, 8, 0)[i]["input_ids"]) for i in range(8)]
    mean = sum(len(row["input_ids"]) for row in prepared.train) / len(prepared.train)
    assert found.step_seconds == pytest.approx(min(1.0, mean / max(timed)))


def test_peak_sees_memory_that_is_gone_again_and_forgets_it():
    with Peak() as high:
        block = torch.ones(25_000_000)
        del block
    with Peak() as low:
        pass
    assert high.bytes - low.bytes > 80_000_000
