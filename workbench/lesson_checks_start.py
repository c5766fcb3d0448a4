"""Checkers of the exercises of lesson 00, start here. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

GROUP, SCALE_BITS, ZERO_BITS, BITS = 64, 16, 4, 4


def check_adapter_bytes(answer: Any, trained: int) -> Check:
    """Exercise 1: bytes of an adapter's file.

    Args:
        answer: the answer, in bytes.
        trained: numbers trained, each stored in four bytes.
    """
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return Check(False, f"`adapter_bytes` is {answer!r}; put a number of bytes there.")
    right = 4 * trained
    if abs(answer - right) <= 0.05 * right:
        return Check(True, "right, but for a short header with the names and shapes of the tensors.")
    if abs(answer - trained) <= 0.05 * trained:
        return Check(False, "that is the count of the numbers; each takes more than one byte.")
    if abs(answer - 2 * trained) <= 0.1 * trained:
        return Check(False, "two bytes would do for 16-bit numbers; these were trained and stored in 32 bits.")
    if abs(answer - 8 * trained) <= 0.4 * trained:
        return Check(False, "eight bytes are 64 bits; these numbers have 32.")
    if abs(answer - 32 * trained) <= 1.6 * trained:
        return Check(False, "that is in bits; a byte has eight of them.")
    return Check(
        False, f"{answer:,.0f} is {'too many' if answer > right else 'too few'}; only what was trained is stored."
    )


def check_perplexity(answer: Callable[..., Any]) -> Check:
    """Exercise 3: perplexity of a set of documents from the losses of each.

    Args:
        answer: takes nll (nats, summed over the document's tokens) and tokens, lists of the same length; returns a number.
    """
    nll, tokens = [400.0, 30.0, 90.0], [100, 10, 20]
    try:
        given = answer(list(nll), list(tokens))
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if isinstance(given, bool) or not isinstance(given, int | float):
        return Check(False, f"your function returned {given!r}; return a number.")
    got = float(given)
    each = [n / t for n, t in zip(nll, tokens, strict=True)]
    mean = sum(nll) / sum(tokens)
    if math.isclose(got, math.exp(mean), rel_tol=1e-6):
        return Check(True, "right: every token counts the same, whichever document it is from.")
    known = {
        sum(math.exp(e) for e in each)
        / 3: "that is the mean of the documents' perplexities; one short bad document rules it.",
        math.exp(sum(each) / 3): "every document counts the same there; every token should.",
        mean: "that is the loss, in nats per token; perplexity is a power of e.",
        2.0**mean: "the loss is in nats, so the base is e, not 2.",
        mean / math.log(2): "those are bits per token.",
    }
    for value, hint in known.items():
        if math.isclose(got, value, rel_tol=1e-6):
            return Check(False, hint)
    if not math.isfinite(got) or got > 1e6:
        return Check(False, "far too large: the losses of all tokens were summed and not divided.")
    return Check(False, "the number is off; sum the losses, sum the tokens, divide, then exp.")


def check_bits(answer: Any) -> Check:
    """Exercise 2: bits for each weight at 4 bits in groups of 64 with a 16-bit scale and a 4-bit zero point for each group.

    Args:
        answer: the answer.
    """
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return Check(False, f"`bits_per_weight` is {answer!r}; put a number there.")
    right = BITS + (SCALE_BITS + ZERO_BITS) / GROUP
    if math.isclose(answer, right, rel_tol=1e-6):
        return Check(True, "right; smaller groups follow the weights better and cost more.")
    known = {
        float(BITS): "the codes alone; a group also stores where its grid lies.",
        BITS + SCALE_BITS / GROUP: "the scale is in; the zero point of each group is missing.",
        BITS + ZERO_BITS / GROUP: "the zero point is in; the scale of each group is missing.",
        float(BITS + SCALE_BITS + ZERO_BITS): "a scale and a zero point for every weight? They are shared by a group.",
        float(GROUP * BITS + SCALE_BITS + ZERO_BITS): "that is the whole group; divide by its weights.",
    }
    for value, hint in known.items():
        if math.isclose(answer, value, rel_tol=1e-6):
            return Check(False, hint)
    return Check(False, "off; count the bits of one group of 64 weights, then divide by 64.")
