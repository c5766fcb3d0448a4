"""Build the dense kernel of DCLS from a few weights and their real-valued positions.

Each of the m weights of a filter stands at a position that need not be a pixel. It is spread over the pixels around it by an
interpolation profile, the same along every axis, so the dense kernel is a sum of m products of profiles:

    K[i, j] = Σ_k w_k / Z_k · φʸ_k[i] · φˣ_k[j]          Z_k = Σ_i φʸ_k[i] · Σ_j φˣ_k[j] + 1e-7   (1 for v0)

    v0, v1   φ[i] = max(0, 1 − |i − p|)                   bilinear
    max      φ[i] = max(0, σ − |i − p|)                   triangle, σ = |SIG| + 1 pixels
    gauss    φ[i] = exp(−(i − p)² / 2σ²)                  σ = |SIG| + 0.27 pixels

Here p = P + s//2 is the position on the grid 0 … s−1, in pixels. v0 and v1 have the same values; where p is a whole
number the slope of v0 is that of the right-hand side, the slope of v1 is 0. Written as a product, K costs s·m numbers
per axis and filter instead of the s²·m (s³·m) numbers per temporary of the released code.

Shapes: weight (O, I, m), P and SIG (n, O, I, m), K (O, I, s…), n = 1, 2, 3 axes. Row 0 of P belongs to the *last* axis of K
(x, then y, then z), as in the released v1, max and gauss.

Source: Khalfaoui-Hassani, Pellegrini, Masquelier, ICLR 2023, arXiv 2112.03740, §2 (v0); Khalfaoui-Hassani, Pellegrini,
Masquelier, arXiv 2306.00817, §2 (triangle and Gaussian); v1 and the constants from the released code, PyPI `DCLS` 0.1.1.

Departures, each taken back by `variant="reference"`:
  - one order of axes for every version (released: v0 reads rows y, x in 2-d and z, x, y in 3-d);
  - each axis has its own centre s//2 (released: v1, max, gauss add the centre of the first axis to x, so that only kernels of
    equal sides are right);
  - a position outside the grid is read at the nearest border pixel, with the slope it has there (released: for v0, v1 and
    max such a weight vanishes and never gets a gradient again; at even s its own clamping puts weights there);
  - values of a Gaussian, and of K, that a float can only hold as subnormal are 0: they are below 1e-38 and slow a CPU down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.errors import UserError, choose

VERSIONS = ("v0", "v1", "max", "gauss")
VARIANTS = ("correct", "reference")
SMALLEST_SIGMA = {"max": 1.0, "gauss": 0.27}  # pixels, added to |SIG|


def construct_kernel(
    weight: Tensor, P: Tensor, SIG: Tensor | None, size: Sequence[int], version: str = "gauss", *,
    variant: str = "correct",
) -> Tensor:  # fmt: skip
    """The dense kernel of m weights at their positions.

    Args:
        weight: (O, I, m).
        P: (n, O, I, m) offsets from the centre pixel s//2, in pixels; row 0 along the last axis of the kernel.
        SIG: (n, O, I, m) widths before |·| + constant, in pixels; None for v0 and v1.
        size: sides s of the kernel, first axis first.
        version: `v0`, `v1`, `max` or `gauss`.
        variant: `correct`, or `reference` for the released behaviour.

    Returns:
        (O, I, s…), of weight's dtype, computed in float32 at least.

    Raises:
        UserError: unknown version or variant, shapes that do not fit together, SIG missing.
    """
    size = _check(weight, P, SIG, size, version, variant)
    exact = torch.promote_types(weight.dtype, torch.float32)  # half precision cannot hold a position
    places, w = grid_positions(P.to(exact), size, version, variant), weight.to(exact)
    sigmas: list[Tensor | None] = [None] * len(size)
    if SIG is not None:
        sigmas = [row.to(exact).abs() + SMALLEST_SIGMA[version] for row in SIG.flip(0)]
    axes = zip(places, size, sigmas, strict=True)
    profiles = [_profile(p, s, sigma, version) for p, s, sigma in axes]  # (O, I, m, s) each
    if version != "v0":
        w = w / (math.prod(profile.sum(-1) for profile in profiles) + 1e-7)
    first, *others = profiles
    left = (first * w.unsqueeze(-1)).transpose(-1, -2)  # (O, I, s₀, m)
    right = torch.ones_like(w).unsqueeze(-1)
    for profile in others:
        right = (right.unsqueeze(-1) * profile.unsqueeze(-2)).flatten(-2)  # (O, I, m, s₁·s₂)
    kernel = (left @ right).unflatten(-1, size[1:]) if others else left.sum(-1)
    if version == "gauss" and variant == "correct":
        kernel = _without_subnormals(kernel)
    return kernel.to(weight.dtype)


def grid_positions(P: Tensor, size: Sequence[int], version: str, variant: str = "correct") -> list[Tensor]:
    """Positions on the grid 0 … s−1, one tensor (O, I, m) per axis of the kernel, first axis first.

    Args:
        P: (n, O, I, m) offsets in pixels.
        size: sides of the kernel, first axis first.
        version: decides the order of axes under `reference`.
        variant: `correct` reads positions outside at the border (value there, slope as if it were there).
    """
    if variant == "correct":
        low, high = limits(size, device=P.device, dtype=P.dtype)
        shift = P.detach().clamp(low, high) - P.detach()  # 0 inside
        return [row + s // 2 for row, s in zip((P + shift).flip(0), size, strict=True)]
    return [P[row] + size[row] // 2 for row in released_order(len(size), version)]


def released_order(n: int, version: str) -> tuple[int, ...]:
    """Which row of the released P stands for axis 0, 1, 2 of a kernel with n axes."""
    return {1: (0,), 2: (0, 1), 3: (0, 2, 1)}[n] if version == "v0" else tuple(reversed(range(n)))


def limits(
    size: Sequence[int], variant: str = "correct", *, device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Smallest and largest offset per row of P, each (n, 1, 1, 1), in pixels.

    Args:
        size: sides of the kernel, first axis first.
        variant: `correct` stays on the grid, −(s//2) … s−1−s//2; `reference` is ±(s//2) of side i for row i.
        device, dtype: of the result.
    """
    sides = list(size) if variant == "reference" else list(size)[::-1]
    low = [-(s // 2) for s in sides]
    high = [s // 2 if variant == "reference" else s - 1 - s // 2 for s in sides]
    return tuple(torch.tensor(v, device=device, dtype=dtype).view(-1, 1, 1, 1) for v in (low, high))


def _profile(p: Tensor, s: int, sigma: Tensor | None, version: str) -> Tensor:
    """φ on the s pixels of one axis, (O, I, m, s)."""
    pixels = torch.arange(s, device=p.device, dtype=p.dtype)
    p = p.unsqueeze(-1)
    if version == "v0":
        floor = p.detach().floor()
        part, step = p - floor, pixels - floor  # part carries the slope of the right-hand side
        return torch.where(step == 0, 1 - part, torch.where(step == 1, part, 0.0))
    distance = pixels - p
    if version == "v1":
        return (1 - distance.abs()).relu()
    sigma = sigma.unsqueeze(-1)
    if version == "max":
        return (sigma - distance.abs()).relu()
    square = (distance / sigma) ** 2
    underflow = -2 * math.log(torch.finfo(p.dtype).tiny)  # (13.2 σ)² in float32
    return torch.exp(-0.5 * square).masked_fill(square > underflow, 0.0)


def _without_subnormals(kernel: Tensor) -> Tensor:
    return kernel.masked_fill(kernel.detach().abs() < torch.finfo(kernel.dtype).tiny, 0.0)


def _check(
    weight: Tensor, P: Tensor, SIG: Tensor | None, size: Sequence[int], version: str, variant: str
) -> tuple[int, ...]:
    choose("DCLS version", version, VERSIONS)
    choose("DCLS variant", variant, VARIANTS)
    size = tuple(size)
    if not 1 <= len(size) <= 3 or any(not isinstance(s, int) or s < 1 for s in size):
        raise UserError(f"A DCLS kernel of size {size} cannot be built; give one to three whole numbers from 1 up.")
    wanted = (len(size), *weight.shape)
    if weight.ndim != 3 or P.shape != wanted:
        raise UserError(
            f"Positions of shape {tuple(P.shape)} do not fit weights of shape {tuple(weight.shape)} in {len(size)} "
            f"dimensions; give weight (out, in / groups, count) and P {wanted}."
        )
    if version in SMALLEST_SIGMA and (SIG is None or SIG.shape != wanted):
        found = "no widths were given" if SIG is None else f"widths of shape {tuple(SIG.shape)} were given"
        raise UserError(f"Version {version} needs widths SIG of shape {wanted}, but {found}.")
    if version not in SMALLEST_SIGMA and SIG is not None:
        raise UserError(f"Version {version} has no widths; leave SIG out, or choose max or gauss.")
    return size
