"""Quantize a model in place: choose the layers, run one method over them, and leave a model that saves and reloads.

    quantize_model(model, method="gptq", bits=3, group_size=64, calibration=windows)
    model.save_pretrained(folder)            # packed; AutoModelForCausalLM.from_pretrained(folder) gives the same bits

Everything that can be wrong is checked before the first layer changes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress._meter import Meter
from workbench.compress.float_linear import FloatLinear
from workbench.compress.gptq import Hessian, quantize_gptq
from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.nf4 import TABLES, quantize_float
from workbench.compress.packing import check_bits
from workbench.compress.records import FloatWeight, IntWeight
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
    "nf4": (quantize_float, "4-bit codes into quantiles of the normal distribution, block-wise scales; no data."),
    "fp4": (quantize_float, "4-bit floats (sign, two exponent bits, one mantissa bit), block-wise scales; no data."),
}


@dataclass
class QuantReport:
    """What was done and what it cost.

    Attributes:
        method: rtn, gptq, nf4 or fp4.
        bits: bits per code.
        bytes: stored bytes of the whole model, embeddings and head included, tied weights once.
        bits_per_weight: stored bits per quantized weight, scales and zero points included.
        layers: one {name, error, of} per layer. `of` says of what the error is a share: "output" is
            ‖XΔᵀ‖ / ‖XWᵀ‖ on the calibration text, "weight" is ‖Δ‖ / ‖W‖.
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
    if method in TABLES and bits != 4:
        raise UserError(f"{method} has 4 bits, not {bits}; leave bits at 4, or use method 'rtn' or 'gptq'.")
    if method in TABLES and (group_size is None or group_size < 2):
        raise UserError(
            f"{method} scales blocks of the flattened weight; give a block size (64 is usual), not a channel."
        )
    if method not in TABLES:
        resolve_group(1 << 20 if group_size is None else abs(group_size) or 1, group_size)


def quantize_model(
    model: nn.Module,
    *,
    method: str = "rtn",
    bits: int = 4,
    group_size: int | None = 64,
    symmetric: bool = False,
    calibration: list[Tensor] | Calibration | None = None,
    skip: tuple[str, ...] | list[str] = ("lm_head",),
    act_order: bool = False,
    damping: float = 0.01,
    equal_tokens: bool = True,
    double_quant: bool = False,
    progress: Progress = silent,
) -> QuantReport:
    """Replace the model's linear layers by packed ones.

    Args:
        model: a dense transformers model, changed in place.
        method: "rtn", "gptq", "nf4" or "fp4".
        bits: bits per weight: 2, 3, 4 or 8 (4 for nf4 and fp4).
        group_size: weights per scale along the input; None or −1 for one scale per output channel. For nf4 and fp4:
            the block of the flattened weight.
        symmetric: integer grids without a zero point.
        calibration: for gptq: windows of token ids, each (1, tokens), walked so that each layer sees already quantized
            inputs; or a `Calibration` collected once and shared by several widths.
        skip: names or patterns that stay dense, besides the head and tied weights.
        act_order: gptq: inputs with the largest activations first.
        damping: gptq: share of the mean diagonal added to the Hessian at first.
        equal_tokens: gptq: every calibration token counts by its relative error. False is the published sum of squares,
            which a few tokens with huge inputs decide: on SmolLM2 it makes 4 bits no better than rounding.
        double_quant: nf4, fp4: scales in 8 bits.
        progress: called as layers finish.

    Returns:
        The report.

    Raises:
        UserError: for anything that does not fit, before the first layer changes.
    """
    check_arguments(method, bits, group_size)
    check_dense(model)
    targets = find_targets(model, skip)
    if method not in TABLES:
        for name, module in targets.items():
            resolve_group(sizes(module)[1], group_size, name)
    check_finite(targets)
    if method == "gptq" and not isinstance(calibration, Calibration):
        check_tokens(targets, calibration or [])
    settings = {"group_size": group_size, "symmetric": symmetric}
    settings |= {"act_order": act_order, "damping": damping, "equal_tokens": equal_tokens} if method == "gptq" else {}
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
        if method == "gptq":
            missed = _gptq(model, targets, calibration, solve, equal_tokens, progress)
            for name in missed:
                report.notes.append(f"{name}: no calibration token reached it; rounded to nearest.")
                round_off(name)
        else:
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


def _gptq(model, targets, calibration, solve, equal_tokens: bool, progress: Progress) -> list[str]:
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


def finish(model, method, bits, group_size, symmetric, double_quant) -> None:
    """Give the model the configuration it saves and reloads by, and put codes in the fast order."""
    dense = dense_names(model)
    if method in TABLES:
        config = WbFloatConfig(
            kind=method, block_size=group_size, double_quant=double_quant, modules_to_not_convert=dense
        )
    else:
        config = WbIntConfig(
            bits=bits, group_size=group_size, symmetric=symmetric, method=method, modules_to_not_convert=dense
        )
    attach_quantizer(model, config)
    for module in model.modules():
        if isinstance(module, IntLinear):
            module.prepare()


__all__ = ["METHODS", "QuantReport", "linear_classes", "quantize_model"]
