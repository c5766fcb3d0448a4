"""How far the grid of a group reaches: the extremes of its weights, or a little less where that serves its inputs better.

A few weights at the ends lose, the step of all others shrinks. Per group of g weights w with inputs x,

    range = c · (least, greatest)      c ∈ {1, 0.95 … 0.5} with the least ‖(ŵ − w) x‖² = (ŵ − w) H (ŵ − w)ᵀ

    weight [out, in] · H = mean of x xᵀ [in, in], of which only the blocks [g, g] on the diagonal are read

c = 1 is the plain grid and comes first, so a group never does worse by this measure.

Source: Lin et al. 2023, arXiv 2306.00978 (weight clipping of the released AWQ).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.compress.rtn import grid, round_to_grid

SHRINKS = tuple(1 - 0.05 * i for i in range(11))


def fit_ranges(
    weight: Tensor, hessian: Tensor | None, bits: int, group_size: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group.

    Args:
        weight: float [out, in].
        hessian: mean of x xᵀ [in, in] of its inputs; None: ranges reach to the extremes.
        bits: 2, 3, 4 or 8.
        group_size: g; divides in.
        symmetric: centre the grid on zero.

    Returns:
        scales float16 [out, in/g], zeros uint8 [out, in/g].
    """
    out, width = weight.shape
    if hessian is None:
        return grid(weight.reshape(out, -1, group_size), bits, symmetric)
    hessian = hessian.to(weight.dtype)
    groups = weight.reshape(out, -1, group_size).transpose(0, 1)  # [in/g, out, g]
    own = torch.stack([hessian[at : at + group_size, at : at + group_size] for at in range(0, width, group_size)])
    best = None
    for shrink in SHRINKS:
        scales, zeros = grid(groups * shrink, bits, symmetric)
        step, zero = scales.to(weight.dtype).unsqueeze(-1), zeros.to(weight.dtype).unsqueeze(-1)
        delta = (round_to_grid(groups, step, zero, bits) - zero).mul_(step).sub_(groups)
        loss = (torch.bmm(delta, own) * delta).sum(-1)  # [in/g, out]
        if best is None:
            best = [loss, scales, zeros]
            continue
        better = loss < best[0]
        for kept, new in zip(best, (loss, scales, zeros), strict=True):
            kept[better] = new[better]
    return best[1].t().contiguous(), best[2].t().contiguous()
