"""Checkers of the exercises of lesson 13, schedules. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

PEAK, WARM, LENGTH = 0.01, 100, 2000  # exercise 1
SEQUENCES, WINDOW, TOKENS, A, B = 64, 2048, 2e9, 4.0, -0.51  # exercise 2


def check_wsd_rates(warming: Any, holding: Any, halfway: Any) -> Check:
    """Exercise 1: rates of a WSD run at three steps. Peak 0.01, 100 steps of warm-up, decay of 200 steps from step 1800 on.

    Args:
        warming: the rate at step 25.
        holding: the rate at step 1500.
        halfway: the rate at step 1900 with the 1−√ fall.
    """
    fall = 1 - math.sqrt(0.5)
    answers = {
        "warming": (warming, PEAK * 25 / WARM, {PEAK: "is the peak already; the warm-up is not over at step 25"}),
        "holding": (holding, PEAK, {PEAK * (1 - 1500 / LENGTH): "falls with the steps; what does a plateau do?",
                                    PEAK * (1 + math.cos(math.pi * 1500 / LENGTH)) / 2: "is a cosine's"}),
        "halfway": (halfway, PEAK * fall, {PEAK / 2: "is the straight line's; 1−√ falls faster at first",
                                           PEAK * math.sqrt(0.5): "is the root itself; the factor is one minus it",
                                           PEAK * (1 - math.sqrt(0.95)): "measures the share from the start of training; "
                                           "the decay has its own clock"}),
    }  # fmt: skip
    for name, (value, wanted, hints) in answers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
        if not math.isclose(value, wanted, rel_tol=2e-3):
            text = next((hint for known, hint in hints.items() if math.isclose(value, known, rel_tol=2e-3)), None)
            return Check(
                False, f"`{name}` {text or 'is off; which of the three parts of the schedule is that step in?'}."
            )
    return Check(True, "right: three parts, and only the last one needs to know where training ends.")


def check_power_rate(answer: Callable[..., float]) -> Check:
    """Exercise 2: the power law's rate from a batch in *tokens*, as most tools state it.

    Args:
        answer: function (tokens_seen, batch_tokens, window) → η_p with a = 4, b = −0.51 and a cap of 0.02.
    """
    cases = [
        (TOKENS, SEQUENCES * WINDOW, WINDOW),
        (8 * TOKENS, 2 * SEQUENCES * WINDOW, WINDOW),
        (0.0, 512.0, 64),
        (1e6, 2e6, 4096),
    ]
    for seen, batch, window in cases:
        wanted = 0.02 if seen == 0 else min(0.02, batch / window * A * seen**B)
        try:
            got = answer(seen, batch, window)
        except ZeroDivisionError:
            return Check(
                False,
                "your function divides by zero at the start; after 0 tokens the power is infinite and the cap holds.",
            )
        except Exception as error:  # a participant's function may fail in any way; the hint must still come
            return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
        if not isinstance(got, int | float) or isinstance(got, bool) or not math.isfinite(got):
            return Check(False, f"your function returned {got!r}; return a number.")
        if not math.isclose(got, wanted, rel_tol=1e-6):
            if got > 0.02 * (1 + 1e-9):
                return Check(False, f"{got:.3g} is above the cap; take the smaller of the two.")
            if math.isclose(got, min(0.02, batch * A * seen**B) if seen else 0.02, rel_tol=1e-6):
                return Check(
                    False, "β counts sequences; with tokens the rate is too large by the window and sits at the cap."
                )
            if math.isclose(got, min(0.02, A * seen**B) if seen else 0.02, rel_tol=1e-6):
                return Check(False, "the batch is missing: twice the sequences, twice the rate.")
            return Check(
                False,
                f"after {seen:.3g} tokens with {batch:g} tokens per step it gives {got:.4g}; look at each factor again.",
            )
    return Check(True, "right: sequences for the batch, tokens for the progress, and the cap early on.")


def check_step_counts(cosine: Any, wsd: Any) -> Check:
    """Exercise 3: training steps for final models after 1000, 2000, 4000 and 8000 steps, at one rate, decays of 10 %.

    Args:
        cosine: with one cosine run per length.
        wsd: with one plateau and a branch per length.
    """
    lengths = (1000, 2000, 4000, 8000)
    right, plateau = sum(lengths), 0.9 * lengths[-1]
    shared = plateau + 0.1 * sum(lengths)
    for name, value in (("cosine", cosine), ("wsd", wsd)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    if cosine != right:
        hint = (
            "counts the longest run only; can its middle serve as a finished shorter run?"
            if cosine == lengths[-1]
            else None
        )
        return Check(False, f"`cosine` {hint or 'is off; every length needs a run of its own.'}")
    if wsd != shared:
        hints = {
            plateau: "is the plateau without any decay.", lengths[-1]: "counts one decay only; every length has its own.",
            lengths[-1] + 0.1 * right: "lets the plateau run to the end; the last decay starts before that.",
            right: "is the cosine's; what do the four runs share?",
        }  # fmt: skip
        return Check(False, f"`wsd` {hints.get(wsd, 'is off; add the shared plateau and the four decays.')}")
    return Check(True, f"right: {wsd / cosine:.0%} of the steps, and a fifth length costs its decay only.")
