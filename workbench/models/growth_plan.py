"""Before a model grows: where its layers will come from, and after how many tokens. Needs no torch.

When to grow a model of N parameters that is to get C FLOP (fitted from 410 M to 7 B; far below, sweep instead):

    log10 d = 0.88 log10 N + 163.27 / log10 C − 5.74        d tokens before growth; g = 4

Source: Du et al., NeurIPS 2024, arXiv 2405.15319 (its guideline on growth timing).
"""

from __future__ import annotations

import math

from workbench.errors import UserError

OPERATORS = ("stack", "split", "zero", "width", "mlp")  # explained in `growth`


def origins(operator: str, layers: int, factor: int) -> list[int]:
    """The small layer that each layer of the grown model comes from."""
    if operator == "split":
        return [i // factor for i in range(factor * layers)]
    return list(range(layers)) * (factor if operator in ("stack", "zero") else 1)


def growth_tokens(parameters: float, flop: float) -> float:
    """d, the tokens to train the small model on before it grows by the rule above.

    Args:
        parameters: N of the grown model.
        flop: C of its whole training, 6·N·D for D tokens.

    Raises:
        UserError: numbers that are not above 1.
    """
    if not (parameters > 1 and flop > 10):
        raise UserError(f"N is {parameters:g} and C is {flop:g}; give the parameters of the grown model and its FLOP.")
    return 10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flop) - 5.74)
