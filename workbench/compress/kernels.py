"""torch's packed int4 matmul for small batches, used for 2-, 3-, 4- and 8-bit weights.

Idea: a product with few rows is limited by reading the weight, so a kernel that reads 4 bits instead of 16 or 32 wins;
with many rows arithmetic dominates and dequantize → GEMM wins. torch's kernel computes, per group,

    y = x · ŵᵀ,   ŵ = (q − 8)·scale + offset,   q ∈ 0 … 15,   x, scale, offset, y in bfloat16

which holds our record with offset = (8 − zero)·scale. Narrower codes ride in the middle of the same 4 bits (shifted by
8 − 2^(bits−1), so that the offset, rounded to bfloat16, stays small). An 8-bit code is two planes, code = 16·high + low:
the sum of two products, so 8 bits cost two reads of 4 (torch's own `_weight_int8pack_mm` knows only one symmetric scale
per channel, and is slower than two planes without AVX-512).

In memory the codes exist once: either densely packed as saved, or in the kernel's order. The CPU order is known well
enough to be read back (`tile`), which `cpu_block` verifies on this machine before anything relies on it: blocks of B
output rows, and inside a block, for every input k, B/2 bytes whose low nibbles are rows 0 … B/2−1 and high nibbles rows
B/2 … B−1 (B = 64 with AVX-512, 32 with AVX2). Where the check fails, weights stay packed and are dequantized.

The kernel rounds inputs, scales and outputs to bfloat16 (relative 2⁻⁹): the small-batch product of a float32 model
is a bfloat16 product. `CUTOVER` was measured with `measure_cutover` (see there).
"""

from __future__ import annotations

import functools
import statistics
import time

import torch
from torch import Tensor

# Rows of x up to which the kernel beats dequantize → GEMM. Measured by `measure_cutover` on 2 cores (AVX2, torch 2.13).
CUTOVER = 48
GROUPS = (256, 128, 64, 32)  # the group sizes torch's kernel has


