"""Checkers of the exercises of lesson 14, muP. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from workbench.lessons import Check
from workbench.training.mup import abc_regime

M, RATE = 16.0, 2.0**-5  # width 1024 over base width 64; the rate that was best at width 64
MUP_A, MUP_B = (-0.5, 0.0, 0.0, 0.5), (0.5, 0.5, 0.5, 0.5)


def check_rates(input_rate: Any, hidden_rate: Any, bias_rate: Any, readout_rate: Any, logits_factor: Any) -> Check:
    """Exercise 1: Adam's rates and the readout's factor at width 1024, when 2⁻⁵ was best at base width 64.

    Args:
        input_rate: for the first weight matrix, (1024, 64 pixels).
        hidden_rate: for the hidden weight matrix, (1024, 1024).
        bias_rate: for the bias of the hidden layer, (1024,).
        readout_rate: for the readout's weight matrix, (10, 1024).
        logits_factor: what the readout's product is multiplied by in the forward pass.
    """
    answers = {
        "input_rate": input_rate, "hidden_rate": hidden_rate, "bias_rate": bias_rate, "readout_rate": readout_rate,
        "logits_factor": logits_factor,
    }  # fmt: skip
    for name, value in answers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    if not math.isclose(hidden_rate, RATE / M, rel_tol=1e-3):
        hints = {
            RATE: "`hidden_rate` is as at the base; but both axes of this matrix grow.",
            RATE / M**0.5: "`hidden_rate` falls with √m; that is how the initial spread falls. Steps line up with the "
            "features, so their sum grows faster than a sum of random terms.",
            RATE * M: "`hidden_rate` is upside down: a wider sum moves further for the same step.",
        }
        return Check(False, _hint(hidden_rate, hints, "`hidden_rate` is off; find the row with two growing axes."))
    for name, words in (
        ("input_rate", "`input_rate`: how many pixels does the wider network read? Its fan-in does not grow."),
        ("bias_rate", "`bias_rate`: a bias has one growing axis, the output's; nothing is summed over it."),
        (
            "readout_rate",
            "`readout_rate`: the forward pass scales the readout already; scaling its rate too counts twice.",
        ),
    ):
        if not math.isclose(answers[name], RATE, rel_tol=1e-3):
            return Check(False, words)
    if not math.isclose(logits_factor, 1 / M, rel_tol=1e-3):
        hints = {
            M**-0.5: "`logits_factor`: √m keeps a sum of *random* terms in size; after training the terms line up.",
            M: "`logits_factor` is upside down; the wider sum has to be made smaller.",
            1.0: "`logits_factor` is that of the base width; then the wider network's logits move m times as far.",
        }
        return Check(False, _hint(logits_factor, hints, "`logits_factor` is off; it depends on m alone."))
    return Check(True, "right: one number, m = 16, and the class of each parameter decide everything.")


def check_same_training(a: Sequence[Any], b: Sequence[Any], c: Any) -> Check:
    """Exercise 2: the abc-parametrization with weights of unit size (every b = 0) that trains exactly as muP does.

    Args:
        a, b: four exponents each: input, two hidden layers, readout.
        c: exponent of the learning rate.
    """
    for name, values in (("a", a), ("b", b), ("c", [c])):
        wanted = 1 if name == "c" else 4
        try:
            good = len(values) == wanted and all(math.isfinite(value) for value in values)
        except TypeError:
            good = False
        if not good:
            return Check(
                False, f"`{name}` holds {values!r}; put {'one number' if wanted == 1 else 'four numbers'} there."
            )
    if any(b):
        return Check(False, "`b` is not all 0; a weight drawn from N(0, n^(−2b)) has unit size only at b = 0.")
    for layer, (mine, wanted) in enumerate(zip(a, (x + y for x, y in zip(MUP_A, MUP_B, strict=True)), strict=True), 1):
        if not math.isclose(mine, wanted, abs_tol=1e-9):
            return Check(
                False,
                f"layer {layer}: a + b is {abs(mine - wanted):g} too {'large' if mine > wanted else 'small'}; the shift "
                "takes from b what it gives to a, so the layer starts at the same size as muP's.",
            )
    theta = a[0] - MUP_A[0]
    if not math.isclose(c, -2 * theta, abs_tol=1e-9):
        hints = {
            0.0: "`c` is still muP's; with n^(−a) in front of a weight its gradient shrinks, and the rate must make up for it.",
            -theta: "`c` makes up for the smaller gradient only; the smaller effect of a step on W needs the same again.",
            2 * theta: "`c` has the wrong sign: does this rate have to grow or to fall with width?",
        }
        regime = abc_regime(a, b, c)
        state = "stable" if regime["stable"] else "unstable"
        return Check(
            False,
            _hint(c, hints, f"`c` is off: as written this is {state} with r = {regime['r']:g}, and muP has r = 0."),
        )
    return Check(True, "right: same training, other bookkeeping. Only the sums a + b and c + 2a mean anything.")


def _hint(value: float, hints: dict[float, str], otherwise: str) -> str:
    return next(
        (text for known, text in hints.items() if math.isclose(value, known, rel_tol=1e-3, abs_tol=1e-9)), otherwise
    )
