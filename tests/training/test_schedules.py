from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import pytest
import torch

from workbench.errors import UserError
from workbench.training.schedules import (
    PowerCurve,
    branch_decay,
    checkpoint,
    cosine_schedule,
    power_rate,
    power_schedule,
    start_decay,
    wsd_schedule,
)


def make(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def trace(scheduler, steps, group=0):
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[group]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_wsd_by_hand():
    rates = trace(wsd_schedule(make(1.0), warmup_steps=4, stable_steps=3, decay_steps=4, decay="linear"), 12)
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_halflife_halves_after_exactly_one_half_life():
    scheduler = wsd_schedule(make(0.01), warmup_steps=2, stable_steps=5, decay_steps=20, decay="halflife", half_life=5)
    rates = trace(scheduler, 20)
    assert rates[7] == 0.01 and rates[12] == 0.005 and rates[17] == 0.0025  # T = 7, T_h = 5, exactly


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_decays_start_at_the_peak_and_end_at_the_floor(decay):
    rates = trace(wsd_schedule(make(1.0), warmup_steps=0, stable_steps=2, decay_steps=10, decay=decay, floor=0.1), 14)
    assert rates[2] == pytest.approx(1) and rates[12] == pytest.approx(0.1) and rates[13] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates))


torch.manual_seed(0)
X, Y = torch.randn(64, 3), torch.randn(64, 1)


def linear():
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 1)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(model, scheduler, steps):
    for _ in range(steps):
        scheduler.optimizer.zero_grad()
        ((model(X) - Y) ** 2).mean().backward()
        scheduler.optimizer.step()
        scheduler.step()
    return model


@pytest.mark.parametrize("decay", ["halflife", "linear", "cosine", "1-sqrt"])
def test_a_branch_is_the_whole_run_bit_for_bit_and_leaves_the_plateau_alone(decay, tmp_path):
    whole, optimizer = linear()
    train(whole, wsd_schedule(optimizer, warmup_steps=3, stable_steps=10, decay_steps=5, decay=decay), 18)
    plateau, optimizer = linear()
    held = wsd_schedule(optimizer, warmup_steps=3)
    train(plateau, held, 13)
    torch.save(checkpoint(plateau, optimizer), tmp_path / "kept.pt")
    kept = torch.load(tmp_path / "kept.pt", weights_only=True)
    for _ in range(2):  # a second branch starts from the same place
        branch, own = linear()
        train(branch, branch_decay(kept, branch, own, decay_steps=5, decay=decay), 5)
        assert torch.equal(branch.weight, whole.weight)
    train(plateau, held, 5)
    longer, optimizer = linear()
    train(longer, wsd_schedule(optimizer, warmup_steps=3), 18)
    assert torch.equal(plateau.weight, longer.weight)


def test_a_branch_without_adams_moments_would_differ():
    plateau, optimizer = linear()
    train(plateau, wsd_schedule(optimizer, warmup_steps=3), 13)
    right, own = linear()
    train(right, branch_decay(checkpoint(plateau, optimizer), right, own, decay_steps=5), 5)
    bare, fresh = linear()
    bare.load_state_dict(plateau.state_dict())
    train(bare, wsd_schedule(fresh, warmup_steps=0, stable_steps=0, decay_steps=5), 5)
    assert not torch.allclose(bare.weight, right.weight, atol=1e-3)


def test_a_plateau_resumes_with_a_later_end():
    whole, optimizer = linear()
    train(whole, wsd_schedule(optimizer, warmup_steps=2, stable_steps=10, decay_steps=4), 16)
    first, optimizer = linear()
    scheduler = wsd_schedule(optimizer, warmup_steps=2, stable_steps=5, decay_steps=4)  # planned shorter
    train(first, scheduler, 6)
    second, again = linear()
    later = wsd_schedule(again, warmup_steps=2, stable_steps=10, decay_steps=4)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(optimizer.state_dict())
    later.load_state_dict(scheduler.state_dict())
    assert torch.equal(train(second, later, 10).weight, whole.weight)


def test_power_rate_at_published_points():
    # β = 128, a = 4, b = −0.51 (arXiv 2408.13359): the cap binds up to n* ≈ 440 M tokens.
    expected = {1e9: 0.01316, 1e10: 0.00407, 1e11: 0.00126}
    for tokens, rate in expected.items():
        assert power_rate(tokens, batch_sequences=128) == pytest.approx(rate, rel=3e-3)
    cap = (0.02 / (128 * 4)) ** (1 / -0.51)
    assert cap == pytest.approx(440e6, rel=0.01)
    assert power_rate(cap, batch_sequences=128) == pytest.approx(0.02, rel=1e-12)


def released(step, lr, a, b, c, warmup):
    """The released scheduler's factor (IBM/dolomite-engine), `a` already times the batch, c tokens per step."""
    if step <= warmup:
        return min(1, a / lr * (warmup * c) ** b) / warmup * step
    return min(1, a / lr * (step * c) ** b)


