"""Checkers of the exercises of lesson 04, prompts. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check


def check_split(r: Any) -> Check:
    """Exercise 1: the rank that DePT can afford beside 30 tokens on a budget of 60, with d = 192 and s = 64.

    Args:
        r: the answer.
    """
    length, m, d, s = 60, 30, 192, 64
    if isinstance(r, bool) or not isinstance(r, int):
        return Check(False, f"`r` is {r!r}; put a whole number there.")
    right = (length - m) * d // (s + d)
    if r == right:
        return Check(True, f"right: {m * d + r * (s + d)} numbers of {length * d}.")
    hints = {
        length * d // (s + d): "that spends the whole budget on the pair; the 30 tokens have to be paid too.",
        (length - m) * d // d: "that pays for B only; A has a row for every position.",
        (length - m) * d // s: "that pays for A only; B has a row of size d for every rank.",
        right + 1: "one too many: that is above the budget.",
    }
    return Check(False, hints.get(r, "off; what is left after the tokens, and what does one rank cost?"))


def check_positions(answer: Callable[..., Any]) -> Check:
    """Exercise 2: the position of every real token, counted from the first real one.

    Args:
        answer: takes a mask (batch, t) of ones and zeros and returns positions (batch, t); padding may hold anything.
    """
    import torch

    masks = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    try:
        got = answer(masks.clone())
    except Exception as error:
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or got.shape != masks.shape:
        return Check(False, f"it must return a tensor of shape {tuple(masks.shape)}.")
    real, wanted = masks.bool(), masks.cumsum(1) - 1
    if torch.equal(got[real].long(), wanted[real]):
        return Check(True, "right: padding on either side changes nothing.")
    if torch.equal(got[real].long(), (wanted + 1)[real]):
        return Check(False, "one too large: the first real token stands at position 0.")
    if torch.equal(got[real].long(), torch.arange(5).expand(3, 5)[real]):
        return Check(False, "those are columns; in the second row the first real token stands in column 2.")
    return Check(False, "off; a running sum over the mask counts the real tokens so far.")
