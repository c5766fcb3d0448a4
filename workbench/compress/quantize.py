"""Quantize a model in place: choose the layers, run one method over them, and leave a model that saves and reloads.

    quantize_model(model, method="gptq", bits=3, group_size=64, calibration=windows)
    model.save_pretrained(folder)            # packed; AutoModelForCausalLM.from_pretrained(folder) gives the same bits

Everything that can be wrong is checked before the first layer changes.
"""

from __future__ import annotations

import functools
import inspect
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress._meter import Meter
from workbench.compress.awq import Scaling, quantize_awq
from workbench.compress.efficientqat import quantize_efficientqat
from workbench.compress.float_linear import FloatLinear
from workbench.compress.gptq import Hessian, quantize_gptq
from workbench.compress.int8_mixed import find_outliers, quantize_int8_mixed
from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.nf4 import TABLES, quantize_float
from workbench.compress.packing import check_bits
from workbench.compress.records import BITS, FloatWeight, IntWeight
from workbench.compress.registry import WbFloatConfig, WbIntConfig, attach_quantizer
from workbench.compress.rtn import quantize_rtn, resolve_group
from workbench.compress.targets import (
    check_dense,
    check_finite,
    dense_names,
    find_targets,
    linear_classes,
    matrix,
    set_matrix,
    sizes,
)
from workbench.compress.walk import Calibration, check_tokens, walk
from workbench.errors import UserError, choose
from workbench.progress import Progress, silent

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


@dataclass
class QuantReport:
    """What was done and what it cost.

    Attributes:
        method: rtn, gptq, awq, efficientqat, nf4, fp4 or int8-mixed.
        bits: bits per code.
        bytes: stored bytes of the whole model, embeddings and head included, tied weights once.
        bits_per_weight: stored bits per quantized weight, scales and zero points included.
        layers: one {name, error, of} per layer. `of` says of what the error is a share: "output" is
            ‖XΔᵀ‖ / ‖XWᵀ‖ on the calibration text, "weight" is ‖Δ‖ / ‖W‖.
        blocks: of efficientqat: one {name, before, after} per block: its relative output error on the first windows,
            rounded and trained.
        losses: of efficientqat: next-token loss of every end-to-end update, nats per token.
        seconds: wall time.
        peak_bytes: highest resident memory of the process meanwhile.
        notes: dead inputs, raised damping, layers that fell back to rounding.
        settings: the arguments.
    """

    method: str
    bits: int
    bytes: int = 0
    bits_per_weight: float = 0.0
    layers: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the model's saved tensors, tied weights counted once."""
    seen, total = set(), 0
    for tensor in model.state_dict(keep_vars=True).values():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * tensor.element_size()
    return total


def packed_layer(module: nn.Module, record: IntWeight | FloatWeight) -> PackedLinear:
    """The packed layer that takes the place of `module`, with its bias."""
    kind = IntLinear if isinstance(record, IntWeight) else FloatLinear
    layer = kind.from_record(record, module.bias)
    layer.was_conv1d = not isinstance(module, nn.Linear)
    return layer.train(module.training)


def weight_error(weight: Tensor, record: IntWeight | FloatWeight) -> float:
    """‖W − Ŵ‖ / ‖W‖."""
    weight = weight.float()
    return float((weight - record.dequantize()).norm() / weight.norm().clamp(min=1e-30))


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
    own = {"bits", "group_size", "symmetric", "equal_tokens", "progress"}
    known = [
        name
        for name, argument in inspect.signature(quantize_efficientqat).parameters.items()
        if argument.default is not inspect.Parameter.empty and name not in own
    ]
    for name in training or {}:
        choose("setting of efficientqat", name, known)


