"""Two records hold every quantized weight: integers on a uniform grid, and 4-bit codes into a table of floats.

Integer record, one group of `group_size` neighbours along the input axis sharing a step and a zero point:

    ŵ = scale · (code − zero)          code, zero ∈ [0, 2^bits − 1]

    codes [out, in] · scales [out, in/group] (float16) · zeros [out, in/group]

Two optional parts, each of a few bytes: an input scale s [in] (AWQ where it cannot be folded away; ŵ is then divided by s
column by column), and outlier columns kept in float16 (LLM.int8; their codes mean 0).

Bits per weight: N + (16 + N)/g with zero points, N + 16/g symmetric (the zero point is then 2^(N−1) everywhere and is
not stored). Scales are float16 in the record itself, so that codes are always computed against the scale that is
saved: storing a rounder scale than the one used is a classic silent error.

Float record, blocks of `block_size` neighbours of the *flattened* weight (a block may cross a row):

    ŵ = absmax · table[code]           table: 16 entries, NF4 or FP4

    codes [out, in] · absmax [blocks] (float32), or 8-bit codes of it (double quantization, see `nf4.py`)

Every method of this room returns one of the two; packing, saving, matmul and export only know these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (2, 3, 4, 8)


def integer_bits_per_weight(bits: int, group_size: int, symmetric: bool) -> float:
    """Stored bits per weight of the integer record: codes, float16 scales and packed zero points."""
    return bits + (16 if symmetric else 16 + bits) / group_size


def float_bits_per_weight(block_size: int = 64, double_quant: bool = False) -> float:
    """Stored bits per weight of the float record (4.5 at block 64; 4.127 with double quantization)."""
    return 4 + (8 / block_size + 32 / (block_size * 256) if double_quant else 32 / block_size)


@dataclass(frozen=True)
class IntWeight:
    """A weight matrix as integers on a uniform grid.

    Args:
        codes: uint8 [out, in], values 0 … 2^bits − 1.
        scales: float16 [out, in/group_size], the step.
        zeros: uint8 [out, in/group_size], the code that means 0.
        bits: 2, 3, 4 or 8.
        group_size: weights per scale along the input; the input width itself for one scale per output channel.
        symmetric: zeros are all 2^(bits−1) and need not be stored.
        input_scale: None, or float16 [in]: what the inputs are divided by before the product.
        outliers: None, or (int32 [k] input columns, float16 [out, k] their weights); a layer with outliers rounds its
            other inputs to 8 bits, token by token.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int
    symmetric: bool
    input_scale: Tensor | None = None
    outliers: tuple[Tensor, Tensor] | None = None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in] this record stands for; computed in float32 (float64 when asked for)."""
        work = dtype if dtype == torch.float64 else torch.float32
        out, width = self.codes.shape
        codes = self.codes.view(out, -1, self.group_size).to(work)
        codes -= self.zeros.to(work).unsqueeze(-1)
        codes *= self.scales.to(work).unsqueeze(-1)
        codes = codes.view(out, width)
        if self.outliers is not None:
            columns, values = self.outliers
            codes[:, columns.long()] = values.to(work)
        if self.input_scale is not None:
            codes /= self.input_scale.to(work)
        return codes.to(dtype)

    @property
    def plain(self) -> bool:
        """Codes, scales and zero points say everything: what other programs' formats can hold."""
        return self.input_scale is None and self.outliers is None

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, optional parts included."""
        extra = 0 if self.input_scale is None else 16 * self.input_scale.numel()
        if self.outliers is not None:
            extra += 32 * self.outliers[0].numel() + 16 * self.outliers[1].numel()
        return integer_bits_per_weight(self.bits, self.group_size, self.symmetric) + extra / self.codes.numel()


@dataclass(frozen=True)
class FloatWeight:
    """A weight matrix as 4-bit codes into a float table, scaled block by block.

    Args:
        codes: uint8 [out, in], values 0 … 15.
        absmax: float32 [blocks], or uint8 [blocks] when `nested` is given.
        nested: None, or (float32 [ceil(blocks/256)] absmax of the absmax, float32 scalar offset).
        kind: "nf4" or "fp4".
        block_size: weights per block of the flattened matrix.
    """

    codes: Tensor
    absmax: Tensor
    nested: tuple[Tensor, Tensor] | None
    kind: str
    block_size: int

    def scales(self) -> Tensor:
        """absmax as float32 [blocks], decoded when it is stored in 8 bits."""
        if self.nested is None:
            return self.absmax
        from workbench.compress.nf4 import decode_absmax

        return decode_absmax(self.absmax, *self.nested)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in] this record stands for; computed in float32 (float64 when asked for)."""
        from workbench.compress.nf4 import TABLES

        work = dtype if dtype == torch.float64 else torch.float32
        table = torch.tensor(TABLES[self.kind], device=self.codes.device).to(work)
        values = table[self.codes.flatten().int()]
        blocks = math.ceil(values.numel() / self.block_size)
        short = blocks * self.block_size - values.numel()
        values = torch.nn.functional.pad(values, (0, short)).view(blocks, self.block_size)
        values = values * self.scales().to(work).unsqueeze(1)
        return values.flatten()[: self.codes.numel()].view_as(self.codes).to(dtype)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight."""
        return float_bits_per_weight(self.block_size, self.nested is not None)
