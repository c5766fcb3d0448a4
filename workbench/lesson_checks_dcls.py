"""Checkers of the exercises of lesson 15, DCLS. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.lessons import Check

if TYPE_CHECKING:
    import torch

D, SIZE, COUNT, BLOCKS = 384, 17, 34, 9  # third stage of ConvNeXt-T


def check_counts(dense: Any, own: Any, shared: Any) -> Check:
    """Exercise 1: numbers trained by the depthwise layers of a stage with 9 blocks of 384 channels, biases left out.

    Args:
        dense: with dense 17 × 17 kernels.
        own: with DCLS, 34 weights per channel, every block with positions of its own.
        shared: with DCLS, all blocks sharing one set of positions.
    """
    for name, value in (("dense", dense), ("own", own), ("shared", shared)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    weights, places = D * COUNT, 2 * D * COUNT
    hints = {
        "dense": (
            BLOCKS * D * SIZE**2,
            {
                D * SIZE**2: "`dense` counts one block; the stage has nine.",
                BLOCKS
                * D
                * D
                * SIZE**2: "`dense` counts every pair of channels; a depthwise layer has one kernel per channel.",
                BLOCKS * D * SIZE: "`dense` counts one side of the kernel only.",
            },
            "`dense` is off; a depthwise layer has one kernel of size × size per channel.",
        ),
        "own": (
            BLOCKS * (weights + places),
            {
                BLOCKS * weights: "`own` counts the weights only; where they stand is learned too.",
                BLOCKS * 2 * weights: "`own` counts one number per position; the kernel has two axes.",
                weights + places: "`own` counts one block; the stage has nine.",
            },
            "`own` is off; each of the m weights of a channel is a weight and a place on a plane.",
        ),
        "shared": (
            BLOCKS * weights + places,
            {
                BLOCKS
                * (
                    weights + places
                ): "`shared` is as large as `own`; which of the two kinds of numbers exists once per stage?",
                weights + places: "`shared` shares the weights too; every block keeps its own weights.",
                BLOCKS * weights: "`shared` has lost the positions; one set of them is left.",
                BLOCKS * weights
                + 2 * COUNT: "`shared` has one set for all channels; blocks share it, channels do not.",
            },
            "`shared` is off; blocks share positions, channels do not, and weights are never shared.",
        ),
    }
    for name, value in (("dense", dense), ("own", own), ("shared", shared)):
        wanted, known, otherwise = hints[name]
        if value != wanted:
            return Check(False, known.get(value, otherwise))
    return Check(
        True,
        f"right: shared positions add {places / (BLOCKS * weights):.0%} to the weights, and the reach is that of 17 × 17.",
    )


def check_spread(answer: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]) -> Check:
    """Exercise 2: the bilinear kernel of one axis, from weights and places, so that gradients flow into both.

    Args:
        answer: function (weights (m,), places (m,) on the grid 0 … s−1, s) → kernel (s,).
    """
    import torch

    from workbench.layers.dcls import construct_kernel

    weights = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
    places = torch.tensor([1.25, 4.0, 5.7], requires_grad=True)
    size = 7
    try:
        got = answer(weights, places, size)
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
    if not isinstance(got, torch.Tensor) or got.shape != (size,):
        found = f"shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else type(got).__name__
        return Check(False, f"your function returned {found}; return a tensor of shape ({size},).")
    wanted = construct_kernel(weights.view(1, 1, -1), (places - size // 2).view(1, 1, 1, -1), None, (size,), "v0")[0, 0]
    if not torch.allclose(got, wanted, atol=1e-5):
        near = torch.zeros(size).index_add(0, places.detach().round().long(), weights.detach())
        if torch.allclose(got.detach(), near, atol=1e-5):
            return Check(
                False, "every weight sits on its nearest pixel; between two pixels it has to be shared by both."
            )
        swapped = construct_kernel(
            weights.view(1, 1, -1), (2 * places.floor() + 1 - places - size // 2).view(1, 1, 1, -1), None, (size,), "v0"
        )[0, 0]
        if torch.allclose(got, swapped, atol=1e-5):
            return Check(False, "the shares are exchanged: the nearer pixel must get more.")
        if not torch.isclose(got.sum(), weights.sum(), atol=1e-5):
            return Check(
                False,
                f"the kernel sums to {got.sum():.3f}, the weights to {weights.sum():.3f}; shares of a weight add up to 1.",
            )
        return Check(False, "the numbers differ; try one weight 1 at place 1.25 on paper: pixels 1 and 2 get ¾ and ¼.")
    if not got.requires_grad:
        return Check(
            False, "the values are right, but no gradient can flow; stay with torch operations on the given tensors."
        )
    pull = torch.arange(1.0, size + 1) ** 2
    slopes = torch.autograd.grad((got * pull).sum(), (weights, places), allow_unused=True)
    if slopes[1] is None or not slopes[1].any():
        return Check(
            False,
            "the values are right, but the places get no gradient; rounding and indexing cut it. Use the distance itself.",
        )
    expected = torch.autograd.grad((wanted * pull).sum(), places)[0]
    inside = torch.tensor([True, False, True])  # at a whole number any slope between the two sides is fair
    if not torch.allclose(slopes[1][inside], expected[inside], atol=1e-4):
        return Check(
            False, "the values are right, but the slope of the places is not; does the distance carry its sign?"
        )
    return Check(
        True, "right: the slope pulls a weight towards the neighbour where it would help more. That is how it moves."
    )


def check_transform(side: Any, larger: Any) -> Check:
    """Exercise 3: sides of the transform for a 28 × 28 picture padded by s//2.

    Args:
        side: smallest side for s = 17.
        larger: smallest side for s = 23.
    """
    for name, value, s in (("side", side, 17), ("larger", larger, 23)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
        wanted = 28 + s // 2
        if value != wanted:
            hints = {
                28
                + s
                - 1: f"`{name}` has room for both borders; going round the edge, one border of zeros serves both sides.",
                28: f"`{name}` has no border at all, so the right edge would see the left one.",
                28
                + s: f"`{name}` has a border as wide as the kernel; how far does the kernel reach beyond a pixel at the edge?",
            }
            return Check(
                False,
                hints.get(value, f"`{name}` is off; it is the picture and one border as wide as the kernel's reach."),
            )
    return Check(
        True, "right, and next the sizes are rounded up to products of 2, 3 and 5, which transform fast: 36 and 40."
    )
