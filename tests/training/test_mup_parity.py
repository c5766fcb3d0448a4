"""Parity with the PyPI package `mup` 1.0.0 (MIT): same initial weights, logits, rates, decays and training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from workbench.training.mup import MupReadout, mup_init_, mup_param_groups

mup = pytest.importorskip(
    "mup", reason="the package mup is not installed (pip install --no-deps --no-build-isolation mup==1.0.0)"
)

BASE, DELTA, WIDTH = 16, 24, 64
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 5, (32,), generator=torch.Generator().manual_seed(1))


def net(width: int, readout: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.Tanh(), readout
    ).double()


def theirs(width: int) -> nn.Sequential:
    return net(width, mup.MuReadout(2 * width, 5))


def ours(width: int) -> nn.Sequential:
    return net(width, MupReadout(2 * width, 5, base_d_in=2 * BASE))


def pair() -> tuple[nn.Module, nn.Module]:
    """The same fresh weights, turned into muP by both."""
    torch.manual_seed(3)
    reference = theirs(WIDTH)
    model = ours(WIDTH)
    model.load_state_dict(copy.deepcopy(reference.state_dict()))
    mup.set_base_shapes(reference, theirs(BASE), delta=theirs(DELTA))
    return reference, mup_init_(model, ours(BASE))


def test_the_same_weights_and_logits_at_the_start():
    reference, model = pair()
    mine, other = model.state_dict(), reference.state_dict()
    assert mine.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(mine[name], tensor)
    torch.testing.assert_close(model(X), reference(X))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_same_rate_and_decay_for_every_parameter(optimizer):
    reference, model = pair()
    make = mup.MuAdamW if optimizer == "adamw" else mup.MuSGD
    groups = make(reference.parameters(), lr=0.01, weight_decay=0.1).param_groups
    names = {id(parameter): name for name, parameter in reference.named_parameters()}
    wanted = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = mup_param_groups(model, ours(BASE), 0.01, optimizer=optimizer, weight_decay=0.1)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == wanted.keys() and len(set(wanted.values())) > 1
    for name, pair_of in wanted.items():
        assert found[name] == pytest.approx(pair_of), name


def test_the_same_logits_after_ten_steps_of_adam():
    reference, model = pair()
    optimizers = [
        mup.MuAdam(reference.parameters(), lr=0.02),
        torch.optim.Adam(mup_param_groups(model, ours(BASE), 0.02)),
    ]
    start = model(X).detach()
    for net_, optimizer in zip((reference, model), optimizers, strict=True):
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net_(X), Y).backward()
            optimizer.step()
    torch.testing.assert_close(model(X), reference(X))
    assert (model(X) - start).abs().mean() > 0.1
