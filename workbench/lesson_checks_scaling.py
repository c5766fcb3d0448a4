"""Checkers of the exercises of lesson 11, fitting a scaling law. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

A, B, ETA = 212.236, 366.687, 0.136425  # RedPajama, C4 loss, the five runs


def check_best_ratio(ratio: Any, tokens: Any) -> Check:
    """Exercise 1: the loss-optimal ratio of the RedPajama law, and the tokens of a 10-billion-parameter model at 100 of it.

    Args:
        ratio: the answer for M*, tokens per parameter.
        tokens: the answer for D at N = 1e10 and M = 100.
    """
    for name, value in (("ratio", ratio), ("tokens", tokens)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    best = (B / A) ** (1 / (2 * ETA))
    if not math.isclose(ratio, best, rel_tol=0.02):
        hints = [
            (1 / best, "`ratio` is upside down: which term gets smaller with more tokens per parameter?"),
            (best**2, "`ratio` takes the root with η alone; the derivative of M^η and of M^(−η) gives another power."),
            (best**0.5, "`ratio` takes the code's exponent h where the paper's η belongs; h is already 2η."),
            (B / A, "`ratio` is b/a without the root."),
            (20, "20 is the folklore number; this law has its own. Set the derivative by M to zero."),
        ]
        for value, hint in hints:
            if math.isclose(ratio, value, rel_tol=0.02):
                return Check(False, hint)
        return Check(False, "`ratio` is off; set the derivative of a·M^η + b·M^(−η) by M to zero and solve for M.")
    if not math.isclose(tokens, 1e12, rel_tol=1e-6):
        return Check(
            False, "`tokens` is off; M is tokens per parameter, so D follows from N and M by one multiplication."
        )
    return Check(True, f"right; M = 100 over-trains {100 / ratio:.0f}-fold, and the line keeps its slope.")


def check_rows_needed(answer: Callable[[float, float, float, float], Any]) -> Check:
    """Exercise 2: rows at which ε = γ + α·m^β reaches a target; infinitely many where no number does.

    Args:
        answer: function (target, alpha, beta, gamma) → rows.
    """
    for target, alpha, beta, gamma in ((0.25, 2.0, -0.4, 0.1), (0.05, 1.5, -0.5, 0.0)):
        try:
            got = answer(target, alpha, beta, gamma)
        except Exception as error:  # a participant's function may fail in any way; the hint must still come
            return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
        if isinstance(got, bool) or not isinstance(got, int | float):
            return Check(False, f"your function returned {got!r}; return a number of rows.")
        if math.isclose(got, ((target - gamma) / alpha) ** (1 / beta), rel_tol=1e-6):
            continue
        if math.isclose(got, (target / alpha) ** (1 / beta), rel_tol=1e-6):
            return Check(False, "the floor is forgotten: the power law only has to make up what lies above γ.")
        if math.isclose(got, ((target - gamma) / alpha) ** (-1 / beta), rel_tol=1e-6):
            return Check(False, "a smaller target asks for fewer rows here; look at the sign of the exponent.")
        if math.isclose(got, ((target - gamma) / alpha) ** beta, rel_tol=1e-6):
            return Check(False, "you raised to β; solving for m undoes that power.")
        return Check(False, f"for target {target:g}, α {alpha:g}, β {beta:g}, γ {gamma:g} the rows are not {got:g}.")
    try:
        got = answer(0.1, 2.0, -0.4, 0.15)
    except Exception as error:
        return Check(
            False,
            f"a target below the floor stops your function with {type(error).__name__}; what is the answer there?",
        )
    if got != math.inf:
        return Check(False, f"a target of 0.1 with a floor of 0.15 got {got!r}; no number of rows reaches it, say so.")
    return Check(True, "right, also where no amount of data is enough.")
