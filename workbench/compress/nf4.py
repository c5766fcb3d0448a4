"""NF4 and FP4: block-wise 4-bit codes into a fixed table of sixteen floats, with optional double quantization.

Idea: trained weights are close to normal, so a table of normal quantiles (NF4) wastes fewer codes than a uniform
grid. The flattened weight is cut into blocks of 64; each block stores a = max|w| and the nearest table entry of w/a.

    NF4: −1 … 1, eight negative and eight non-negative entries, 0 and ±1 exact (Dettmers et al. 2023, arXiv 2305.14314,
         appendix E). FP4: sign, two exponent bits, one mantissa bit as bitsandbytes spreads them; code order is not
         value order. Both tables agree with bitsandbytes 0.50.2 entry by entry.

Double quantization: the vector of a, minus its mean, is itself stored in 8 bits (a table that is fine near 0 and
coarse near ±1), one float32 scale per 256 blocks: 4 + 8/64 + 32/(64·256) = 4.127 bits instead of 4.5.

Departure from the paper: none in the format. Ties between two entries go to the lower one.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from workbench.compress.records import FloatWeight
from workbench.errors import UserError, choose

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)
FP4 = (*_FP4, *(-value for value in _FP4))
TABLES = {"nf4": NF4, "fp4": FP4}
NEST = 256  # absmax values per second-level block


def nearest(values: Tensor, table: Tensor) -> Tensor:
    """Index into `table` (any order) of the entry nearest to each value, uint8."""
    ordered, index = torch.sort(table, stable=True)
    middle = (ordered[1:] + ordered[:-1]) / 2
    return index.to(torch.uint8)[torch.bucketize(values, middle)]


@functools.cache
def dynamic_map() -> tuple[float, ...]:
    """The 256-entry signed 8-bit table for absmax values: seven decades, each with twice the entries of the one below.

    Source: bitsandbytes `functional.create_dynamic_map` (Dettmers 2021, arXiv 2110.02861, §2.2).
    """
    entries = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middle = (10.0 ** (decade - 6)) * (edges[:-1] + edges[1:]) / 2
        entries += middle.tolist() + (-middle).tolist()
    return tuple(sorted(entries))


def encode_absmax(absmax: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Store absmax values in 8 bits: codes uint8 [blocks] and (scales float32 [ceil(blocks/256)], offset scalar)."""
    offset = absmax.mean()
    rows = torch.nn.functional.pad(absmax - offset, (0, -absmax.numel() % NEST)).view(-1, NEST)
    scales = rows.abs().amax(1)
    table = torch.tensor(dynamic_map(), device=absmax.device)
    codes = nearest(rows / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1), table)
    return codes.flatten()[: absmax.numel()], (scales, offset)


def decode_absmax(codes: Tensor, scales: Tensor, offset: Tensor) -> Tensor:
    """Undo `encode_absmax`: float32 [blocks]."""
    table = torch.tensor(dynamic_map(), device=codes.device)
    return table[codes.int()] * scales.repeat_interleave(NEST)[: codes.numel()] + offset


def quantize_float(
    weight: Tensor, *, kind: str = "nf4", block_size: int = 64, double_quant: bool = False
) -> FloatWeight:
    """Quantize a weight matrix block by block to a float table.

    Args:
        weight: float [out, in].
        kind: "nf4" or "fp4".
        block_size: weights of the flattened matrix that share a scale.
        double_quant: store the scales in 8 bits.

    Raises:
        UserError: for an unknown table or a block size below 2.
    """
    table = torch.tensor(TABLES[choose("float table", kind, TABLES)], device=weight.device)
    if isinstance(block_size, bool) or block_size < 2:
        raise UserError(f"block_size is {block_size!r}; give at least 2 (64 is usual).")
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % block_size)).view(-1, block_size)
    absmax = blocks.abs().amax(1)
    unit = blocks / torch.where(absmax > 0, absmax, torch.ones_like(absmax)).unsqueeze(1)
    codes = nearest(unit, table).flatten()[: flat.numel()].view(weight.shape)
    if not double_quant:
        return FloatWeight(codes, absmax, None, kind, block_size)
    stored, nested = encode_absmax(absmax)
    return FloatWeight(codes, stored, nested, kind, block_size)


def blocks_of(numel: int, block_size: int) -> int:
    """Number of blocks of a flattened weight."""
    return math.ceil(numel / block_size)
