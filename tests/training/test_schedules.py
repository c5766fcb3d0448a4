from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from workbench.errors import UserError
from workbench.training.schedules import branch_decay, cosine_schedule, power_rate, power_schedule, wsd_schedule


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
    assert rates[7] == pytest.approx(0.01, rel=1e-12)
    assert rates[12] == pytest.approx(0.005, rel=1e-12)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_decays_start_at_the_peak_and_end_at_the_floor(decay):
    rates = trace(wsd_schedule(make(1.0), warmup_steps=0, stable_steps=2, decay_steps=10, decay=decay, floor=0.1), 14)
    assert rates[2] == pytest.approx(1) and rates[12] == pytest.approx(0.1) and rates[13] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_a_branch_continues_plateau_weights_and_moments_bit_for_bit():
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), torch.randn(64, 1)

    def train(model, scheduler, steps):
        for _ in range(steps):
            scheduler.optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            scheduler.optimizer.step()
            scheduler.step()

    whole = torch.nn.Linear(3, 1)
    split = copy.deepcopy(whole)
    one = wsd_schedule(torch.optim.AdamW(whole.parameters(), lr=0.1), warmup_steps=3, stable_steps=10, decay_steps=5)
    train(whole, one, 18)
    two = wsd_schedule(torch.optim.AdamW(split.parameters(), lr=0.1), warmup_steps=3)
    train(split, two, 13)
    branch = torch.nn.Linear(3, 1)
    branch.load_state_dict(split.state_dict())
    optimizer = torch.optim.AdamW(branch.parameters(), lr=0.1)
    optimizer.load_state_dict(two.optimizer.state_dict())
    train(branch, branch_decay(optimizer, at_step=13, warmup_steps=3, decay_steps=5), 5)
    assert torch.equal(branch.weight, whole.weight)


def test_power_rate_at_published_points():
    # β = 128, a = 4, b = −0.51 (arXiv 2408.13359): the cap binds up to n* ≈ 440 M tokens.
    expected = {1e9: 0.01316, 1e10: 0.00407, 1e11: 0.00126}
    for tokens, rate in expected.items():
        assert power_rate(tokens, batch_sequences=128) == pytest.approx(rate, rel=3e-3)
    cap = (0.02 / (128 * 4)) ** (1 / -0.51)
    assert cap == pytest.approx(440e6, rel=0.01)
    assert power_rate(cap, batch_sequences=128) == pytest.approx(0.02, rel=1e-12)


def test_power_agrees_with_the_released_formula():
    # The released scheduler's factor after warm-up: min(1, (a/η_max)·(c·step)^b), with `a` already times the batch.
    scheduler = power_schedule(make(0.02), tokens_per_step=4096, batch_sequences=8, warmup_tokens=4096 * 5, a=4.0)
    rates = trace(scheduler, 400)
    for step in (5, 6, 50, 399):
        assert rates[step] == pytest.approx(0.02 * min(1, (8 * 4.0 / 0.02) * (4096 * step) ** -0.51), rel=1e-12)
    assert rates[0] == 0


def test_power_is_continuous_where_its_pieces_meet():
    settings = {
        "batch_sequences": 8,
        "warmup_tokens": 10_000,
        "total_tokens": 200_000,
        "decay_tokens": 50_000,
        "decay": "linear",
    }
    rates = trace(power_schedule(make(0.02), tokens_per_step=20, **settings), 10_000)
    jumps = [abs(a - b) for a, b in itertools.pairwise(rates)]
    assert max(jumps) < 0.02 / 450
    assert rates[-1] < 1e-5


def test_power_prefix_does_not_depend_on_the_total():
    shared = {"tokens_per_step": 100, "batch_sequences": 4, "warmup_tokens": 1000, "decay_tokens": 2000}
    short = trace(power_schedule(make(0.02), total_tokens=10_000, **shared), 80)
    long = trace(power_schedule(make(0.02), total_tokens=40_000, **shared), 80)
    assert short == long


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
        (lambda: branch_decay(make(1.0), at_step=1, warmup_steps=5, decay_steps=3), "inside the warm-up"),
        (lambda: cosine_schedule(make(1.0), warmup_steps=5, total_steps=5), "leaves nothing"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
