"""Random projections P (D, d) from a few trained numbers to a network's parameters: four kinds, one exact adjoint each.

    dense               Gaussian, each of the d directions divided by its norm over all D entries. Memory and time d·D
    sparse              an entry is not zero with probability 1/√D, then ±1; directions normalised likewise. d·√D
    fastfood            one structured transform for the whole network (`_fastfood`). Memory D, time D log D
    layerwise_fastfood  each parameter tensor has a transform of its own reading the same z; ALL of its directions have norm
                        1 in every tensor, √m over m tensors: small tensors move as far as large ones. A different method

The first three are Li et al.'s, the last is how Aghajanyan et al.'s code works. Numbers are made on the CPU from a
counter-based stream, so a seed brings the same P back on every device and in every version with the same generator.

Source: Li, Farkhoor, Liu, Yosinski, ICLR 2018, arXiv 1804.08838, §2 and S7; uber-research/intrinsic-dimension (sparse:
scikit-learn's form, Li–Hastie–Church 2006). Aghajanyan et al. 2021, arXiv 2012.13255, §3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from workbench.adapters._fastfood import Fastfood, fastfood, make_fastfood
from workbench.adapters._random import derive, random_numbers
from workbench.errors import UserError, choose

KINDS = ("fastfood", "dense", "sparse", "layerwise_fastfood")
DENSE_LIMIT = 1 << 28  # numbers: 1 GiB in float32


class Projection:
    """A frozen linear map z (d,) → offsets of all parameters (D,); call it. Differentiable in z.

    Args:
        kind: a name in KINDS.
        sizes: entries of every parameter tensor, in order; D is their sum.
        d: trained numbers.
        seed: fixes the map.
        reference_grad: fastfood kinds: the released code's gradient instead of the exact one.
    """

    def __init__(self, kind: str, sizes: Sequence[int], d: int, seed: int, reference_grad: bool = False) -> None:
        choose("projection", kind, KINDS)
        self.kind, self.sizes, self.d, self.total = kind, tuple(sizes), d, sum(sizes)
        self.reference_grad = reference_grad
        if d < 1:
            raise UserError(f"d={d} leaves nothing to train; use 1 or more.")
        if kind == "dense" and d * self.total > DENSE_LIMIT:
            raise UserError(
                f"A dense projection of {self.total} parameters on d={d} holds {d * self.total * 4 / 2**30:.1f} GiB; "
                'use projection="fastfood", which needs no matrix.'
            )
        if kind == "dense":
            parts: tuple = (_dense(self.total, d, derive(seed, kind)),)
        elif kind == "sparse":
            parts = _sparse(self.total, d, derive(seed, kind))
        elif kind == "fastfood":
            parts = (make_fastfood(d, self.total, derive(seed, kind)),)
        else:
            parts = tuple(make_fastfood(d, n, derive(seed, kind, i)) for i, n in enumerate(self.sizes))
        self.parts = parts
        self._cache: dict[tuple[torch.device, torch.dtype], tuple] = {}

    def on(self, device: torch.device, dtype: torch.dtype) -> tuple:
        """The frozen parts where z lives; only the latest place is kept besides the first."""
        if (device, dtype) not in self._cache:
            self._cache = {(device, dtype): tuple(_moved(part, device, dtype) for part in self.parts)}
        return self._cache[device, dtype]

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """P z (D,)."""
        parts = self.on(z.device, z.dtype)
        if self.kind == "dense":
            return z @ parts[0]
        if self.kind == "sparse":
            place, direction, value = parts
            return z.new_zeros(self.total).index_add(0, place, z[direction] * value)
        return torch.cat([fastfood(z, part, self.reference_grad) for part in parts])

    def matrix(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """P (D, d) written out, for checks and pictures of small cases."""
        return torch.stack([self(column) for column in torch.eye(self.d, dtype=dtype)], 1)


def _moved(part: torch.Tensor | Fastfood, device: torch.device, dtype: torch.dtype) -> torch.Tensor | Fastfood:
    if isinstance(part, Fastfood) or part.is_floating_point():
        return part.to(device, dtype)
    return part.to(device)


def _dense(total: int, d: int, seed: int) -> torch.Tensor:
    """Unit directions as rows (d, D)."""
    rows = random_numbers(seed, 0, d * total, "normal").view(d, total)
    return rows.div_(rows.double().norm(dim=1, keepdim=True).to(rows.dtype))


def _sparse(total: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place (n,), direction (n,) and value (n,) of the entries that are not zero."""
    density = 1 / math.sqrt(total)
    places, directions, values = [], [], []
    for column in range(d):
        numbers = random_numbers(seed, column * total, total)
        place = (numbers.abs() < density).nonzero()[:, 0]
        if not len(place):  # a direction must lead somewhere
            place = numbers.abs().argmin()[None]
        places.append(place)
        directions.append(torch.full_like(place, column))
        values.append(numbers[place].sign() / math.sqrt(len(place)))
    return torch.cat(places), torch.cat(directions), torch.cat(values)
