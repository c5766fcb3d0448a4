"""Apply a dense kernel to pictures the cheaper way: torch's direct convolution, or transforms (`dcls_fft`).

torch's own depthwise convolution gets dear with the kernel's area, the transforms cost the same whatever the kernel. Which is
cheaper was measured, not guessed: `CUTOVER` holds the kernel size from which transforms win for forward plus backward on
all shapes tried, on a CPU (tests/bench/bench_dcls.py --cutover prints the table it was read from; in channels-last order
torch's 2-d convolution stays good for longer). Transforms serve depthwise layers of stride 1; anything else, and every
other device, goes the direct way.

Two savings are exact and serve both ways: taps of the kernel that never meet the picture are cut off (a 17 × 17 kernel on a
7 × 7 picture is a 13 × 13 one), and a transposed layer of stride 1 is a convolution with the mirrored kernel.

Source: see `dcls_fft`; departures: none in values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import UserError, choose
from workbench.layers.dcls_fft import fft_depthwise

METHODS = ("auto", "direct", "fft")
CUTOVER = {1: 17, 2: 7, 3: 3}  # geometric mean of the kernel's sides, in pixels
CUTOVER_CHANNELS_LAST = 13
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolve(
    x: Tensor, kernel: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1,), padding: Sequence[int] = (0,),
    groups: int = 1, method: str = "auto",
) -> Tensor:  # fmt: skip
    """Convolution (cross-correlation, as torch's) with zero padding.

    Args:
        x: (N, C_in, H…) or (C_in, H…).
        kernel: (C_out, C_in / groups, s…).
        bias: (C_out,) or None.
        stride, padding: one number per axis.
        groups: as in torch.
        method: `direct`, `fft`, or `auto`, the cheaper one as measured.

    Raises:
        UserError: a kernel larger than the padded picture; `fft` where transforms do not serve.
    """
    n = kernel.ndim - 2
    inside, sides = x.shape[-n:], kernel.shape[2:]
    for axis in range(n):
        if inside[axis] + 2 * padding[axis] < sides[axis]:
            raise UserError(
                f"A kernel of size {tuple(sides)} does not fit a picture of {tuple(inside)} padded by {tuple(padding)}; "
                f"pad by {tuple(s // 2 for s in sides)} or take a smaller kernel."
            )
    kernel, padding = cut(kernel, inside, stride, padding)
    reason = why_not_fft(x, kernel, stride, groups)
    if choose("way to convolve", method, METHODS) == "fft" and reason:
        raise UserError(f"Transforms cannot serve here: {reason}. Choose method direct or auto.")
    if method == "direct" or reason or (method == "auto" and not transforms_win(x, kernel)):
        return CONV[n](x, kernel.to(x.dtype), bias, tuple(stride), tuple(padding), 1, groups)
    exact = torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)
    batch = x if x.ndim == n + 2 else x.unsqueeze(0)
    y = fft_depthwise(batch.to(exact), kernel[:, 0].to(exact), padding)
    if bias is not None:
        y = y + bias.to(exact).view(-1, *(1,) * n)
    return (y if x.ndim == n + 2 else y.squeeze(0)).to(x.dtype)


def convolve_transposed(
    x: Tensor, kernel: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    output_padding: Sequence[int], groups: int, method: str = "auto",
) -> Tensor:  # fmt: skip
    """Transposed convolution; `kernel` is (C_in, C_out / groups, s…), other arguments as torch's.

    Raises:
        UserError: `fft` where transforms do not serve.
    """
    n = kernel.ndim - 2
    around = tuple(s - 1 - p for s, p in zip(kernel.shape[2:], padding, strict=True))
    plain = groups == kernel.shape[0] and kernel.shape[1] == 1 and set(stride) == {1} and min(around) >= 0
    if plain and not any(output_padding):
        return convolve(x, kernel.flip(tuple(range(2, n + 2))), bias, stride, around, groups, method)
    if choose("way to convolve", method, METHODS) == "fft":
        raise UserError("Transforms serve depthwise transposed layers of stride 1 only; choose method direct or auto.")
    return CONV_TRANSPOSE[n](
        x, kernel.to(x.dtype), bias, tuple(stride), tuple(padding), tuple(output_padding), groups, 1
    )


def cut(
    kernel: Tensor, inside: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """Without the taps that meet zeros only, as many on either side, and the padding that goes with it."""
    index, kept = [slice(None)] * 2, []
    for h, step, p, s in zip(inside, stride, padding, kernel.shape[2:], strict=True):
        reach = (h + 2 * p - s) // step * step  # how far the kernel travels
        idle = max(0, min(p - reach, s - p - h))
        index.append(slice(idle, s - idle))
        kept.append(p - idle)
    return kernel[tuple(index)], tuple(kept)


def why_not_fft(x: Tensor, kernel: Tensor, stride: Sequence[int], groups: int) -> str:
    """The reason why transforms do not serve, or an empty text."""
    if groups != kernel.shape[0] or kernel.shape[1] != 1:
        return f"the layer is not depthwise (groups {groups}, kernel {tuple(kernel.shape[:2])} channels)"
    return f"the stride is {tuple(stride)}, not 1" if set(stride) != {1} else ""


def transforms_win(x: Tensor, kernel: Tensor) -> bool:
    """Whether transforms are cheaper than torch's direct convolution, by the measured cut-over."""
    n = kernel.ndim - 2
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    side = CUTOVER_CHANNELS_LAST if last else CUTOVER[n]
    return x.device.type == "cpu" and kernel.shape[2:].numel() >= side**n
