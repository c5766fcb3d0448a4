"""Dense packing of 2-, 3-, 4- and 8-bit codes into bytes, exact both ways.

A row of n codes becomes ceil(n · bits / 8) bytes: one little-endian bit stream, code j in bits j·b … j·b + b − 1.
3 bits are dense too: 8 codes fill 3 bytes (24 bits), nothing is wasted between words. Rows start on a byte.

    bits 4: byte i = code[2i] | code[2i+1] << 4           bits 2: four codes a byte
    bits 3: word i = Σ_j code[8i+j] << 3j, its three bytes in order
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.compress.records import BITS
from workbench.errors import UserError


def check_bits(bits: int) -> None:
    """Refuse widths that have no packing here.

    Raises:
        UserError: naming the widths that exist.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise UserError(f"{bits!r} bits are not offered; choose 2, 3, 4 or 8.")


def packed_width(n: int, bits: int) -> int:
    """Bytes that a row of n codes takes."""
    return -(-n * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes along the last axis.

    Args:
        codes: uint8 [..., n] with values below 2^bits.
        bits: 2, 3, 4 or 8.

    Returns:
        uint8 [..., ceil(n·bits/8)].

    Raises:
        UserError: for another width, or a code that does not fit.
    """
    check_bits(bits)
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise UserError(f"code {int(codes.max())} does not fit in {bits} bits; the largest is {(1 << bits) - 1}.")
    if bits == 8:
        return codes.contiguous()
    n = codes.shape[-1]
    per = 8 if bits == 3 else 8 // bits  # codes per word
    codes = torch.nn.functional.pad(codes, (0, -n % per)).unflatten(-1, (-1, per))
    if bits == 3:
        word = codes[..., 0].int()
        for j in range(1, 8):
            word |= codes[..., j].int() << (3 * j)
        packed = torch.stack([(word >> shift & 255).to(torch.uint8) for shift in (0, 8, 16)], dim=-1).flatten(-2)
    else:
        packed = codes[..., 0].clone()
        for j in range(1, per):
            packed |= codes[..., j] << (bits * j)
    return packed[..., : packed_width(n, bits)].contiguous()


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """Undo `pack`.

    Args:
        packed: uint8 [..., ceil(n·bits/8)].
        bits: 2, 3, 4 or 8.
        n: codes per row.

    Returns:
        uint8 [..., n].
    """
    check_bits(bits)
    if bits == 8:
        return packed
    if bits == 3:
        packed = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % 3)).unflatten(-1, (-1, 3))
        word = packed[..., 0].int() | packed[..., 1].int() << 8 | packed[..., 2].int() << 16
        parts = [(word >> (3 * j) & 7).to(torch.uint8) for j in range(8)]
    else:
        mask = (1 << bits) - 1
        parts = [packed >> (bits * j) & mask for j in range(8 // bits)]
    return torch.stack(parts, dim=-1).flatten(-2)[..., :n].contiguous()
