"""Sparse deltas: a weight W (d_out, d_in) plus k single trained entries, without ever storing a dense update.

    W' = W + scatter(φ, η)      φ (k,) float32, trained;  η (k,) int32, flat positions row·d_in + column, sorted, distinct
    h = W' x + b,   ∂L/∂φ = G[η],   G = (∂L/∂h)ᵀ x  (d_out, d_in)

The forward pass makes W' and drops it; backward makes it again and forms G a block of rows at a time, so memory holds one
block and not a dense gradient. Whoever chooses new positions watches the blocks of G as they pass (`watch`).

Source: Ansell et al. 2024, arXiv 2401.16405, §3; AlanAnsell/peft (dense G of one layer at a time there). Older masks: Sung et
al. 2021, arXiv 2111.09839 (Fisher); magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from workbench.adapters._random import random_numbers
from workbench.errors import UserError

BLOCK = 1 << 22  # entries of G that exist at once
Watch = Callable[[int, torch.Tensor], None]


def dense(
    weight: torch.Tensor | None, values: torch.Tensor, indices: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """W + scatter(φ, η) (d_out, d_in), a new tensor; W None means zero."""
    if weight is None:
        flat = values.new_zeros(shape[0] * shape[1])
    else:
        flat = weight.detach().to(torch.promote_types(weight.dtype, values.dtype), copy=True).contiguous().view(-1)
    return flat.index_add_(0, indices, values.detach().to(flat.dtype)).view(shape)


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, values: torch.Tensor, indices: torch.Tensor,
        shape: tuple[int, int], bias: torch.Tensor | None, watch: Watch | None, block: int,
    ) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, values, indices)
        ctx.plan = (shape, watch, block)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, dense(weight, values, indices, shape).to(x.dtype), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, weight, values, indices = ctx.saved_tensors
        shape, watch, block = ctx.plan
        to_x = to_values = to_bias = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_x = grad @ dense(weight, values, indices, shape).to(grad.dtype)
            rows, columns = grad.reshape(-1, shape[0]), x.reshape(-1, shape[1])
            if ctx.needs_input_grad[2]:
                to_values = gathered(rows, columns, indices, shape, watch, block).to(values.dtype)
            if ctx.needs_input_grad[5]:
                to_bias = rows.sum(0)
        return to_x, None, to_values, None, None, to_bias, None, None


def gathered(
    grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor, shape: tuple[int, int], watch: Watch | None = None,
    block: int = BLOCK,
) -> torch.Tensor:  # fmt: skip
    """(gradᵀ x)[η] with a block of rows of the product in memory at a time.

    Args:
        grad: (n, d_out).
        x: (n, d_in).
        indices: η, sorted (k,).
        shape: (d_out, d_in).
        watch: called with the flat position of a block and the block itself (flat), in order.
        block: entries at once.
    """
    found = grad.new_empty(len(indices))
    step = max(1, block // shape[1])
    for first in range(0, shape[0], step):
        piece = (grad[:, first : first + step].T @ x).reshape(-1)
        start = first * shape[1]
        edges = torch.tensor([start, start + len(piece)], device=indices.device)
        low, high = torch.searchsorted(indices.long(), edges).tolist()
        found[low:high] = piece[indices[low:high] - start]
        if watch is not None:
            watch(start, piece)
    return found


def sparse_linear(
    x: torch.Tensor, weight: torch.Tensor | None, values: torch.Tensor, indices: torch.Tensor, shape: tuple[int, int],
    bias: torch.Tensor | None = None, watch: Watch | None = None, block: int = BLOCK,
) -> torch.Tensor:  # fmt: skip
    """(W + scatter(φ, η)) x + b, differentiable once with respect to x, φ and b.

    Args:
        x: (…, d_in).
        weight: W (d_out, d_in), frozen; None leaves it out, for a base that cannot be read as a matrix.
        values, indices: φ and η.
        shape: (d_out, d_in).
        bias: (d_out,).
        watch, block: see `gathered`; called in backward.
    """
    return _SparseLinear.apply(x, weight, values, indices, shape, bias, watch, block)


def budget(sizes: Sequence[int], total: int) -> list[int]:
    """Deltas per matrix in proportion to its size, at least one each, `total` in all (largest remainders).

    Args:
        sizes: entries of every matrix.
        total: deltas in the whole model.

    Raises:
        UserError: fewer deltas than matrices, or more than entries.
    """
    if not len(sizes) <= total <= sum(sizes):
        raise UserError(
            f"{total} deltas cannot be spread over {len(sizes)} matrices of {sum(sizes)} entries: each takes at least one, "
            "and none more than it has; change num_weights or target_modules."
        )
    exact = [total * size / sum(sizes) for size in sizes]
    counts = [max(1, int(share)) for share in exact]
    order = sorted(range(len(sizes)), key=lambda i: exact[i] - counts[i], reverse=True)
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        for i in order if step > 0 else reversed(order):
            if 1 <= counts[i] + step <= sizes[i]:
                counts[i] += step
                if sum(counts) == total:
                    break
    return counts


def random_positions(size: int, k: int, seed: int) -> torch.Tensor:
    """k distinct flat positions below `size`, sorted, int32; the same on every machine.

    Raises:
        UserError: more entries than a 32-bit position can name.
    """
    if size >= 1 << 31:
        raise UserError(f"A matrix of {size} entries is beyond 32-bit positions; leave it out of target_modules.")
    return largest(random_numbers(seed, 0, size), k)


def largest(score: torch.Tensor, k: int) -> torch.Tensor:
    """Positions of the k largest scores, sorted, int32 (ties: the lower position)."""
    order = torch.argsort(score.reshape(-1), descending=True, stable=True)[:k]
    return order.sort().values.to(torch.int32)
