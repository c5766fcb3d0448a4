"""Checkers of the exercises of lesson 10, pruning. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check


def check_sizes(dense: Any, unstructured: Any, two_of_four: Any) -> Check:
    """Exercise 1: bits for each weight of a half-zero 16-bit layer, as a dense file and in two packed ones.

    Args:
        dense: an ordinary file.
        unstructured: the kept weights, and one bit of place for every weight.
        two_of_four: the kept weights, and for each of them its place among four.
    """
    for name, value in (("dense", dense), ("unstructured", unstructured), ("two_of_four", two_of_four)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    if dense != 16:
        return Check(False, "`dense` is off; how many bits does an ordinary file spend on a zero?")
    if unstructured != 16 / 2 + 1:
        hints = {
            8: "`unstructured` has the kept weights; how does the reader know where they belong?",
            16 / 2 + 0.5: "`unstructured` marks the kept ones only; a bit is spent on every weight.",
            16 + 1: "`unstructured` still stores the zeros themselves.",
        }
        return Check(False, hints.get(unstructured, "`unstructured` is off; half of the weights, and a map of all."))
    if two_of_four != (2 * 16 + 2 * 2) / 4:
        hints = {
            8: "`two_of_four` has the kept weights; their places among the four are missing.",
            8.5: "`two_of_four` spends one bit on a place; a place among four needs more.",
            10: "`two_of_four` spends places on the zeros too.",
            36: "`two_of_four` counts a whole group; divide by its size.",
        }
        return Check(False, hints.get(two_of_four, "`two_of_four` is off; count one group of four, then divide."))
    return Check(
        True,
        "right: not half, because places cost too. Both packed files come out alike; only 2:4 has a kernel that is faster.",
    )


def check_wanda(answer: Callable[..., Any]) -> Check:
    """Exercise 2: Wanda's mask, compared inside each row.

    Args:
        answer: takes weight (out, in), x (tokens, in) and a share; returns a bool mask (out, in), True is kept.
    """
    import torch

    from workbench.compress.masks import keep_highest

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 20, generator=generator)
    x = torch.randn(50, 20, generator=generator) * torch.linspace(0.2, 3, 20)
    try:
        got = answer(weight.clone(), x.clone(), 0.5)
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or got.shape != weight.shape or got.dtype != torch.bool:
        what = f"{tuple(got.shape)} {got.dtype}" if isinstance(got, torch.Tensor) else type(got).__name__
        return Check(False, f"it must return a bool tensor of shape {tuple(weight.shape)}, not {what}.")
    norms = x.norm(dim=0)
    right = keep_highest(weight.abs() * norms, 0.5, "row")
    if torch.equal(got, right):
        return Check(True, "right.")
    known = {
        "it keeps what should go, and the other way round.": ~right,
        "it compares over the whole matrix; every output should lose the same share of its own inputs.": keep_highest(
            weight.abs() * norms, 0.5, "matrix"
        ),
        "the inputs have no say in it: that is plain magnitude.": keep_highest(weight.abs(), 0.5, "row"),
        "the sign of the weights plays a part; use their size.": keep_highest(weight * norms, 0.5, "row"),
        "an input counts by its sum; loud inputs of both signs cancel there, use a norm.": keep_highest(
            weight.abs() * x.sum(0).abs(), 0.5, "row"
        ),
    }
    for hint, mask in known.items():
        if torch.equal(got, mask):
            return Check(False, hint)
    if not bool((got.sum(1) == 10).all()):
        return Check(False, f"the rows keep {got.sum(1).tolist()} of their 20 weights; half of each should stay.")
    return Check(False, "the counts are right, the choice is not; multiply each |w| by the norm of its input's column.")


def check_merge(answer: Callable[..., Any]) -> Check:
    """Exercise 3: merge a LoRA product into a pruned weight with every zero in place.

    Args:
        answer: takes weight (out, in), mask (bool), up (out, r), down (r, in), scale; returns the merged weight.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(5, 8, generator=generator) > 0.5
    weight = torch.randn(5, 8, generator=generator) * mask
    kept = mask.nonzero()[0]
    weight[kept[0], kept[1]] = 0.0  # a survivor that is zero by chance
    up, down = torch.randn(5, 2, generator=generator), torch.randn(2, 8, generator=generator)
    try:
        got = answer(weight.clone(), mask.clone(), up.clone(), down.clone(), 2.0)
    except Exception as error:  # as above
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or got.shape != weight.shape:
        return Check(False, f"it must return a tensor of shape {tuple(weight.shape)}.")
    product = up @ down
    if torch.allclose(got, weight + 2.0 * mask * product, atol=1e-5):
        return Check(True, "right, and the survivor that happened to be zero is alive again.")
    known = {
        "the zeros are gone: the mask has no say in it.": weight + 2.0 * product,
        "a weight that survived with the value 0 stays 0; use the mask that was stored, not `weight != 0`.": weight
        + 2.0 * (weight != 0) * product,
        "the scale s is missing.": weight + mask * product,
        "the scale falls on the weight too.": 2.0 * (weight + mask * product),
        "that is ScaleLoRA's product; here the change is added.": weight * product,
    }
    for hint, wrong in known.items():
        if torch.allclose(got, wrong, atol=1e-5):
            return Check(False, hint)
    return Check(False, "the numbers are off; W + s · (M ⊙ BA) in one line.")
