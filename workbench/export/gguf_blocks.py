"""GGUF's blocks of 32 weights: bytes from weights (rounded here) or from integer codes (kept as they are).

    Q8_0  fp16 d · 32 × int8 q                x̂ = d·q          34 bytes   d = max|x|/127
    Q4_0  fp16 d · 16 bytes of two codes       x̂ = d·(q − 8)    18 bytes   d = x_of_largest_magnitude / −8
    Q4_1  fp16 d, fp16 m · 16 bytes            x̂ = d·q + m      20 bytes   d = (max − min)/15, m = min

Byte i of the 16 holds element i in its low half and element i + 16 in its high half. Numbers are little-endian. Blocks run
along a row (the inputs), so a row is a multiple of 32. Rounding is llama.cpp's, bit for bit: with the float32 step before it
becomes float16; half away from zero for Q8_0, truncation after + 8.5 or + 0.5 for the others.

Integer records fit without a second rounding because a block inherits the step of the group it lies in:
    Q8_0  q = code − zero        Q4_0  q = code − zero + 8        Q4_1  q = code, m = −scale·zero (rounded to float16)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workbench.compress.records import IntWeight

BLOCK = 32
BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20}


def encode(weight: Tensor, kind: str) -> np.ndarray:
    """Round a weight to blocks.

    Args:
        weight: float [rows, columns], columns a multiple of 32.
        kind: "q8_0", "q4_0" or "q4_1".

    Returns:
        uint8 [rows, columns/32 · bytes of a block].
    """
    x = weight.detach().float().cpu().numpy().reshape(-1, BLOCK)
    if kind == "q8_0":
        step = np.abs(x).max(1, keepdims=True) / np.float32(127)
        scaled = x * _inverse(step)
        codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8).view(np.uint8)
        blocks = [_half(step), codes]
    elif kind == "q4_0":
        largest = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)
        step = largest / np.float32(-8)
        codes = np.trunc(x * _inverse(step) + np.float32(8.5)).clip(0, 15).astype(np.uint8)
        blocks = [_half(step), nibbles(codes)]
    else:
        low = x.min(1, keepdims=True)
        step = (x.max(1, keepdims=True) - low) / np.float32(15)
        codes = np.trunc((x - low) * _inverse(step) + np.float32(0.5)).clip(0, 15).astype(np.uint8)
        blocks = [_half(step), _half(low), nibbles(codes)]
    return np.concatenate(blocks, 1).reshape(len(weight), -1)


def encode_record(record: IntWeight, kind: str) -> np.ndarray:
    """The blocks that hold integer codes as they are.

    Args:
        record: codes whose groups are multiples of 32 along a row.
        kind: "q8_0", "q4_0" or "q4_1"; `formats.obstacle` says which records fit.

    Returns:
        uint8 [rows, columns/32 · bytes of a block].
    """
    rows, columns = record.codes.shape
    each = record.group_size // BLOCK  # blocks in a group
    scale = record.scales.repeat_interleave(each, 1).reshape(-1, 1).numpy()
    zero = record.zeros.repeat_interleave(each, 1).reshape(-1, 1).to(torch.int16).numpy()
    codes = record.codes.reshape(-1, BLOCK).to(torch.int16).numpy()
    if kind == "q8_0":
        blocks = [_half(scale), (codes - zero).astype(np.int8).view(np.uint8)]
    elif kind == "q4_0":
        blocks = [_half(scale), nibbles((codes - zero + 8).astype(np.uint8))]
    else:
        low = -scale.astype(np.float32) * zero.astype(np.float32)
        blocks = [_half(scale), _half(low), nibbles(codes.astype(np.uint8))]
    return np.concatenate(blocks, 1).reshape(rows, -1)


def decode(data: np.ndarray, kind: str) -> Tensor:
    """The float32 weights that blocks stand for.

    Args:
        data: uint8 [rows, columns/32 · bytes of a block].
        kind: "q8_0", "q4_0" or "q4_1".
    """
    blocks = np.ascontiguousarray(data).reshape(-1, BYTES[kind])
    step = blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind == "q8_0":
        x = step * blocks[:, 2:].view(np.int8)
    else:
        start = 4 if kind == "q4_1" else 2
        codes = np.concatenate([blocks[:, start:] & 15, blocks[:, start:] >> 4], 1).astype(np.float32)
        x = (
            step * codes + blocks[:, 2:4].copy().view("<f2").astype(np.float32)
            if kind == "q4_1"
            else step * (codes - 8)
        )
    return torch.from_numpy(x.astype(np.float32).reshape(len(data), -1))


def nibbles(codes: np.ndarray) -> np.ndarray:
    """uint8 [blocks, 32] below 16 → uint8 [blocks, 16]: element i low, element i + 16 high."""
    return codes[:, :16] | codes[:, 16:] << 4


def _inverse(step: np.ndarray) -> np.ndarray:
    return np.where(step == 0, np.float32(0), np.float32(1) / np.where(step == 0, np.float32(1), step))


def _half(values: np.ndarray) -> np.ndarray:
    """Values [blocks, 1] as the two bytes of little-endian float16 [blocks, 2]."""
    with np.errstate(over="ignore"):  # an infinite step is refused by whoever looks at the decoded weight
        return values.astype("<f2").view(np.uint8)
