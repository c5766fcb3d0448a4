"""Quantize a model in place: choose the layers, run one method over them, and leave a model that saves and reloads.

    quantize_model(model, method="gptq", bits=3, group_size=64, calibration=windows)
    model.save_pretrained(folder)            # packed; AutoModelForCausalLM.from_pretrained(folder) gives the same bits

Everything that can be wrong is checked before the first layer changes.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress._meter import Meter
from workbench.compress.awq import Scaling
from workbench.compress.efficientqat import quantize_efficientqat
from workbench.compress.gptq import Hessian, quantize_gptq
from workbench.compress.int8_mixed import find_outliers, quantize_int8_mixed
from workbench.compress.nf4 import TABLES, quantize_float
from workbench.compress.packed_model import QuantReport, finish, packed_layer, stored_bytes, weight_error
from workbench.compress.quantizers import EQUAL_TOKENS, METHODS, check_arguments, check_training, usual_bits
from workbench.compress.records import FloatWeight, IntWeight
from workbench.compress.rtn import quantize_rtn, resolve_group
from workbench.compress.targets import check_dense, check_finite, find_targets, matrix, set_matrix, sizes
from workbench.compress.walk import Calibration, check_tokens, walk
from workbench.errors import UserError, choose
from workbench.progress import Progress, silent


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
    clip: bool = True,
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
        clip: gptq, efficientqat: the range of each group is fitted to its inputs, which awq always does. False lets it reach
            to the extremes, as published.
        equal_tokens: gptq, awq, efficientqat: every calibration token counts by its relative error. False is the
            published sum of squares, which a few tokens with huge inputs decide: at 4 bits GPTQ then closes less of
            rounding's gap on SmolLM2 (one measurement: `assets/findings/loud-tokens.json`, shown in lesson 08).
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
    settings |= {"clip": clip} if method in ("gptq", "efficientqat") else {}
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
            clip=clip,
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
            if method == "awq":
                scaling.settle()
            for name in missed:
                report.notes.append(f"{name}: no calibration token reached it; rounded to nearest.")
                round_off(name)
        elif method == "efficientqat":
            report.blocks, report.losses = quantize_efficientqat(
                model, targets, calibration, place, bits=bits, group_size=group_size, symmetric=symmetric,
                equal_tokens=equal_tokens, clip=clip, progress=progress, **(training or {}),
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
