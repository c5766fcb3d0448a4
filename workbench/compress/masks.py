"""Which weights a pruner keeps: exact counts, n:m patterns, and checks of both.

A score says how much a weight matters. The lowest go:

    scope "matrix"   the lowest share s of all out · in scores of a layer
    scope "row"      the lowest share s of every output's own in scores
    pattern n:m      the n lowest of every m consecutive inputs of an output (2:4 and 4:8; the scope has no say)

Counts are exact: round(s · count) weights go, equal scores from the left. A mask is kept as booleans, never as W ≠ 0: a
weight that survives may be zero by chance, or become zero later.

    scores, mask [out, in]; True is kept

Source: Zimmer et al. 2023, arXiv 2312.15230, §2 and the code's pruning step; n:m sparsity as in Mishra et al. 2021,
arXiv 2104.08378. Departure: a threshold taken from sorted scores would remove every weight equal to it; here ties are
broken by place, so the count is what was asked for.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from workbench.errors import UserError, choose

UNSTRUCTURED = "unstructured"
PATTERNS = (UNSTRUCTURED, "2:4", "4:8")
SCOPES = ("matrix", "row")


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """(n, m) of a pattern that prunes n of every m inputs, or None for unstructured.

    Raises:
        UserError: for a pattern that is not offered.
    """
    if re.fullmatch(r"\d+:\d+", str(pattern)) and pattern not in PATTERNS:
        raise UserError(f"The pattern {pattern} is not offered; choose one of: {', '.join(PATTERNS)}.")
    if choose("pattern", str(pattern), PATTERNS) == UNSTRUCTURED:
        return None
    n, m = pattern.split(":")
    return int(n), int(m)


def check_sparsity(sparsity: float) -> None:
    """Refuse a share that is not in [0, 1).

    Raises:
        UserError: with the range.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise UserError(f"sparsity is {sparsity!r}; give the share of weights to remove, from 0 to below 1.")


def check_fits(width: int, pattern: str, name: str = "this layer") -> None:
    """Refuse a pattern whose groups do not fill a layer's inputs.

    Args:
        width: inputs of the layer.
        pattern: "unstructured", "2:4" or "4:8".
        name: the layer, for messages.

    Raises:
        UserError: naming the layer.
    """
    found = parse_pattern(pattern)
    if found and width % found[1]:
        raise UserError(
            f"The pattern {pattern} does not fit {name}: its {width} inputs are no multiple of {found[1]}; "
            "skip that layer, or use pattern 'unstructured'."
        )


def without_lowest(scores: Tensor, count: int, scope: str = "matrix") -> Tensor:
    """True but for the `count` lowest scores of each row, or of all; equal ones go from the left; bool [out, in]."""
    rows = scores if scope == "row" else scores.reshape(1, -1)
    kept = torch.ones_like(rows, dtype=torch.bool)
    lowest = torch.sort(rows, dim=1, stable=True).indices[:, :count]
    return kept.scatter_(1, lowest, False).reshape(scores.shape)


def keep_highest(scores: Tensor, sparsity: float, scope: str = "matrix") -> Tensor:
    """Keep all but the lowest share of the scores.

    Args:
        scores: [out, in].
        sparsity: share to remove, 0 … 1.
        scope: "matrix" compares all of them, "row" those of one output.

    Returns:
        bool [out, in].
    """
    compared = scores.shape[1] if choose("scope", scope, SCOPES) == "row" else scores.numel()
    return without_lowest(scores, round(sparsity * compared), scope)


def keep_pattern(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep all but the n lowest of every m consecutive scores of a row; bool [out, in]."""
    return without_lowest(scores.reshape(-1, m), n, "row").reshape(scores.shape)


def keep(scores: Tensor, sparsity: float, pattern: str = UNSTRUCTURED, scope: str = "matrix") -> Tensor:
    """The mask of either kind; for n:m patterns `sparsity` and `scope` have no say."""
    found = parse_pattern(pattern)
    return keep_pattern(scores, *found) if found else keep_highest(scores, sparsity, scope)


def check_nm(weight: Tensor, n: int, m: int) -> bool:
    """Whether every m consecutive weights of every row hold at least n zeros."""
    return weight.shape[1] % m == 0 and bool(((weight.reshape(-1, m) == 0).sum(1) >= n).all())


def sparsity_of(model: nn.Module, skip: tuple[str, ...] | list[str] = ("lm_head",)) -> float:
    """Share of zeros among the weights a pruner would touch (see `find_targets`), 0 … 1."""
    from workbench.compress.targets import find_targets

    weights = [module.weight.detach() for module in find_targets(model, skip).values()]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def masks_of(model: nn.Module, skip: tuple[str, ...] | list[str] = ("lm_head",)) -> dict[str, Tensor]:
    """Masks read back from a pruned model that was loaded from a file: name → bool [out, in], True where W ≠ 0.

    A weight that survived with the value 0 counts as pruned, which changes nothing in the model's answers.

    Raises:
        UserError: when nothing in the model is pruned.
    """
    from workbench.compress.targets import find_targets, matrix

    found = {name: matrix(module) != 0 for name, module in find_targets(model, skip).items()}
    if all(bool(mask.all()) for mask in found.values()):
        raise UserError(f"{type(model).__name__} holds no zeros to keep; prune it first (prune_model).")
    return found
