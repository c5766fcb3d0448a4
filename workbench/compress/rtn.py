"""Round-to-nearest: the quantizer without data, and the grid that the others share.

Per group of g weights along the input, with lo = min(w, 0), hi = max(w, 0) and M = 2^bits − 1:

    asymmetric  scale = (hi − lo)/M,            zero = round(−lo/scale)
    symmetric   scale = 2·max(−lo, hi)/M,       zero = 2^(bits−1)
    code = clamp(round(w/scale) + zero, 0, M)

Zero is always inside the range, so that a group of one sign does not push its zero point off the grid and saturate,
and exact zeros stay exact. The scale is rounded to float16 first and codes are computed against the rounded scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.compress.packing import check_bits
from workbench.compress.records import IntWeight
from workbench.errors import UserError

SMALLEST = 2.0**-24  # the smallest positive float16


def resolve_group(width: int, group_size: int | None, name: str = "this layer") -> int:
    """Weights per scale for a layer with `width` inputs.

    Args:
        width: input features.
        group_size: weights per scale, or None / −1 for one scale per output channel.
        name: the layer, for the message.

    Raises:
        UserError: when the group does not divide the width; the layer is named.
    """
    if group_size in (None, -1):
        return width
    if isinstance(group_size, bool) or group_size < 1:
        raise UserError(f"group_size is {group_size!r}; give a positive number, or None for one scale per channel.")
    if width % group_size:
        fits = [g for g in (256, 128, 64, 32, 16, 8) if width % g == 0]
        instead = f"{', '.join(map(str, fits))} or None (per channel)" if fits else "None (per channel)"
        raise UserError(f"group_size {group_size} does not divide the {width} input features of {name}; use {instead}.")
    return group_size


def grid(groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group.

    Args:
        groups: float [..., g].
        bits: 2, 3, 4 or 8.
        symmetric: centre the grid on zero.

    Returns:
        scales float16 [...], zeros uint8 [...].

    Raises:
        UserError: when a weight is so large that its step leaves float16.
    """
    lo = groups.amin(-1).clamp(max=0)
    hi = groups.amax(-1).clamp(min=0)
    top = (1 << bits) - 1
    span = 2 * torch.maximum(-lo, hi) if symmetric else hi - lo
    if float(span.max()) / top > 65504:
        raise UserError(f"a weight of magnitude {float(span.max()):.3g} is too large for a float16 step; rescale it.")
    exact = span / top
    scales = exact.clamp(min=SMALLEST).to(torch.float16)
    scales = torch.where(span == 0, torch.ones_like(scales), scales)
    if symmetric:
        return scales, torch.full_like(scales, 1 << (bits - 1), dtype=torch.uint8)
    zeros = torch.round(-lo / scales.to(lo.dtype)).clamp(0, top)
    return scales, zeros.to(torch.uint8)


def round_to_grid(values: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Codes, still as floats, of `values`; `scales` and `zeros` broadcast against them in the same dtype."""
    return torch.round(values / scales).add_(zeros).clamp_(0, (1 << bits) - 1)


def quantize_rtn(weight: Tensor, *, bits: int = 4, group_size: int | None = 64, symmetric: bool = False) -> IntWeight:
    """Round a weight matrix to the nearest codes.

    Args:
        weight: float [out, in].
        bits: bits per weight: 2, 3, 4 or 8.
        group_size: weights that share a scale along the input; None: one scale per output channel.
        symmetric: no zero point.

    Raises:
        UserError: for a width or group that does not fit.
    """
    check_bits(bits)
    out, width = weight.shape
    group = resolve_group(width, group_size)
    work = weight if weight.dtype == torch.float64 else weight.float()
    groups = work.reshape(out, -1, group)
    scales, zeros = grid(groups, bits, symmetric)
    codes = round_to_grid(groups, scales.to(work.dtype).unsqueeze(-1), zeros.to(work.dtype).unsqueeze(-1), bits)
    return IntWeight(codes.to(torch.uint8).view(out, width), scales, zeros, bits, group, symmetric)
