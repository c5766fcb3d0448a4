"""Pruners that look at the weights alone: the smallest magnitudes, and the embarrassing baseline, chance.

    magnitude   score = |W|            random   score = uniform on [0, 1)         [out, in]

Every pruner of the room is called alike and returns a `Pruned`: the new weight, exactly zero where the mask is False,
and the mask. The random state of the caller is not touched.

Source: magnitude pruning as in Han et al. 2015, arXiv 1506.02626, and Zimmer et al. 2023, arXiv 2312.15230, §2 (there
over each matrix, the default here). Departures: none.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.compress.gptq import Hessian
from workbench.compress.masks import UNSTRUCTURED, keep


@dataclass(frozen=True)
class Pruned:
    """One pruned matrix.

    Attributes:
        weight: [out, in], 0.0 (never −0.0) where the mask is False.
        mask: bool [out, in], True where a weight is kept.
        notes: what the report must say.
    """

    weight: Tensor
    mask: Tensor
    notes: list[str] = field(default_factory=list)


def prune_magnitude(
    weight: Tensor,
    hessian: Hessian | None = None,
    *,
    sparsity: float = 0.5,
    pattern: str = UNSTRUCTURED,
    scope: str = "matrix",
    seed: int = 0,
    name: str = "this layer",
) -> Pruned:
    """Remove the smallest weights.

    Args:
        weight: float [out, in].
        hessian: not used.
        sparsity: share of weights to remove, 0 to below 1.
        pattern: unstructured, 2:4 or 4:8.
        scope: matrix or row: what is compared with what.
        seed: not used.
        name: not used.

    Returns:
        Weight and mask.
    """
    mask = keep(weight.abs(), sparsity, pattern, scope)
    return Pruned(weight.masked_fill(~mask, 0), mask)


def prune_random(
    weight: Tensor,
    hessian: Hessian | None = None,
    *,
    sparsity: float = 0.5,
    pattern: str = UNSTRUCTURED,
    scope: str = "matrix",
    seed: int = 0,
    name: str = "this layer",
) -> Pruned:
    """Remove weights by chance.

    Args:
        weight: float [out, in].
        hessian: not used.
        sparsity: share of weights to remove, 0 to below 1.
        pattern: unstructured, 2:4 or 4:8.
        scope: matrix or row: what is compared with what.
        seed: of the choice.
        name: the layer; every layer makes its own choice.

    Returns:
        Weight and mask.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    scores = torch.rand(weight.shape, generator=generator).to(weight.device)
    mask = keep(scores, sparsity, pattern, scope)
    return Pruned(weight.masked_fill(~mask, 0), mask)
