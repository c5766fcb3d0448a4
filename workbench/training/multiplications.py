"""Multiplications of a piece of code, counted at the level of torch's operators: the same number on every machine.

Matrix products, convolutions and attention count m·k·n and the like (torch's own formulas, halved: torch counts additions
too). Products entry by entry (mul, div, addcmul, lerp) count one for each entry of the result, powers one, and a Fourier
transform of n numbers 2·n·log₂n. Additions, comparisons and copies count nothing, exponentials and random numbers neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ENTRYWISE = {"mul", "mul_", "div", "div_", "addcmul", "addcmul_", "addcdiv", "lerp", "pow", "square"}


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            whole = func.decompose(*args, **kwargs) if func is not torch.ops.prim.device.default else NotImplemented
            if whole is not NotImplemented:
                return whole
        out = func(*args, **kwargs)
        name = packet.__name__
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=out) / 2
        elif name in ENTRYWISE:
            self.total += out.numel()
        elif name in ("mv", "addmv", "addmv_", "dot", "vdot"):
            self.total += max(leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        elif name.startswith("_scaled_dot_product"):  # the CPU's kernel is unknown to torch's own counter
            query, key = args[:2]  # (rows, heads, tokens, width)
            self.total += 2 * query.numel() * key.shape[-2]
        elif name.startswith("_fft"):
            n = args[0].numel()
            self.total += 2 * n * math.log2(max(n, 2))
        return out


def count(work: Callable[[], object]) -> float:
    """Multiplications of one call.

    Args:
        work: called once.
    """
    with _Counter() as counter:
        work()
    return counter.total
