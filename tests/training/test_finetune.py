from __future__ import annotations

import math
import resource
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from workbench.errors import JobError, UserError
from workbench.training import FinetuneConfig, finetune, load_tuned
from workbench.training import loop as loops
from workbench.training.attach import apply_method
from workbench.training.base import load_base
from workbench.training.batches import Order, collator
from workbench.training.folder import Folder
from workbench.training.prepare import prepare


@pytest.fixture
def config(llama, texts) -> FinetuneConfig:
    return FinetuneConfig(
        llama, texts, steps=6, batch_size=2, window=16, eval_every=4, eval_rows=4, precision="fp32", learning_rate=5e-3
    )


def stop_after(steps: int):
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


def losses(result) -> list[float]:
    return [row["loss"] for row in result.curve if "loss" in row]


def test_losses_equal_a_bare_loop_with_the_same_data_order_optimizer_and_schedule(config, tmp_path):
    got = finetune(config, tmp_path / "run")

    prepared = prepare(config)
    torch.manual_seed(0)
    model = load_base(config.model, "causal-lm", ()).train()
    torch.manual_seed(0)
    model = apply_method(prepared.method, {}, model, config.steps)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    rows = Order(prepared.train, 12, 0)
    expected = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (6 - step) / 6  # warmup of 0.05 · 6 rounds to no step
        batch = collator(0)([rows[2 * step], rows[2 * step + 1]])
        logits = model(input_ids=batch["input_ids"]).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses(got) == pytest.approx(expected, rel=2e-6)
    assert [row["learning_rate"] for row in got.curve if "loss" in row] == pytest.approx(
        [5e-3 * k / 6 for k in range(6, 0, -1)]
    )


def test_wsd_holds_the_rate_and_falls_over_the_last_tenth_also_after_a_stop(config, tmp_path):
    wsd = replace(config, schedule="wsd", steps=20, warmup=0.1, eval_every=10)
    finetune(wsd, tmp_path / "run", should_stop=stop_after(12))
    rates = [row["learning_rate"] for row in finetune(wsd, tmp_path / "run").curve if "loss" in row]
    assert rates[2:19] == pytest.approx([5e-3] * 17)
    assert rates[:2] == pytest.approx([0, 2.5e-3])
    assert rates[19] == pytest.approx(5e-3 * (1 - 0.5**0.5))  # 1 − √(share of the decay)


def test_curve_has_training_from_step_1_and_evaluation_from_step_0(config, tmp_path):
    seen = []
    result = finetune(config, tmp_path / "run", log=lambda **row: seen.append(row))
    assert [row["step"] for row in result.curve if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in result.curve if "eval_loss" in row] == [0, 4, 6]
    assert seen == [{"step": row["step"], **row} for row in result.curve]
    assert result.metrics["eval_loss"] == min(row["eval_loss"] for row in result.curve if "eval_loss" in row)
    assert result.metrics["eval_loss"] < result.metrics["eval_loss_start"]
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["eval_loss"]))