@pytest.mark.parametrize(
    ("lr", "a", "b", "c", "sequences", "warmup"),
    [(0.02, 4, -0.51, 4096, 8, 5), (0.02, 4, -0.51, 2**22, 512, 100), (0.01, 4.6, -0.4, 512, 4, 30), (3e-4, 1, -0.6, 64, 1, 1)],
)  # fmt: skip
def test_power_agrees_with_the_released_formula(lr, a, b, c, sequences, warmup):
    scheduler = power_schedule(
        make(lr), tokens_per_step=c, batch_sequences=sequences, warmup_tokens=c * warmup, a=a, b=b, lr_max=lr
    )
    rates = trace(scheduler, 400)
    for step in (0, 1, warmup - 1, warmup, warmup + 1, 50, 399):
        assert rates[step] == pytest.approx(lr * released(step, lr, sequences * a, b, c, warmup), rel=1e-12)


CURVE = PowerCurve(128, 1e8, lr_max=0.02, end=4e10, decay_tokens=1e10)
CAP = (0.02 / (128 * 4.0)) ** (1 / -0.51)  # n*, where the cap stops binding


@pytest.mark.parametrize("decay", ["exponential", "linear"])
@pytest.mark.parametrize("warmup", [1e8, 2e9])  # before and after n*
@pytest.mark.parametrize("place", ["warm-up", "cap", "decay"])
def test_power_is_continuous_where_its_pieces_meet(decay, warmup, place):
    curve = dataclasses.replace(CURVE, decay=decay, warmup_tokens=warmup)
    n = {"warm-up": warmup, "cap": CAP, "decay": 4e10}[place]
    before, after = (curve.rate(math.nextafter(n, to)) for to in (0, math.inf))
    assert abs(before - curve.rate(n)) < 1e-12 and abs(after - curve.rate(n)) < 1e-12
    assert curve.rate(n * 0.9) != pytest.approx(curve.rate(n * 1.2), rel=1e-4) or place == "cap"


@pytest.mark.parametrize(("decay", "final"), [("exponential", 0.0), ("linear", 0.1)])
def test_power_ends_where_it_should(decay, final):
    curve = dataclasses.replace(CURVE, decay=decay, final_ratio=final)
    assert curve.rate(0) == 0
    assert curve.rate(5e10) == pytest.approx(final * curve.rate(4e10), abs=1e-15)
    assert curve.rate(9e10) == pytest.approx(curve.rate(5e10), abs=1e-15)
    falls = [curve.rate(n * 1e9) for n in range(1, 51)]
    assert all(a >= b for a, b in itertools.pairwise(falls))


def test_the_prefix_of_two_lengths_is_the_same_bit_for_bit():
    shared = {"tokens_per_step": 100, "batch_sequences": 4, "warmup_tokens": 500, "decay_tokens": 300, "a": 0.5}
    models = []
    for total in (2000, 8000):
        model, optimizer = linear()
        models.append(train(model, power_schedule(optimizer, total_tokens=total, **shared), 18))
    assert torch.equal(
        models[0].weight, models[1].weight
    )  # step 17 starts at token 1700, where the shorter decay starts
    model, optimizer = linear()
    ended = train(model, power_schedule(optimizer, total_tokens=2000, **shared), 19)
    model, optimizer = linear()
    assert not torch.equal(
        ended.weight, train(model, power_schedule(optimizer, total_tokens=8000, **shared), 19).weight
    )


def test_a_decay_decided_on_the_way_is_the_planned_one_and_survives_a_resume():
    shared = {"tokens_per_step": 100, "batch_sequences": 4, "warmup_tokens": 500, "a": 0.5}
    planned, optimizer = linear()
    train(planned, power_schedule(optimizer, total_tokens=2000, decay_tokens=600, **shared), 20)
    late, optimizer = linear()
    scheduler = power_schedule(optimizer, **shared)
    train(late, scheduler, 10)
    start_decay(scheduler, at_tokens=1400, decay_tokens=600)
    train(late, scheduler, 6)
    resumed, again = linear()
    other = power_schedule(again, **shared)
    resumed.load_state_dict(late.state_dict())
    again.load_state_dict(optimizer.state_dict())
    other.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert torch.equal(train(resumed, other, 4).weight, planned.weight)


def test_tokens_are_counted_through_accumulation_and_a_change_of_batch():
    shared = {"warmup_tokens": 500, "a": 0.5}
    many = trace(power_schedule(make(0.02), tokens_per_step=400, batch_sequences=16, **shared), 40)
    curve = PowerCurve(16, 500, a=0.5, lr_max=0.02)
    assert many == pytest.approx([curve.rate(400 * step) for step in range(40)])
    wider = power_schedule(make(0.02), tokens_per_step=800, batch_sequences=32, tokens_seen=16_000, **shared)
    assert trace(wider, 1)[0] == pytest.approx(PowerCurve(32, 500, a=0.5, lr_max=0.02).rate(16_000))
    old = power_schedule(make(0.02), tokens_per_step=400, batch_sequences=16, **shared)
    wider.load_state_dict(old.state_dict())
    with pytest.raises(UserError, match="400 tokens a step and the schedule has 800"):
        trace(wider, 1)


