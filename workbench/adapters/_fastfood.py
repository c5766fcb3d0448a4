"""Fastfood: a random map from a few numbers to very many that is never written down as a matrix.

    F z = first D of [ H G Π H B z ] · 1 / (√(L ΣG²) · √(D/L)),     L = 2^⌈log2 D⌉

z (d,) is padded with zeros to L; B random signs, Π a permutation, G independent N(0, 1), all diagonal or an index; H the
Walsh–Hadamard matrix of ones and minus ones, applied by butterflies. Time L log L, memory 2 L numbers whatever d is; every
column of F has norm 1 in expectation. Since z fills the first K = 2^⌈log2 d⌉ places only, H B z repeats one transform
of length K: half of the work falls away. When d > L only the first L entries of z are used (the authors' code does so too).

The gradient is the exact adjoint, Fᵀ g. `reference_grad` gives what the code released with Aghajanyan et al. does: its
backward multiplies by 1/√L at each of the two transforms, so a tensor's share of the gradient is smaller by 1/L.

Signs, order and weights come from the counter-based stream of `_random`, made on the CPU: equal on every device.
Source: Le, Sarlós, Smola, ICML 2013; used for training by Li et al., arXiv 1804.08838, §2, and Aghajanyan et al., arXiv
2012.13255, §3; scale: uber-research/intrinsic-dimension.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch

from workbench.adapters._random import derive, random_numbers
from workbench.errors import UserError

RADIX = 64  # one pass multiplies by a Hadamard matrix of this side: a few large products beat many small butterflies


@functools.lru_cache(maxsize=32)
def _matrix(side: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    matrix = torch.ones(1, 1, dtype=dtype)
    while len(matrix) < side:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix.to(device)


class _Hadamard(torch.autograd.Function):
    """H x over the last axis; H is symmetric, so backward is the same map."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out, inner, left = x.contiguous(), 1, x.shape[-1]
            while left > 1:
                side = min(RADIX, left)
                matrix = _matrix(side, x.dtype, x.device)
                rows = out.reshape(-1, side) if inner == 1 else out.reshape(-1, side, inner)
                out = rows @ matrix if inner == 1 else torch.matmul(matrix, rows)
                inner, left = inner * side, left // side
            return out.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _Hadamard.apply(grad)


class _ScaledGradient(torch.autograd.Function):
    """The identity, with a gradient multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Unnormalised Walsh–Hadamard transform over the last axis: H (H x) = n x.

    Args:
        x: (…, n), n a power of two, float32 or float64.

    Raises:
        UserError: a length that is not a power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise UserError(f"A Hadamard transform needs a power of two, not {n} numbers; pad with zeros.")
    return _Hadamard.apply(x)


@dataclass(frozen=True)
class Fastfood:
    """The frozen parts of one map F from d numbers to `size`.

    Args:
        d: how many numbers go in; the first `len(signs)` at most are used.
        size: D, how many come out.
        signs: B on the places that can be reached (K,).
        source: Π as an index into the K repeated places (L,), int32.
        weights: G (L,).
        scale: 1 / (√(L ΣG²) √(D/L)).
    """

    d: int
    size: int
    signs: torch.Tensor
    source: torch.Tensor
    weights: torch.Tensor
    scale: float

    @property
    def length(self) -> int:
        """L, the padded length."""
        return len(self.weights)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Fastfood:
        """The same map on another device or in another float type."""
        signs, weights = (part.to(device, dtype) for part in (self.signs, self.weights))
        return Fastfood(self.d, self.size, signs, self.source.to(device), weights, self.scale)


def make_fastfood(d: int, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Fastfood:
    """Draw a map from d numbers to `size`.

    Args:
        d: numbers that go in.
        size: numbers that come out.
        seed: 64-bit seed.
        dtype: of signs and weights.

    Raises:
        UserError: d or size below 1.
    """
    if d < 1 or size < 1:
        raise UserError(f"A map from {d} to {size} numbers has nothing to do; use 1 or more of both.")
    length = 1 << (size - 1).bit_length()
    reached = 1 << (min(d, length) - 1).bit_length()
    signs = random_numbers(derive(seed, "signs"), 0, reached, dtype=dtype).sign()
    order = torch.argsort(random_numbers(derive(seed, "order"), 0, length), stable=True)
    weights = random_numbers(derive(seed, "weights"), 0, length, "normal", dtype=dtype) * math.sqrt(3)
    total = weights.double().square().sum().item()
    scale = 1 / (math.sqrt(length * total) * math.sqrt(size / length))
    return Fastfood(d, size, signs, (order & (reached - 1)).to(torch.int32), weights, scale)


def fastfood(z: torch.Tensor, parts: Fastfood, reference_grad: bool = False) -> torch.Tensor:
    """F z, differentiable with the exact adjoint.

    Args:
        z: (d,) float32 or float64, like the parts.
        parts: from `make_fastfood`.
        reference_grad: divide the gradient by L, as the code released with Aghajanyan et al. does.

    Returns:
        Tensor (size,).

    Raises:
        UserError: when z has another length than the map expects.
    """
    if z.shape != (parts.d,):
        raise UserError(f"This map takes {parts.d} numbers, got shape {tuple(z.shape)}; make one with d={z.numel()}.")
    used = min(parts.d, parts.length)
    head = torch.nn.functional.pad(z[:used], (0, len(parts.signs) - used)) * parts.signs
    if reference_grad:
        head = _ScaledGradient.apply(head, 1 / parts.length)
    spread = hadamard(head).index_select(0, parts.source) * parts.weights
    return hadamard(spread)[: parts.size] * parts.scale
