"""Shared core of the bottleneck adapters: one small network, of five kinds.

    s · up(f(down(x)))

`dense` (two full matrices), `low_rank` (each matrix an outer product), `phm` and `compacter` (sums of Kronecker products,
`_phm`), `lora` (no activation, no biases: the only one that merges). What x is and where the result is added is the
layer's business (`_bottleneck_layer`): behind a block (sequential) or beside it (parallel). Tensors stay float32.

Departure from the places in the papers: adapters act before the dropout that follows an output layer, not after it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from workbench.adapters._phm import glorot, phm_map, phm_map_full

ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu", "tanh")
WHY_NOT = (
    "This adapter cannot be merged: it puts a non-linear function of the layer's input or output on top of the output, and no "
    "change of the weights does the same. Keep it beside the model."
)


class Bottleneck(nn.Module):
    """s · up(f(down(x))): (…, d_in) → (…, d_out).

    Args:
        d_in, width, d_out: sizes; `width` is the bottleneck.
        kind: `dense`, `low_rank`, `phm`, `compacter` or `lora`.
        read: what x is: the layer's `output` h, the block's `input`, or the layer's `own` input.
        activation: name of f; not used by `lora`.
        scale: s, on the biases as well.
        init: `normal` (dense: N(0, std²) everywhere), `lora` (down kaiming, up zero), `zero` (as the kind starts, up zero).
        std: for `normal`.
        n, rank: blocks and rank of the Kronecker products.
        owner: the block whose rule this one shares; None makes its own.
        inner_norm: a layer norm of its own on the input.
        inside: add to what the output layer reads, not to what it writes (then d_out is its input size).
    """

    def __init__(
        self, d_in: int, width: int, d_out: int, *, kind: str = "dense", read: str = "output", activation: str = "relu",
        scale: float = 1.0, init: str = "normal", std: float = 0.01, n: int = 4, rank: int = 1,
        owner: Bottleneck | None = None, inner_norm: bool = False, inside: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kind, self.read, self.scale, self.inside = kind, read, scale, inside
        self.act = None if kind == "lora" else ACT2FN[activation]
        self._owner = (owner,)  # in a tuple: not a child, so that the shared rule is stored and counted once
        make = {"dense": _dense, "lora": _dense, "low_rank": _low_rank, "phm": _phm, "compacter": _compacter}[kind]
        for side, (i, o) in (("down", (d_in, width)), ("up", (width, d_out))):
            for name, tensor in make(i, o, n, rank, std, init == "lora").items():
                if side == "up" and init != "normal" and name in ("weight", "t", "w"):
                    tensor = torch.zeros_like(tensor)
                self.register_parameter(f"{side}_{name}", nn.Parameter(tensor))
            if kind != "lora":
                self.register_parameter(f"{side}_bias", nn.Parameter(torch.zeros(o)))
        if kind == "compacter" and owner is None:
            self.rule = nn.Parameter(torch.randn(n, n, n) * 1e-4)
        if inner_norm:
            self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(d_in)), nn.Parameter(torch.zeros(d_in))

    def _map(self, side: str, x: torch.Tensor) -> torch.Tensor:
        def of(name: str) -> torch.Tensor:
            return getattr(self, f"{side}_{name}").to(x.dtype)

        if self.kind in ("dense", "lora"):
            return F.linear(x, of("weight"), of("bias") if self.kind == "dense" else None)
        if self.kind == "low_rank":
            return (x @ of("s")) @ of("t") + of("bias")
        if self.kind == "phm":
            return phm_map_full(x, of("rule"), of("w")) + of("bias")
        rule = (self._owner[0] or self).rule
        return phm_map(x, rule.to(x), of("s"), of("t")) + of("bias")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) → (…, d_out)."""
        if hasattr(self, "norm_weight"):
            x = F.layer_norm(x, x.shape[-1:], self.norm_weight.to(x.dtype), self.norm_bias.to(x.dtype))
        hidden = self._map("down", x)
        return self._map("up", hidden if self.act is None else self.act(hidden)) * self.scale


def _dense(i: int, o: int, n: int, rank: int, std: float, kaiming: bool) -> dict[str, torch.Tensor]:
    weight = torch.empty(o, i)
    return {"weight": nn.init.kaiming_uniform_(weight, a=5**0.5) if kaiming else nn.init.normal_(weight, std=std)}


def _low_rank(i: int, o: int, n: int, rank: int, std: float, kaiming: bool) -> dict[str, torch.Tensor]:
    return {"s": glorot(i, 1), "t": glorot(1, o)}


def _phm(i: int, o: int, n: int, rank: int, std: float, kaiming: bool) -> dict[str, torch.Tensor]:
    return {"rule": torch.randn(n, n, n) * 0.01, "w": glorot(n, i // n, o // n)}


def _compacter(i: int, o: int, n: int, rank: int, std: float, kaiming: bool) -> dict[str, torch.Tensor]:
    return {"s": glorot(n, i // n, rank), "t": glorot(n, rank, o // n)}


def count(kind: str, d_in: int, width: int, d_out: int, n: int = 4, rank: int = 1) -> int:
    """Trained numbers of one block, its shared rule left out."""
    sides = ((d_in, width), (width, d_out))
    if kind in ("dense", "lora"):
        return sum(i * o + (o if kind == "dense" else 0) for i, o in sides)
    if kind == "low_rank":
        return sum(i + 2 * o for i, o in sides)
    if kind == "phm":
        return sum(n**3 + i * o // n + o for i, o in sides)
    return sum(rank * (i + o) + o for i, o in sides)
