"""Training of one block in phase 1 of EfficientQAT: its loss, what trains in it, and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.compress._fake_quant import FakeQuant
from workbench.compress.walk import Block
from workbench.errors import JobError

PARTS = ("weights", "scales", "zeros")
NORM_RATE = 3e-4  # of the norms: share of their mean size an update
PROBE = 8  # windows on which a block's error before and after is measured


def block_loss(out: Tensor, target: Tensor, equal_tokens: bool = True) -> Tensor:
    """How far a block's output is from its target.

    Args:
        out: hidden states [rows, tokens, width].
        target: the same of the untouched block.
        equal_tokens: mean over tokens of ‖out − target‖² / ‖target‖²; False: the ratio of the two sums.
    """
    wrong, size = (out - target).square().sum(-1), target.square().sum(-1)
    return (wrong / size.clamp(min=1e-12)).mean() if equal_tokens else wrong.sum() / size.sum().clamp(min=1e-12)


@torch.no_grad()
def block_error(block: Block, stream: list[Tensor], exact: list[Tensor], equal_tokens: bool) -> float:
    """Root of the loss on the first windows."""
    return float(block_loss(block.run(stream[0][:PROBE]), exact[0][:PROBE], equal_tokens)) ** 0.5


@torch.enable_grad()
def fit_block(
    block: Block, quants: dict[str, FakeQuant], stream: list[Tensor], exact: list[Tensor], parts: list[str],
    rates: tuple[float, float], epochs: int, batch_size: int, equal_tokens: bool, progress: Callable[[float, str], None],
) -> None:  # fmt: skip
    """Train one block towards the exact stream, from the quantized one; order of the batches as given."""
    groups = trained_groups(block, quants, parts, rates)
    batches = [(i, part) for i, states in enumerate(exact) for part in torch.arange(len(states)).split(batch_size)]
    steps = epochs * len(batches)
    if not steps or not groups:
        return
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-12, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    )
    for step in range(steps):
        at, rows = batches[step % len(batches)]
        loss = block_loss(block.run(stream[at][rows]), exact[at][rows], equal_tokens)
        value = loss.item()
        if not math.isfinite(value):
            raise JobError(f"the loss of {block.name} is {value}; use lower weight_rate and quant_rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress((step + 1) / (steps + 1), f"{block.name}, relative error {value**0.5:.3f}")


def trained_groups(
    block: Block, quants: dict[str, FakeQuant], parts: list[str], rates: tuple[float, float]
) -> list[dict[str, Any]]:
    """Parameter groups of one block, each at its own rate; switched on for training."""
    weight_rate, quant_rate = rates
    groups = []
    for name, quant in quants.items():
        layer = block.module.get_submodule(name.removeprefix(block.name + "."))
        step = float(quant.scales.detach().median())
        own = {"weights": (layer.parametrizations.weight.original, weight_rate * step),
               "scales": (quant.scales, quant_rate * step)}  # fmt: skip
        if not quant.symmetric:
            own["zeros"] = (quant.zeros, quant_rate)
        for part, (parameter, rate) in own.items():
            parameter.requires_grad_(part in parts)
            if part in parts:
                groups.append({"params": [parameter], "lr": rate})
    if "weights" in parts:
        for name, parameter in block.module.named_parameters():
            if name.endswith("weight") and parameter.ndim == 1:
                groups.append({"params": [parameter.requires_grad_(True)],
                               "lr": NORM_RATE * max(1e-3, float(parameter.detach().abs().mean()))})  # fmt: skip
    return groups
