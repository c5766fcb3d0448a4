"""LoRA in twenty lines, for lesson 01: read it, change it, and then use peft's.

    h = W x + (α/r) · B (A x)        A (r, d_in) random, B (d_out, r) zero: the model starts unchanged

Source: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685, §4.1. A test compares it with peft's, number by number.
"""

from __future__ import annotations

import torch
from torch import nn


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained product of two thin matrices beside it."""

    def __init__(self, base: nn.Linear, r: int = 8, alpha: float = 16.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(r, base.in_features) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, d_in) → (…, d_out)."""
        return self.base(x) + self.scale * (x @ self.a.T) @ self.b.T

    def merged(self) -> torch.Tensor:
        """The one matrix (d_out, d_in) that does the same."""
        return self.base.weight + self.scale * self.b @ self.a


def add_lora(
    model: nn.Module, targets: tuple[str, ...] = ("q_proj", "v_proj"), r: int = 8, alpha: float = 16.0
) -> nn.Module:
    """Freeze the model and put a `LoraLinear` around every layer whose name ends in one of `targets`.

    Args:
        model: changed in place.
        targets: last parts of the layers' names.
        r: rank.
        alpha: the update is scaled by alpha / r.
    """
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in targets:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], LoraLinear(layer, r, alpha))
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Put every product into its matrix and take the extra modules out again, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLinear):
            layer.base.weight.data = layer.merged().detach()
            setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer.base)
    return model