def test_evaluation_is_the_mean_over_tokens_however_rows_are_batched(llama, answers, tmp_path):
    config = FinetuneConfig(
        llama, answers, steps=1, batch_size=3, window=32, precision="fp32", eval_rows=10, evaluation=0.3
    )
    start = finetune(config, tmp_path / "run").metrics["eval_loss_start"]
    model = load_base(llama, "causal-lm", ()).double()
    total = count = 0
    for row in prepare(config).evaluation:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total += F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += (labels != -100).sum().item()
    assert start == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "args", "steps", "stop"),
    [
        ("lora", {"lora_dropout": 0.3}, 6, 3),  # between two evaluations; dropout draws random numbers
        ("full", {}, 6, 4),  # on an evaluation
        ("adalora", {"tinit": 1, "tfinal": 3, "deltaT": 1}, 9, 7),  # after the ranks were fixed
        ("p-tuning", {}, 5, 2),  # trains a network that peft does not save
    ],
)
def test_stopped_and_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(
    method, args, steps, stop, config, tmp_path
):
    config = replace(config, method=method, method_args=args, steps=steps, accumulation=2, learning_rate=None)
    whole = finetune(config, tmp_path / "whole")
    first = finetune(config, tmp_path / "parts", should_stop=stop_after(stop))
    assert first.stopped and len(losses(first)) == stop == first.metrics["steps"]
    assert load_tuned(first.path)[0] is not None
    second = finetune(config, tmp_path / "parts")
    assert not second.stopped
    assert second.curve == whole.curve  # to the last digit
    assert second.metrics == whole.metrics
    for file in whole.path.glob("*.safetensors"):
        a, b = load_file(file), load_file(second.path / file.name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_killed_run_goes_on_from_its_last_whole_checkpoint(config, tmp_path):
    config = replace(config, steps=7, eval_every=2)
    whole = finetune(config, tmp_path / "whole")

    def die(done, total, text):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(config, tmp_path / "parts", progress=die)
    torn = tmp_path / "parts" / "checkpoints" / "checkpoint-6"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    rows = []
    again = finetune(config, tmp_path / "parts", log=lambda **row: rows.append(row))
    assert rows[0]["step"] == 5
    assert again.curve == whole.curve


def test_finished_folder_returns_its_result_and_refuses_other_settings(config, tmp_path):
    result = finetune(config, tmp_path / "run")
    again = finetune(config, tmp_path / "run", log=lambda **row: pytest.fail("trained again"))
    assert again == result
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(UserError, match=r"other settings \(seed 0 → 1\); choose another folder"):
        finetune(replace(config, seed=1), tmp_path / "run")


@pytest.mark.parametrize(("data", "kind"), [("answers", None), ("labelled", "classification")])
def test_two_half_batches_accumulated_are_one_batch(data, kind, config, bert, request, tmp_path):
    config = replace(
        config, data=request.getfixturevalue(data), window=32, batch_size=4, method="full", steps=3, learning_rate=1e-3
    )
    one = finetune(config, tmp_path / "one")
    two = finetune(replace(config, batch_size=2, accumulation=2), tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_gradient_checkpointing_changes_memory_not_numbers(config, tmp_path):
    plain = finetune(config, tmp_path / "plain")
    saving = finetune(replace(config, gradient_checkpointing=True), tmp_path / "saving")
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-6)


def test_bf16_trains_with_coarser_numbers_and_keeps_float32_weights(config, tmp_path):
    exact = finetune(config, tmp_path / "exact")
    coarse = finetune(replace(config, precision="bf16"), tmp_path / "coarse")
    assert coarse.measured["precision"] == "bf16"
    assert losses(coarse) != losses(exact)
    assert losses(coarse) == pytest.approx(losses(exact), rel=0.02)
    assert {t.dtype for t in load_file(coarse.path / "adapter_model.safetensors").values()} == {torch.float32}


def test_broken_loss_stops_with_a_sentence_and_the_run_can_go_on(config, tmp_path, monkeypatch):
    whole = finetune(config, tmp_path / "whole")
    real = loops.Loop.compute_loss

    def broken(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 4 else loss

    with monkeypatch.context() as patch:
        patch.setattr(loops.Loop, "compute_loss", broken)
        with pytest.raises(
            JobError, match=r"The loss became nan at step 5 \(learning rate 0.005\); the last good checkpoint"
        ):
            finetune(config, tmp_path / "run")
    kept = Folder(tmp_path / "run").last_checkpoint()
    assert kept.name == "checkpoint-4"
    assert all(t.isfinite().all() for t in load_file(kept / "adapter_model.safetensors").values())
    assert finetune(config, tmp_path / "run").curve == whole.curve


def test_infinite_gradient_is_caught_before_its_weights_are_saved(config, tmp_path):
    with pytest.raises(JobError, match="Use a smaller learning rate, such as 1e\\+29"):
        finetune(replace(config, method="full", learning_rate=1e30, eval_every=1), tmp_path / "run")


def test_early_stopping_keeps_the_best_weights(config, tmp_path):
    config = replace(
        config, method="full", learning_rate=0.1, steps=40, eval_every=1, early_stopping=2, schedule="constant"
    )
    result = finetune(config, tmp_path / "run")
    curve = [row["eval_loss"] for row in result.curve if "eval_loss" in row][1:]
    best = curve.index(min(curve)) + 1
    assert result.metrics["stopped_early"] and not result.stopped
    assert len(curve) == result.metrics["steps"] == best + 2 < 40
    assert result.metrics["best_step"] == best
    model, tokenizer = load_tuned(result.path)
    batch = collator(tokenizer.pad_token_id)(prepare(config).evaluation)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(min(curve), rel=1e-5)


def test_without_evaluation_documents_the_last_weights_are_kept(config, tmp_path):
    result = finetune(replace(config, evaluation=0.0), tmp_path / "run")
    assert result.metrics["best_step"] == 6
    assert "eval_loss" not in result.metrics


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_classification_learns_labels_on_decoder_and_encoder(model, labelled, request, tmp_path):
    config = FinetuneConfig(
        request.getfixturevalue(model), labelled, method="full", steps=30, batch_size=8, window=32, eval_every=15,
        learning_rate=1e-2, precision="fp32", evaluation=0.2, test=0.0,
    )  # fmt: skip
    result = finetune(config, tmp_path / "run")
    assert result.metrics["eval_accuracy"] >= 0.9
    tuned, tokenizer = load_tuned(result.path)
    assert tuned.config.id2label == {0: "home", 1: "sea"}
    logits = tuned(**tokenizer(["sea sea The wind.", "home home The wind."], return_tensors="pt", padding=True)).logits
    assert logits.argmax(-1).tolist() == [1, 0]


def test_lora_head_of_a_classifier_is_saved_and_loaded(bert, labelled, tmp_path):
    config = FinetuneConfig(bert, labelled, steps=4, batch_size=4, window=32, eval_every=2, precision="fp32")
    result = finetune(config, tmp_path / "run")
    tuned, tokenizer = load_tuned(result.path)
    prepared = prepare(config)
    batch = collator(tokenizer.pad_token_id)(prepared.evaluation)
    with torch.no_grad():
        assert tuned(**batch).loss.item() == pytest.approx(result.metrics["eval_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("spec", "packed"),
    [("nf4", False), ("fp4", False), ("gptq-4", True), ("awq-4", True), ("int8-mixed", True)],
)
def test_lora_on_a_quantized_base_trains_resumes_and_loads(spec, packed, config, tmp_path):
    config = replace(config, quantize=spec, window=32, batch_size=1)
    whole = finetune(config, tmp_path / "whole")
    finetune(config, tmp_path / "parts", should_stop=stop_after(3))
    assert finetune(config, tmp_path / "parts").curve == whole.curve
    assert (whole.path / "base").is_dir() == packed
    model, tokenizer = load_tuned(whole.path)
    batch = collator(tokenizer.pad_token_id)(prepare(config).evaluation)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(whole.metrics["eval_loss"], rel=1e-5)
    with pytest.raises(UserError, match="sits on quantized weights; merging would round them again"):
        load_tuned(whole.path, merged=True)


def test_first_ctrl_c_keeps_the_step_and_the_second_leaves(config, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = finetune(
            config, tmp_path / "once", log=lambda step, **row: step == 3 and signal.raise_signal(signal.SIGINT)
        )
        assert result.stopped and result.metrics["steps"] in (3, 4)
        with pytest.raises(KeyboardInterrupt):
            finetune(
                config,
                tmp_path / "twice",
                log=lambda step, **row: step == 3 and [signal.raise_signal(signal.SIGINT) for _ in range(2)],
            )
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert finetune(config, tmp_path / "once").curve == finetune(config, tmp_path / "twice").curve


def test_second_worker_on_one_folder_is_refused(config, tmp_path):
    with Folder(tmp_path / "run").locked(), pytest.raises(UserError, match="Another process is training in"):
        finetune(config, tmp_path / "run")
    assert finetune(config, tmp_path / "run").metrics["steps"] == 6


def test_folder_that_cannot_be_written_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another one"):
        finetune(config, tmp_path / "file" / "run")


def test_full_disk_is_refused_before_anything_is_written(config, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"need about 10 MB and the disk of .* has 0 MB free"):
        finetune(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_disk_that_fills_up_keeps_the_last_whole_checkpoint(config, tmp_path):
    config = replace(config, method="full", learning_rate=None)
    whole = finetune(config, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(JobError, match=r"disk of .* is full .* continues from the last whole checkpoint"):
            finetune(
                config,
                tmp_path / "run",
                log=lambda step, **row: step == 5 and resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard)),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert finetune(config, tmp_path / "run").curve == whole.curve
