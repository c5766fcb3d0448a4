"""Checkers of the exercises of lesson 12, planning a training run. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

LARGE, LARGE_TOKENS, SMALL, SMALL_TOKENS = (
    9e9,
    1.8e11,
    6e9,
    2.9e11,
)  # two models of one loss under the law of the lesson
GROWTH = 8.0
LR_N, LR_D, B_D = -0.713, 0.307, 0.571


def check_break_even(served: Any) -> Check:
    """Exercise 1: tokens served at which the smaller, longer trained model has paid for its training.

    Args:
        served: the answer for T.
    """
    if problem := _not_a_number("served", served):
        return problem
    gap = SMALL * SMALL_TOKENS - LARGE * LARGE_TOKENS
    right = 3 * gap / (LARGE - SMALL)
    if math.isclose(served, right, rel_tol=0.01):
        return Check(
            True, f"right: {right:.2g} tokens, {right / LARGE_TOKENS:.1f} times what the larger model was trained on."
        )
    hints = [
        (
            right / 3,
            "training costs 6 FLOP per parameter and token, serving 2: forward only. Where did that factor go?",
        ),
        (3 * right, "training and serving cost differently per token; the ratio of the two is 3, not 9."),
        (
            right * (LARGE - SMALL),
            "that is the extra training in units of serving; each served token saves 2·(N₁ − N₂) FLOP.",
        ),
        (6 * gap, "that is the extra training in FLOP; divide by what one served token saves."),
        (-right, "mind which model costs more to train and which more to serve."),
        (SMALL_TOKENS - LARGE_TOKENS, "that is the difference of the training sets; weigh each by its model's size."),
    ]
    for value, hint in hints:
        if math.isclose(served, value, rel_tol=0.01):
            return Check(False, hint)
    return Check(False, "write both totals, 6·N·D + 2·N·T, set them equal and solve for T.")


def check_growth(rate_factor: Any, batch_factor: Any) -> Check:
    """Exercise 2: what the step law does to rate and batch when N and D both grow eightfold.

    Args:
        rate_factor: new learning rate over old.
        batch_factor: new batch over old.
    """
    for name, value in (("rate_factor", rate_factor), ("batch_factor", batch_factor)):
        if problem := _not_a_number(name, value):
            return problem
    if not math.isclose(rate_factor, GROWTH ** (LR_N + LR_D), rel_tol=0.01):
        hints = {
            GROWTH**LR_N: "`rate_factor` follows the model alone; the data grow too, and they push the other way.",
            GROWTH**LR_D: "`rate_factor` follows the data alone; the model grows too.",
            GROWTH
            ** (LR_N - LR_D): "`rate_factor`: look at the sign of the exponent of D; more data allow a larger rate.",
            GROWTH * (LR_N + LR_D): "`rate_factor`: an exponent is a power, not a factor.",
            GROWTH ** -(LR_N + LR_D): "`rate_factor` is upside down: new over old.",
        }
        for value, hint in hints.items():
            if math.isclose(rate_factor, value, rel_tol=0.01):
                return Check(False, hint)
        return Check(False, "`rate_factor` is off: multiply what N does by what D does; the constant 1.79 cancels.")
    if not math.isclose(batch_factor, GROWTH**B_D, rel_tol=0.01):
        hints = {
            1.0: "`batch_factor`: the batch does not know N, but D grows eightfold.",
            GROWTH: "`batch_factor`: the batch grows slower than the data; the number of steps grows too.",
            (GROWTH**2) ** B_D: "`batch_factor` follows compute; the step law's batch follows D alone.",
            GROWTH**-B_D: "`batch_factor` is upside down: new over old.",
        }
        for value, hint in hints.items():
            if math.isclose(batch_factor, value, rel_tol=0.01):
                return Check(False, hint)
        return Check(False, "`batch_factor` is off: only D counts, and the constant cancels.")
    steps = GROWTH / batch_factor
    return Check(
        True,
        f"right: times {rate_factor:.2f} and times {batch_factor:.1f}, so the run takes {steps:.1f} times the steps.",
    )


# Losses over 4 rates × 3 batches; the third has its best run on the edge.
CELLS = {
    "inside": [[3.2, 3.1, 3.15], [3.0, 2.9, 2.907], [3.05, 2.95, 3.0], [3.4, 3.3, 3.35]],
    "flat": [[2.5, 2.4, 2.45], [2.3, 2.003, 2.1], [2.2, 2.0, 2.004], [2.6, 2.5, 2.55]],
    "edge": [[3.2, 3.1, 3.15], [3.0, 2.9, 2.85], [3.05, 2.95, 3.0], [3.4, 3.3, 3.35]],
}


def check_near_best(answer: Callable[[list[list[float]], float], Any]) -> Check:
    """Exercise 3: which settings of a cell count as best, and when the cell must be left out.

    Args:
        answer: function (losses: rows are rates, columns batches; tolerance) → list of (row, column), or None for an edge.
    """
    wanted = {"inside": {(1, 1), (1, 2)}, "flat": {(1, 1), (2, 1), (2, 2)}, "edge": None}
    for name, losses in CELLS.items():
        try:
            got = answer([list(row) for row in losses], 0.0025)
        except Exception as error:  # a participant's function may fail in any way; the hint must still come
            return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
        if wanted[name] is None:
            if got is not None:
                return Check(
                    False, "one cell has its best run in the last column; its optimum may lie outside. None there."
                )
            continue
        if got is None:
            return Check(
                False, "you gave up a cell whose best run lies inside; runs *near* the best may touch the edge."
            )
        try:
            found = {tuple(int(i) for i in place) for place in got}
        except (TypeError, ValueError):
            return Check(False, f"your function returned {got!r}; return a list of (row, column).")
        if found == wanted[name]:
            continue
        if len(found) == 1 and found < wanted[name]:
            return Check(False, "only the best run itself came back; every run within the tolerance counts.")
        if found > wanted[name]:
            return Check(False, "too many runs came back; the tolerance is a share: 0.0025 is a quarter of a percent.")
        return Check(
            False, f"the wrong runs came back for {losses}; compare each with the lowest times (1 + tolerance)."
        )
    return Check(True, "right: this list, cell by cell, is all that the published fit sees of the runs.")


def _not_a_number(name: str, value: Any) -> Check | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return Check(False, f"`{name}` is {value!r}; put a number there.")
    return None