def quantize_model(
    model: nn.Module,
    *,
    method: str = "rtn",
    bits: int | None = None,
    group_size: int | None = 64,
    symmetric: bool = False,
    calibration: list[Tensor] | Calibration | None = None,
    skip: tuple[str, ...] | list[str] = ("lm_head",),
    act_order: bool = True,
    damping: float = 0.01,
    equal_tokens: bool = True,
    double_quant: bool = False,
    training: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> QuantReport:
    """Replace the model's linear layers by packed ones.

    Args:
        model: a dense transformers model, changed in place.
        method: "rtn", "gptq", "awq", "efficientqat", "nf4", "fp4" or "int8-mixed".
        bits: bits per weight: 2, 3, 4 or 8 (only 4 for nf4 and fp4, only 8 for int8-mixed); None: 4, or the only one.
        group_size: weights per scale along the input; None or −1 for one scale per output channel. For nf4 and fp4:
            the block of the flattened weight. int8-mixed has one scale per channel whatever is given.
        symmetric: integer grids without a zero point; int8-mixed has none.
        calibration: for gptq and efficientqat: windows of token ids, each (1, tokens), walked so that each layer sees
            already quantized inputs; for gptq and awq also a `Calibration` collected once and shared by several widths.
            For int8-mixed: windows that show which inputs are huge.
        skip: names or patterns that stay dense, besides the head and tied weights.
        act_order: gptq: inputs with the largest activations first. Better, and as fast: scales are fixed beforehand.
        damping: gptq: share of the mean diagonal added to the Hessian at first.
        equal_tokens: gptq, awq, efficientqat: every calibration token counts by its relative error. False is the
            published sum of squares, which a few tokens with huge inputs decide: on SmolLM2 it makes 4 bits no better
            than rounding.
        double_quant: nf4, fp4: scales in 8 bits.
        training: efficientqat: epochs, batch_size, rates … as `quantize_efficientqat` has them.
        progress: called as layers finish.

    Returns:
        The report.

    Raises:
        UserError: for anything that does not fit, before the first layer changes.
    """
    choose("quantization method", method, METHODS)
    bits = usual_bits(method) if bits is None else bits
    if method == "int8-mixed":
        group_size, symmetric = None, True
    check_arguments(method, bits, group_size)
    check_dense(model)
    targets = find_targets(model, skip)
    if method not in TABLES:
        for name, module in targets.items():
            resolve_group(sizes(module)[1], group_size, name)
    check_finite(targets)
    check_training(method, training, calibration)
    if method in EQUAL_TOKENS and not isinstance(calibration, Calibration):
        check_tokens(targets, calibration or [], method)
    settings = {"group_size": group_size, "symmetric": symmetric}
    settings |= {"act_order": act_order, "damping": damping} if method == "gptq" else {}
    settings |= {"equal_tokens": equal_tokens} if method in EQUAL_TOKENS else {}
    settings |= training or {}
    settings |= {"double_quant": double_quant} if method in TABLES else {}
    report = QuantReport(method, bits, settings=settings)
    begin = time.perf_counter()
    was_training = model.training
    model.eval()
    kept_bits = kept_weights = 0.0

    def place(name: str, record: IntWeight | FloatWeight, error: float, of: str) -> None:
        nonlocal kept_bits, kept_weights
        module = targets[name]
        report.layers.append({"name": name, "error": error, "of": of})
        kept_bits += record.bits_per_weight * record.codes.numel()
        kept_weights += record.codes.numel()
        model.set_submodule(name, packed_layer(module, record))

    def round_off(name: str) -> None:
        weight = matrix(targets[name])
        if method in TABLES:
            record = quantize_float(weight, kind=method, block_size=group_size, double_quant=double_quant)
        elif method == "int8-mixed":
            record = quantize_int8_mixed(weight, outliers[name])
        else:
            record = quantize_rtn(weight, bits=bits, group_size=group_size, symmetric=symmetric)
        place(name, record, weight_error(weight, record), "weight")

    def solve(names: list[str], hessian: Hessian) -> None:
        weights = [matrix(targets[name]).float() for name in names]
        record, cost, notes = quantize_gptq(
            torch.cat(weights),
            hessian.factored(damping, act_order, names[0]),
            bits=bits,
            group_size=group_size,
            symmetric=symmetric,
            name=names[0],
        )
        report.notes += notes
        start = 0
        for name, weight in zip(names, weights, strict=True):
            rows = slice(start, start + len(weight))
            start += len(weight)
            part = IntWeight(
                record.codes[rows], record.scales[rows], record.zeros[rows], bits, record.group_size, symmetric
            )
            set_matrix(targets[name], part.dequantize())  # the pass that found this group goes on with the old module
            loss, energy = cost[rows].sum(0).tolist()
            place(name, part, (loss / max(energy, 1e-30)) ** 0.5, "output")

    with Meter() as meter, torch.no_grad():
        if method in ("gptq", "awq"):
            if method == "awq":
                scaling = Scaling(model, targets, bits=bits, group_size=group_size, symmetric=symmetric)
                solve = functools.partial(scaling.solve, place)
            missed = _walk(model, targets, calibration, solve, equal_tokens, progress)
            for name in missed:
                report.notes.append(f"{name}: no calibration token reached it; rounded to nearest.")
                round_off(name)
        elif method == "efficientqat":
            report.blocks, report.losses = quantize_efficientqat(
                model, targets, calibration, place, bits=bits, group_size=group_size, symmetric=symmetric,
                equal_tokens=equal_tokens, progress=progress, **(training or {}),
            )  # fmt: skip
        else:
            if method == "int8-mixed":
                outliers = find_outliers(model, targets, calibration or [])
            for index, name in enumerate(targets):
                round_off(name)
                progress(index + 1, len(targets), name)
        finish(model, method, bits, group_size, symmetric, double_quant)
    model.train(was_training)
    report.bytes = stored_bytes(model)
    report.bits_per_weight = kept_bits / kept_weights
    report.seconds = time.perf_counter() - begin
    report.peak_bytes = meter.peak_bytes
    return report


def _walk(model, targets, calibration, solve, equal_tokens: bool, progress: Progress) -> list[str]:
    """Solve every reachable group; return the names that were not reached."""
    if not isinstance(calibration, Calibration):
        return walk(model, targets, calibration, solve, equal_tokens=equal_tokens, progress=progress)
    wrong = [name for names in calibration.groups for name in names if name not in targets]
    if wrong:
        raise UserError(f"this calibration belongs to another model: it has {wrong[0]}, this model does not.")
    for index, names in enumerate(calibration.groups):
        solve(names, calibration.hessians[names[0]])
        progress(index + 1, len(calibration.groups), names[0])
    return [name for name in targets if name not in calibration.hessians]


def record_parts(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name → the optional parts of a layer's record, for those that have any."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, IntLinear)}
    return {name: parts for name, module in packed.items() if (parts := module.parts(module))}


def finish(model, method, bits, group_size, symmetric, double_quant) -> None:
    """Give the model the configuration it saves and reloads by, and put codes in the fast order."""
    dense = dense_names(model)
    if method in TABLES:
        config = WbFloatConfig(
            kind=method, block_size=group_size, double_quant=double_quant, modules_to_not_convert=dense
        )
    else:
        config = WbIntConfig(
            bits=bits, group_size=group_size, symmetric=symmetric, method=method, modules_to_not_convert=dense,
            parts=record_parts(model),
        )  # fmt: skip
    attach_quantizer(model, config)
    for module in model.modules():
        if isinstance(module, IntLinear):
            module.prepare()


__all__ = ["METHODS", "QuantReport", "linear_classes", "quantize_model"]