@functools.cache
def cpu_block() -> int | None:
    """Output rows per block of the CPU kernel's order on this machine; None when it is not the order we can read."""
    rows, width = 128, 4
    index = torch.arange(rows * width).view(rows, width)
    digits = [torch.ops.aten._convert_weight_to_int4pack_for_cpu((index >> s & 15).int(), 1) for s in (0, 4, 8)]
    for block in (64, 32):
        low, high = (
            sum((digit.view(-1, width, block // 2) >> s & 15).long() << (4 * i) for i, digit in enumerate(digits))
            for s in (0, 4)
        )
        if torch.equal(torch.cat([low, high], -1).transpose(1, 2).reshape(rows, width), index):
            return block
    return None


@functools.cache
def cuda_works(index: int) -> bool:
    """Whether CUDA device `index` runs torch's int4 kernel and agrees with the plain product."""
    generator = torch.Generator().manual_seed(0)
    device = torch.device("cuda", index)
    codes = torch.randint(0, 16, (64, 128), generator=generator, dtype=torch.uint8).to(device)
    scales = (torch.rand(64, 4, generator=generator) + 0.5).half().to(device)
    zeros = torch.full((64, 4), 7, dtype=torch.uint8, device=device)
    x = torch.randn(3, 128, generator=generator).to(device)
    plain = (codes.view(64, 4, 32).float() - 7).mul_(scales.float().unsqueeze(-1)).view(64, 128)
    try:
        got = small(x, arrange(codes, 4), arrange_scales(scales, zeros, 4, 32), 32)
    except RuntimeError:  # an architecture torch ships no int4 kernel for
        return False
    want = x @ plain.t()
    return bool((got - want).abs().max() < 0.03 * want.abs().max())


def kernel_group(group_size: int) -> int | None:
    """The kernel's group that our group is a multiple of (scales are then repeated), or None."""
    return next((group for group in GROUPS if group_size % group == 0), None)


def usable(out: int, width: int, group_size: int, device: torch.device) -> bool:
    """Whether torch's int4 kernel can run a weight [out, width] on `device`."""
    if kernel_group(group_size) is None:
        return False
    if device.type == "cuda":
        return out % 8 == 0 and width % 32 == 0 and cuda_works(device.index or 0)
    return device.type == "cpu" and cpu_block() is not None and out % cpu_block() == 0


def shift(bits: int) -> int:
    """What is added to a code so that the middle of its range is the kernel's 8."""
    return 8 - (1 << (bits - 1)) if bits < 4 else 0


def arrange(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [out, in] in the kernel's order: one plane, or two (high, low) at 8 bits."""
    planes = [codes >> 4, codes & 15] if bits == 8 else [codes + shift(bits)]
    if codes.device.type == "cuda":
        tiles = next(t for t in (8, 4, 2) if codes.shape[1] % (16 * t) == 0)
        pairs = [plane[:, ::2] << 4 | plane[:, 1::2] for plane in planes]
        return torch.stack([torch.ops.aten._convert_weight_to_int4pack(p.contiguous(), tiles) for p in pairs])
    return torch.stack([torch.ops.aten._convert_weight_to_int4pack_for_cpu(p.int(), 1) for p in planes])


def arrange_scales(scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Tensor:
    """Scale and offset for the kernel: bfloat16 [planes, in/kernel group, out, 2]."""
    step, zero = scales.float(), zeros.float()
    if bits == 8:  # (16·high + low − zero)·s = (high − 8)·16s + (136 − zero)·s + (low − 8)·s
        pairs = [(16 * step, (136 - zero) * step), (step, torch.zeros_like(step))]
    else:
        pairs = [(step, (8 - shift(bits) - zero) * step)]
    stacked = torch.stack([torch.stack(pair, -1).transpose(0, 1) for pair in pairs])
    return stacked.repeat_interleave(group_size // kernel_group(group_size), dim=1).bfloat16().contiguous()


def small(x: Tensor, planes: Tensor, scales: Tensor, group_size: int) -> Tensor:
    """x [rows, in] times the transposed weight: [rows, out] in x's dtype, through torch's kernel."""
    op = torch.ops.aten._weight_int4pack_mm
    if x.device.type == "cpu":
        op = torch.ops.aten._weight_int4pack_mm_for_cpu
    rows, group = x.bfloat16(), kernel_group(group_size)
    if len(planes) == 1:
        return op(rows, planes[0], group, scales[0]).to(x.dtype)
    high, low = (op(rows, planes[i], group, scales[i]).float() for i in (0, 1))
    return (high + low).to(x.dtype)


def tile(planes: Tensor, bits: int, start: int, stop: int, width: int, dtype: torch.dtype) -> Tensor:
    """Codes of output rows start … stop (whole blocks) from the CPU kernel's order, as `dtype` [in, stop − start]."""
    block = cpu_block()
    codes = torch.empty(width, (stop - start) // block, block, dtype=dtype)
    half = block // 2
    for i in range(len(planes)):
        stored = planes[i].view(-1, width, half)[start // block : stop // block].transpose(0, 1)
        low, high = stored & 15, stored >> 4
        if i == 0:
            codes[..., :half], codes[..., half:] = low - shift(bits), high - shift(bits)
        else:
            codes *= 16
            codes[..., :half] += low
            codes[..., half:] += high
    return codes.view(width, stop - start)


def gather(planes: Tensor, bits: int, out: int, width: int) -> Tensor:
    """Undo `arrange` on the CPU: codes uint8 [out, in]."""
    return tile(planes, bits, 0, out, width, torch.uint8).t().contiguous()


def measure_cutover(
    out: int = 1536, width: int = 576, bits: int = 4, group_size: int = 64, repeats: int = 9
) -> list[dict[str, float]]:
    """Time both roads at growing batch; the cut-over is the last batch where the kernel is faster.

    Args:
        out: output features.
        width: input features.
        bits: bits per weight.
        group_size: weights per scale.
        repeats: timings per point; the roads alternate, medians are reported.

    Returns:
        rows {rows, kernel_ms, gemm_ms}, smallest batch first.
    """
    from workbench.compress.linear import IntLinear
    from workbench.compress.rtn import quantize_rtn

    record = quantize_rtn(torch.randn(out, width), bits=bits, group_size=group_size)
    layer = IntLinear.from_record(record, None)
    layer.prepare()
    rows = []
    for batch in (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256):
        x = torch.randn(batch, width)
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(repeats):
            for fast in (True, False):
                begin = time.perf_counter()
                layer.product(x, fast=fast)
                times[fast].append(1e3 * (time.perf_counter() - begin))
        rows.append(
            {"rows": batch, "kernel_ms": statistics.median(times[True]), "gemm_ms": statistics.median(times[False])}
        )
    return rows
