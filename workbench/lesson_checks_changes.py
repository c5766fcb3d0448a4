"""Checkers of the exercises of lesson 01, what fine-tuning changes. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

SIDE, WIDE, LAYERS, RANK = 192, 512, 4, 8  # of tiny-lm; the rank of the exercise


def check_count(answer: Any) -> Check:
    """Exercise 1: numbers LoRA of rank 8 trains on all seven matrices of the four layers of tiny-lm.

    Args:
        answer: the answer.
    """
    if isinstance(answer, bool) or not isinstance(answer, int):
        return Check(False, f"`numbers` is {answer!r}; put a whole number there.")
    attention, feed = 4 * 2 * SIDE, 3 * (SIDE + WIDE)
    right = LAYERS * RANK * (attention + feed)
    hints = {
        right // LAYERS: "that is one layer; there are four.",
        right // RANK: "that is rank one; every further rank costs the same again.",
        LAYERS * RANK * attention: "the four attention matrices; the three of the feed-forward part are missing.",
        LAYERS * RANK * feed: "the three feed-forward matrices; the four of the attention are missing.",
        LAYERS * RANK * (attention + 2 * (SIDE + WIDE)): "the feed-forward part has three matrices: gate, up and down.",
        LAYERS * RANK * 2 * 2 * SIDE: "that is query and value only; here all seven matrices have an adapter.",
        LAYERS * RANK * (4 * SIDE + 2 * SIDE + WIDE): "that is A alone; B has as many rows as the matrix has outputs.",
        LAYERS
        * (4 * SIDE * SIDE + 3 * SIDE * WIDE): "those are the matrices themselves; LoRA trains two thin ones for each.",
    }
    if answer == right:
        return Check(True, f"right: {answer / (LAYERS * (4 * SIDE * SIDE + 3 * SIDE * WIDE)):.1%} of these matrices.")
    return Check(False, hints.get(answer, "off; for each matrix r · (d_in + d_out), then add up."))


def check_merge(answer: Callable[..., Any]) -> Check:
    """Exercise 2: the one matrix that does what a layer with LoRA does.

    Args:
        answer: takes weight (d_out, d_in), a (r, d_in), b (d_out, r), alpha; returns (d_out, d_in).
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(*shape, generator=generator) for shape in ((6, 5), (2, 5), (6, 2)))
    alpha = 6.0
    try:
        got = answer(weight.clone(), a.clone(), b.clone(), alpha)
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or got.shape != weight.shape:
        return Check(
            False, f"it must return a tensor of shape (6, 5), not {getattr(got, 'shape', type(got).__name__)}."
        )
    known = [
        (weight + alpha / 2 * b @ a, ""),
        (weight, "the product of the two thin matrices is missing."),
        (weight + b @ a, "the scale is missing."),
        (weight + alpha * b @ a, "alpha is divided by the rank, which is the number of rows of a."),
        (alpha / 2 * b @ a, "that is the change alone; the frozen matrix belongs to it."),
        (alpha / 2 * (weight + b @ a), "the scale falls on the frozen matrix too."),
        (weight - alpha / 2 * b @ a, "that takes the change out; it should go in."),
    ]
    for wanted, hint in known:
        if torch.allclose(got, wanted, atol=1e-4):
            return Check(
                not hint, hint or "right: after this the extra modules can go, and inference costs nothing more."
            )
    return Check(False, "the numbers are off; see the formula above, and mind which matrix stands on the left.")


def check_first_step(answer: Any) -> Check:
    """Exercise 3: which of LoRA's two matrices does not move in the very first step.

    Args:
        answer: "a", "b", "both" or "neither".
    """
    if not isinstance(answer, str) or answer.strip().lower() not in ("a", "b", "both", "neither"):
        return Check(False, f'`still` is {answer!r}; write "a", "b", "both" or "neither".')
    hints = {
        "b": "its gradient is the layer's gradient times A x, and A is not zero.",
        "both": "then it would never learn; one of them has a gradient.",
        "neither": "what multiplies A in the product at the start? The gradient passes through it.",
    }
    word = answer.strip().lower()
    return Check(
        word == "a",
        hints.get(word, "right: its gradient passes through the other one, which is zero. After one step it is not."),
    )