def test_doubling_the_batch_at_equal_tokens_doubles_the_rate_below_the_cap():
    assert power_rate(1e10, batch_sequences=64) == pytest.approx(power_rate(1e10, batch_sequences=32) * 2, rel=1e-12)


def test_group_ratios_survive_and_state_resumes():
    scheduler = power_schedule(make(0.02, 0.005), tokens_per_step=1000, batch_sequences=4, warmup_tokens=5000)
    trace(scheduler, 30)
    a, b = (group["lr"] for group in scheduler.optimizer.param_groups)
    assert a / b == pytest.approx(4, rel=1e-12)
    again = power_schedule(make(0.02, 0.005), tokens_per_step=1000, batch_sequences=4, warmup_tokens=5000)
    again.load_state_dict(scheduler.state_dict())
    again.optimizer.load_state_dict(scheduler.optimizer.state_dict())
    assert trace(again, 5) == trace(scheduler, 5)


def test_cosine_agrees_with_torch():
    ours = trace(cosine_schedule(make(1.0), warmup_steps=0, total_steps=20), 20)
    other = trace(torch.optim.lr_scheduler.CosineAnnealingLR(make(1.0), T_max=20), 20)
    assert ours == pytest.approx(other, abs=1e-12)
    assert ours[10] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def branch(step, **changes):
    """Branch a run with a decay of its own (plateau: steps 4 to 8) at a step."""
    model, optimizer = linear()
    train(model, wsd_schedule(optimizer, warmup_steps=4, stable_steps=4, decay_steps=4), step)
    return branch_decay(checkpoint(model, optimizer), *linear(), **{"decay_steps": 3, **changes})


def test_schedules_drive_a_trainer_and_resume_with_it(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 64
    settings = {
        "tokens_per_step": 32,
        "batch_sequences": 4,
        "warmup_tokens": 64,
        "a": 0.5,
        "total_tokens": 256,
        "decay_tokens": 96,
    }

    def run(steps, resume=None):
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 9,
        }
        model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=1))
        optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.02 / (1 + (p.ndim > 1))} for p in model.parameters()])
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2, save_steps=4,
            use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=rows, optimizers=(optimizer, power_schedule(optimizer, **settings))
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(8)
    curve = PowerCurve(4, 64, a=0.5, lr_max=0.02, end=160, decay_tokens=96)
    logged = [row["learning_rate"] for row in whole.state.log_history if "learning_rate" in row]
    expected = [curve.rate(32 * step) for step in range(8)]
    assert logged == pytest.approx(
        [rate / 2 for rate in expected], rel=1e-6
    )  # the Trainer logs the first group, a matrix
    again = run(8, resume=str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: power_schedule(make(1.0), tokens_per_step=1, batch_sequences=1, warmup_tokens=1, b=0.1), "b < 0"),
        (
            lambda: power_schedule(make(1.0), tokens_per_step=1, batch_sequences=1, warmup_tokens=1, decay_tokens=3),
            "total_tokens",
        ),
        (
            lambda: power_schedule(
                make(1.0), tokens_per_step=1, batch_sequences=1, warmup_tokens=9, decay_tokens=3, total_tokens=10
            ),
            "longer than",
        ),
        (lambda: wsd_schedule(make(1.0), warmup_steps=1, decay_steps=3), "stable_steps"),
        (lambda: wsd_schedule(make(1.0), warmup_steps=1, stable_steps=1, decay_steps=3, decay="log"), "1-sqrt"),
        (lambda: branch(2), "inside the warm-up or a decay"),
        (lambda: branch(9), "inside the warm-up or a decay"),
        (lambda: branch(5, decay_steps=0), "at least 1 step"),
        (lambda: branch(5, half_life=0, decay="halflife"), "half-life"),
        (lambda: branch(5, floor=1.0), "floor"),
        (
            lambda: power_schedule(make(1.0), tokens_per_step=64, batch_sequences=128, warmup_tokens=1),
            "cannot hold 128 sequences",
        ),
        (
            lambda: power_schedule(make(1.0), tokens_per_step=1, batch_sequences=1, warmup_tokens=1, decay="cosine"),
            "no fall",
        ),
        (lambda: start_decay(wsd_schedule(make(1.0), warmup_steps=1), 5, 5), "branch_decay"),
        (
            lambda: start_decay(power_schedule(make(1.0), tokens_per_step=1, batch_sequences=1, warmup_tokens=9), 5, 5),
            "9 tokens or",
        ),
        (lambda: cosine_schedule(make(1.0), warmup_steps=5, total_steps=5), "leaves nothing"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
