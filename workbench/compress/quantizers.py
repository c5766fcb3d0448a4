"""Which quantization methods there are, what each needs, and which arguments cannot work for any model."""

from __future__ import annotations

import inspect
from typing import Any

from workbench.compress.awq import quantize_awq
from workbench.compress.efficientqat import quantize_efficientqat
from workbench.compress.gptq import quantize_gptq
from workbench.compress.int8_mixed import quantize_int8_mixed
from workbench.compress.nf4 import TABLES, quantize_float
from workbench.compress.packing import check_bits
from workbench.compress.records import BITS
from workbench.compress.rtn import quantize_rtn, resolve_group
from workbench.compress.walk import Calibration
from workbench.errors import UserError, choose

METHODS = {
    "rtn": (quantize_rtn, "Round to nearest: no data, seconds."),
    "gptq": (quantize_gptq, "Later columns absorb the rounding error of earlier ones; needs calibration text."),
    "awq": (quantize_awq, "Columns that meet large inputs are scaled up before rounding; needs calibration text."),
    "efficientqat": (
        quantize_efficientqat,
        "Trains weights, steps and zero points block by block, then all steps end to end; needs text and minutes.",
    ),
    "nf4": (quantize_float, "4-bit codes into quantiles of the normal distribution, block-wise scales; no data."),
    "fp4": (quantize_float, "4-bit floats (sign, two exponent bits, one mantissa bit), block-wise scales; no data."),
    "int8-mixed": (
        quantize_int8_mixed,
        "8 bits per channel, input columns with huge activations in float; needs a little calibration text.",
    ),
}
NEED_TEXT = ("gptq", "awq", "efficientqat", "int8-mixed")
EQUAL_TOKENS = ("gptq", "awq", "efficientqat")  # methods that weigh calibration tokens
ONE_WIDTH = {"nf4": 4, "fp4": 4, "int8-mixed": 8}


def check_arguments(method: str, bits: int, group_size: int | None) -> None:
    """Refuse what cannot work for any model.

    Raises:
        UserError: unknown method (with the nearest names), bits out of range, a group for float tables that is none.
    """
    choose("quantization method", method, METHODS)
    check_bits(bits)
    only = ONE_WIDTH.get(method, bits)
    if bits != only:
        raise UserError(f"{method} has {only} bits, not {bits}; leave bits at {only}, or use method 'rtn' or 'gptq'.")
    if method in TABLES and (group_size is None or group_size < 2):
        raise UserError(
            f"{method} scales blocks of the flattened weight; give a block size (64 is usual), not a channel."
        )
    if method not in TABLES:
        resolve_group(1 << 20 if group_size is None else abs(group_size) or 1, group_size)


def widths(method: str) -> tuple[int, ...]:
    """Bits per weight that a method offers."""
    return (ONE_WIDTH[method],) if method in ONE_WIDTH else BITS


def usual_bits(method: str) -> int:
    """Bits per weight where none are asked for: 4, or the only width that the method has."""
    return ONE_WIDTH.get(method, 4)


def check_training(method: str, training: dict[str, Any] | None, calibration: Any) -> None:
    """Refuse settings of training that the method does not have.

    Raises:
        UserError: for an unknown setting (with the nearest names), another method, or Hessians where text is needed.
    """
    if training and method != "efficientqat":
        raise UserError(f"{method} trains nothing; leave out training, or use method 'efficientqat'.")
    if method == "efficientqat" and isinstance(calibration, Calibration):
        raise UserError("efficientqat trains on text; pass the windows of token ids, not a Calibration of Hessians.")
    own = {"bits", "group_size", "symmetric", "equal_tokens", "clip", "progress"}
    known = [
        name
        for name, argument in inspect.signature(quantize_efficientqat).parameters.items()
        if argument.default is not inspect.Parameter.empty and name not in own
    ]
    for name in training or {}:
        choose("setting of efficientqat", name, known)
