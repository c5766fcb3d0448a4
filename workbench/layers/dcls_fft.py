"""Depthwise convolution with a large kernel by the fast Fourier transform, with a backward pass of the same kind.

A convolution is a product of spectra. For x (N, C, H…) and a kernel K (C, s…), stride 1 and padding p,

    y[i] = Σ_d K[d + p] x[i + d]        ŷ = x̂ · conj K̂          d = −p … s−1−p
    ∂x̂   = ĝ · K̂                       ∂K̂ = Σ_N x̂ · conj ĝ     g = ∂y

Five transforms per picture and step, whatever the size of the kernel: x̂ twice (keeping it would cost more memory than it saves
time), y, ĝ and ∂x. Transforms are circular, so pictures get a border of zeros; the border of the left side and the one of the
right side may be the same one, hence H + p pixels are enough where a full convolution takes H + s − 1 (64 instead of 72
for H = 56, s = 17). K has its own few transforms.

Channels go through in blocks: spectra of a few channels stay in the processor's cache, which makes the transforms two to
three times as fast as all channels at once, and keeps the memory of a step near that of a plain convolution.

Source: the convolution theorem; applying DCLS kernels this way is ours, the paper convolves directly. Departures: none in
values, which agree to rounding (float32: about 1e-6 of the largest output).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 20  # bytes of a block's padded pictures; measured: tests/bench/bench_dcls.py --blocks


def fft_depthwise(x: Tensor, kernel: Tensor, padding: Sequence[int]) -> Tensor:
    """Depthwise convolution with stride 1 and zero padding, as torch's with groups = C.

    Args:
        x: (N, C, H…), float32 or float64; 1 to 3 axes after the channels.
        kernel: (C, s…), same dtype.
        padding: zeros on both sides of each axis, in pixels.

    Returns:
        (N, C, H + 2p − s + 1, …).
    """
    return _FftDepthwise.apply(x, kernel, tuple(padding))


def good_size(n: int) -> int:
    """The smallest product of 2s, 3s and 5s that is at least n: sizes that transform fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def grid(inside: Sequence[int], kernel: Sequence[int], padding: Sequence[int]) -> tuple[int, ...]:
    """Side of the transform along each axis, in pixels.

    Args:
        inside: sides of the picture.
        kernel: sides of the kernel.
        padding: zeros on both sides.
    """
    sides = []
    for h, s, p in zip(inside, kernel, padding, strict=True):
        out = h + 2 * p - s + 1
        sides.append(good_size(max(h + p, out + s - 1 - p, h, out, s)))
    return tuple(sides)


class _FftDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.padding = padding
        inside, sides = x.shape[2:], kernel.shape[1:]
        out = tuple(h + 2 * p - s + 1 for h, s, p in zip(inside, sides, padding, strict=True))
        size = grid(inside, sides, padding)
        taps = _spectrum_of_kernel(kernel, padding, size).conj_physical_()  # (C, F…)
        y = x.new_empty(*x.shape[:2], *out)
        transform = _Blocks(x, size)
        for block in transform:
            y[:, block] = _inverse(transform(x, block).mul_(taps[block]), size)[_box(out)]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        padding, (need_x, need_kernel, _) = ctx.padding, ctx.needs_input_grad
        inside, sides = x.shape[2:], kernel.shape[1:]
        size = grid(inside, sides, padding)
        dx = g.new_empty(x.shape) if need_x else None
        dk = g.new_empty(kernel.shape) if need_kernel else None
        taps = _spectrum_of_kernel(kernel, padding, size) if need_x else None
        pictures, slopes = _Blocks(x, size), _Blocks(g, size)
        for block in slopes:
            spectrum = slopes(g, block)
            if need_kernel:
                products = pictures(x, block).mul_(spectrum.conj()).sum(0)
                lags = _inverse(products, size)  # (c, n…), lag d at index d mod n
                dk[block] = lags.roll(padding, tuple(range(1, lags.ndim)))[_box(sides)]
            if need_x:
                dx[:, block] = _inverse(spectrum.mul_(taps[block]), size)[_box(inside)]
        return dx, dk, None


class _Blocks:
    """Blocks of channels whose padded pictures fill `BLOCK` bytes, and their transform in one buffer that is used again."""

    def __init__(self, pictures: Tensor, size: tuple[int, ...]) -> None:
        n, channels = pictures.shape[:2]
        step = max(1, BLOCK // max(1, n * pictures.element_size() * math.prod(size)))
        self.blocks = [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
        self.buffer = pictures.new_zeros(n, min(step, channels), *size)

    def __iter__(self) -> Iterator[slice]:
        return iter(self.blocks)

    def __call__(self, pictures: Tensor, block: slice) -> Tensor:
        """The spectra (N, c, F…) of one block."""
        part = self.buffer[:, : block.stop - block.start]
        part[_box(pictures.shape[2:])] = pictures[:, block]
        return torch.fft.rfftn(part, dim=tuple(range(2, part.ndim)))


def _inverse(spectrum: Tensor, size: tuple[int, ...]) -> Tensor:
    return torch.fft.irfftn(spectrum, s=size, dim=tuple(range(-len(size), 0)))


def _spectrum_of_kernel(kernel: Tensor, padding: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Spectrum of the kernel with its tap d + p at index d mod n of every axis."""
    axes = tuple(range(1, kernel.ndim))
    padded = kernel.new_zeros(kernel.shape[0], *size)
    padded[_box(kernel.shape[1:])] = kernel
    return torch.fft.rfftn(padded.roll(tuple(-p for p in padding), axes), dim=axes)


def _box(sides: Sequence[int]) -> tuple[slice | EllipsisType, ...]:
    """Index of the corner of these sides."""
    return (..., *(slice(side) for side in sides))
