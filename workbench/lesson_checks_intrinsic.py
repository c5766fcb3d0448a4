"""Checkers of the exercises of lesson 02, intrinsic dimension. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check


def check_toy(d: Any) -> Check:
    """Exercise 1: how many numbers solve ten conditions on 1000 parameters.

    Args:
        d: the answer.
    """
    if isinstance(d, bool) or not isinstance(d, int):
        return Check(False, f"`d` is {d!r}; put a whole number there.")
    hints = {
        1000: "that is the number of parameters; most of them are free once the loss is zero.",
        990: "that is the dimension of the set of solutions; how many directions does it take to reach that set from anywhere?",
        100: "that is the size of a group; inside a group only the sum matters.",
        9: "one condition is left over: a flat of 9 dimensions misses the solutions, almost surely.",
        11: "that works, but one fewer works too.",
    }
    if d == 10:
        return Check(True, "right: as many as there are independent conditions, however many parameters there are.")
    return Check(False, hints.get(d, "off; how many independent conditions must hold for the loss to be zero?"))


def check_description(times: Any, size: Any) -> Check:
    """Exercise 2: how much shorter a solution gets, and how many bytes it takes.

    Args:
        times: weights over trained numbers, for 199 210 weights and d = 750.
        size: bytes of the solution as 32-bit numbers, with an 8-byte seed.
    """
    for name, value in (("times", times), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    if abs(times - 199_210 / 750) > 0.5:
        upside = abs(times * 199_210 / 750 - 1) < 0.01
        return Check(
            False,
            "`times` is upside down: how many weights stand behind one trained number?"
            if upside
            else "`times` is off; divide all weights by the trained numbers.",
        )
    if size == 4 * 750 + 8:
        return Check(True, f"right: {size} bytes instead of {4 * 199_210:,}.".replace(",", "\u2009"))
    hints = {
        750: "`size` counts numbers, not bytes; one takes 32 bits.",
        3000: "`size` leaves out the seed; without it the directions are lost.",
        758: "`size` counts a number as one byte; it takes 32 bits.",
        24_008: "`size` counts bits for the numbers and bytes for the seed.",
        4
        * 199_210: "`size` is that of the whole network; its start can be made again from a seed, like the directions.",
    }
    return Check(
        False, hints.get(size, "`size` is off; d numbers of 4 bytes, and what it takes to make the directions again.")
    )


def check_said(answer: Callable[..., Any]) -> Check:
    """Exercise 3: the moves of SAID.

    Args:
        answer: takes z (d − m,), scales (m,) and a list of m matrices (size_i, d − m); returns a list of m moves (size_i,).
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, 5, generator=generator) for size in (4, 7, 3)]
    z, scales = torch.randn(5, generator=generator), torch.tensor([1.25, 0.5, -2.0])
    try:
        got = answer(z.clone(), scales.clone(), [part.clone() for part in parts])
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, (list, tuple)) or not all(isinstance(move, torch.Tensor) for move in got):
        return Check(False, f"it returned {type(got).__name__}; return a list of tensors, one per matrix.")
    if [tuple(move.shape) for move in got] != [(4,), (7,), (3,)]:
        return Check(False, f"the moves have shapes {[tuple(m.shape) for m in got]}, wanted (4,), (7,) and (3,).")

    def same(wanted: list[torch.Tensor]) -> bool:
        return all(torch.allclose(move, right, rtol=1e-4, atol=1e-5) for move, right in zip(got, wanted, strict=True))

    plain = [part @ z for part in parts]
    if same([scale * move for scale, move in zip(scales, plain, strict=True)]):
        return Check(True, "right: every tensor reads the same z, along its own directions, at its own scale.")
    if same(plain):
        return Check(False, "that is DID; each tensor has a scale of its own.")
    if same([scales[0] * move for move in plain]) or same([scales.sum() * move for move in plain]):
        return Check(False, "all tensors get the same scale; tensor i has scale i.")
    if same([move + scale for scale, move in zip(scales, plain, strict=True)]):
        return Check(False, "the scale is added; it multiplies.")
    return Check(False, "the numbers are off; tensor i moves by scale i times (matrix i applied to z).")
