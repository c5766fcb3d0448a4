"""Optimizers of sparse deltas: parity with torch's where nothing moves, by hand where it does."""

import pytest
import torch
from torch import nn

from workbench.adapters._sparse_delta_optim import SpielAdamW, SpielSM3
from workbench.errors import UserError


def gradients(steps, size=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator) for _ in range(steps)]


def run(make, steps=12):
    p = nn.Parameter(torch.linspace(-1, 1, 6))
    optimizer = make([p])
    for gradient in gradients(steps):
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_without_moves_it_is_adamw(decay):
    settings = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": decay}
    torch.testing.assert_close(
        run(lambda p: SpielAdamW(p, **settings)), run(lambda p: torch.optim.AdamW(p, **settings)), rtol=1e-5, atol=1e-6
    )


def test_a_newcomer_steps_as_on_a_first_day_and_others_as_before():
    """g = 1 always: m̂ = v̂ = 1, so every step is lr. With a common step count entry 0 would move by 3.2 lr."""
    p = nn.Parameter(torch.zeros(2))
    optimizer = SpielAdamW([p], lr=0.1, betas=(0.9, 0.999), eps=0.0)
    for _ in range(50):
        p.grad = torch.ones(2)
        optimizer.step()
    for name in ("age", "exp_avg", "exp_avg_sq"):
        optimizer.state[p][name][0] = 0
    before = p.detach().clone()
    p.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(before - p.detach(), torch.full((2,), 0.1), rtol=1e-4, atol=0)


def test_decay_pulls_towards_zero_only():
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = SpielAdamW([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.95, -1.9]))


def test_sm3_by_hand():
    """Entries (0, 0), (0, 1), (1, 1) of a 2 × 2 matrix, two steps."""
    p = nn.Parameter(torch.zeros(3))
    places = torch.tensor([0, 1, 3], dtype=torch.int32)
    optimizer = SpielSM3([p], {p: (lambda: places, (2, 2))}, lr=1.0, eps=0.0)
    p.grad = torch.tensor([3.0, -4.0, 1.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-1.0, 1.0, -1.0]))  # ν = g²
    assert optimizer.state[p]["row"].tolist() == [16, 1]  # largest ν of each row
    assert optimizer.state[p]["column"].tolist() == [9, 16]
    p.grad = torch.tensor([4.0, 3.0, 0.0])
    optimizer.step()
    # ν: min(16, 9) + 16 = 25; min(16, 16) + 9 = 25; min(1, 16) + 0 = 1
    torch.testing.assert_close(p.detach(), torch.tensor([-1.8, 0.4, -1.0]))
    assert optimizer.state[p]["row"].tolist() == [25, 1]
    assert optimizer.state[p]["column"].tolist() == [25, 25]


def test_sm3_keeps_a_sum_for_each_row_and_column_only():
    p = nn.Parameter(torch.zeros(4))
    places = torch.tensor([0, 5, 10, 15], dtype=torch.int32)
    optimizer = SpielSM3([p], {p: (lambda: places, (4, 4))})
    p.grad = torch.ones(4)
    optimizer.step()
    assert sum(tensor.numel() for tensor in optimizer.state[p].values()) == 4 + 4


def test_sm3_of_a_plain_parameter_is_adagrad():
    torch.testing.assert_close(
        run(lambda p: SpielSM3(p, {}, lr=0.1, eps=1e-8)), run(lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-8))
    )


def test_parameters_without_a_gradient_stay_and_a_closure_is_called():
    p, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    for optimizer in (SpielAdamW([p, still], lr=0.1), SpielSM3([p, still], {}, lr=0.1)):

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        before = p.detach().clone()
        assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
        assert torch.equal(still, torch.ones(2)) and (p < before).all()


def test_state_survives_its_dictionary():
    def go(optimizer, p, grads):
        for gradient in grads:
            p.grad = gradient.clone()
            optimizer.step()

    grads = gradients(6)
    whole = nn.Parameter(torch.zeros(6))
    go(SpielAdamW([whole], lr=0.1), whole, grads)
    first = nn.Parameter(torch.zeros(6))
    one = SpielAdamW([first], lr=0.1)
    go(one, first, grads[:3])
    second = nn.Parameter(first.detach().clone())
    two = SpielAdamW([second], lr=0.1)
    two.load_state_dict(one.state_dict())
    go(two, second, grads[3:])
    assert torch.equal(second, whole)


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"weight_decay": -0.1}])
def test_negative_settings_are_refused(settings):
    for make in (SpielAdamW, lambda p, **kw: SpielSM3(p, {}, **kw)):
        with pytest.raises(UserError, match="must not be negative"):
            make([nn.Parameter(torch.zeros(1))], **settings)
