from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from workbench.errors import UserError
from workbench.training.mup_infinite import InfiniteLinearMup

D, C, STEPS, RATE = 5, 3, 20, 0.05
X = torch.randn(40, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X @ torch.randn(D, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def trained(model: nn.Module, steps: int = STEPS) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
    return model


def infinite() -> InfiniteLinearMup:
    return InfiniteLinearMup(D, C, sigma1=1.2, sigma2=0.8, alpha=1.5).double()


def test_it_starts_at_zero_with_the_features_of_its_input():
    model = infinite()
    assert torch.equal(model(X), torch.zeros(40, C, dtype=torch.float64))
    assert torch.allclose(model.features(X)[:, :D], 1.2 * X) and not model.features(X)[:, D:].any()


def test_first_step_by_hand():
    # f = 0 at the start, so dL/df = −2 Y / (40 C); U gains σ2 and V gains σ1 times its moments with x, both times α.
    model = trained(infinite(), steps=1)
    moment = RATE * 1.5 * 2 * Y.T @ X / (40 * C)
    assert torch.allclose(model.u[D:], 0.8 * moment) and torch.allclose(model.u[:D], 1.2 * torch.eye(D).double())
    assert torch.allclose(model.v[:, :D], 1.2 * moment) and torch.allclose(model.v[:, D:], 0.8 * torch.eye(C).double())


def test_fresh_samples_are_networks_with_independent_normal_weights():
    sample = infinite().sample(20_000)
    both = torch.cat([sample.u, sample.v.T], dim=1) * 20_000**0.5
    wanted = torch.diag(torch.tensor([1.2**2] * D + [0.8**2] * C, dtype=torch.float64))
    assert torch.allclose(both.T @ both / 20_000, wanted, atol=0.06)
    again, other = infinite().sample(50, seed=1), infinite().sample(50, seed=2)
    assert torch.equal(again.u, infinite().sample(50, seed=1).u) and not torch.equal(again.u, other.u)


def test_finite_networks_approach_it_as_one_over_root_width():
    limit = trained(infinite())(X).detach()
    assert nn.functional.mse_loss(limit, Y) < 0.5 * nn.functional.mse_loss(torch.zeros_like(Y), Y)  # it has learned
    widths = np.array([64, 256, 1024, 4096])
    errors = []
    for width in widths:
        runs = [trained(infinite().sample(int(width), seed))(X) - limit for seed in range(12)]
        errors.append(np.mean([run.square().mean().sqrt().item() for run in runs]))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.15)


def test_training_and_sampling_commute():
    # The sample of a trained limit differs from the trained sample only by how far ΩᵀΩ/n is from the identity.
    limit = trained(infinite())
    for width, tolerance in ((256, 0.5), (16384, 0.06)):
        gap = limit.sample(width)(X) - trained(infinite().sample(width))(X)
        assert gap.square().mean().sqrt() < tolerance


def test_features_move_at_every_width():
    for width in (64, 4096):
        model = infinite().sample(width)
        before = model.features(X).detach()
        moved = (trained(model).features(X) - before).norm() / before.norm()
        assert 0.05 < moved < 2


@pytest.mark.parametrize(
    ("arguments", "words"), [({"d": 0, "c": 1}, "at least one"), ({"d": 2, "c": 1, "sigma1": 0, "sigma2": 0}, "flows")]
)
def test_refusals(arguments, words):
    with pytest.raises(UserError, match=words):
        InfiniteLinearMup(**arguments)
    with pytest.raises(UserError, match="at least 1"):
        infinite().sample(0)
