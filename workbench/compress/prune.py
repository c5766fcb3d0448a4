"""Prune a model in place: choose the layers, run one pruner over them, and leave a model that saves like any other.

    report = prune_model(model, method="wanda", sparsity=0.5, calibration=windows)
    report.masks["model.layers.0.mlp.up_proj"]      # bool [out, in], True where a weight is kept

Every linear layer inside the blocks loses the same share; embeddings and the output head stay. Methods that need
calibration text walk the model block by block, so that every layer is pruned on inputs that went through the pruned
layers before it. Everything that can be wrong is checked before the first layer changes.

Zeros save nothing by themselves: a dense file of a half-zero model is as large and as slow as before. `bytes` says what
the file takes; `packed_bits_per_weight` what a format that stores only the kept weights and their places would take.

Source: Zimmer et al. 2023, arXiv 2312.15230, §2; uniform sparsity per matrix as in their code.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from math import comb, log2
from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress._meter import Meter
from workbench.compress.gptq import Hessian
from workbench.compress.masks import SCOPES, UNSTRUCTURED, check_fits, check_sparsity, parse_pattern
from workbench.compress.packed_model import stored_bytes
from workbench.compress.pruners import prune_magnitude, prune_random
from workbench.compress.sparsegpt import prune_sparsegpt
from workbench.compress.targets import check_dense, check_finite, find_targets, matrix, set_matrix, sizes
from workbench.compress.walk import find_blocks, walk
from workbench.compress.wanda import prune_wanda
from workbench.errors import UserError, choose
from workbench.progress import Progress, silent

PRUNERS = {
    "magnitude": (prune_magnitude, "The smallest weights go: no data, seconds."),
    "wanda": (prune_wanda, "The smallest products of weight and input norm go; needs a little calibration text."),
    "sparsegpt": (prune_sparsegpt, "Later columns absorb what earlier ones lose; needs calibration text."),
    "random": (prune_random, "Chance decides: the baseline that every other method must beat."),
}
NEED_TEXT = ("wanda", "sparsegpt")
DEFAULT_SCOPE = {"wanda": "row"}  # matrix for every other method, as published


@dataclass
class PruneReport:
    """What was done and what it cost.

    Attributes:
        method: magnitude, wanda, sparsegpt or random.
        bits: bits per kept weight, as stored.
        bytes: stored bytes of the whole model in a dense file, tied weights once.
        bits_per_weight: the same for the pruned layers: zeros take as much room as other weights in a dense file.
        packed_bits_per_weight: kept weights and their places, in the least number of bits.
        sparsity: share of pruned weights that was reached, over all pruned layers.
        layers: one {name, error, of, sparsity} per layer; `of` says of what the error is a share: "output" is
            ‖XΔᵀ‖ / ‖XWᵀ‖ on the calibration text, "weight" is ‖Δ‖ / ‖W‖.
        seconds: wall time.
        peak_bytes: highest resident memory of the process meanwhile.
        notes: dead inputs, raised damping, layers that fell back to magnitude.
        settings: the arguments.
        masks: name → bool [out, in], True where a weight is kept; left out of `to_dict`.
    """

    method: str
    bits: int = 32
    bytes: int = 0
    bits_per_weight: float = 0.0
    packed_bits_per_weight: float = 0.0
    sparsity: float = 0.0
    layers: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the masks."""
        plain = type(self)(**{f.name: getattr(self, f.name) for f in fields(self) if f.name != "masks"})
        return {key: value for key, value in asdict(plain).items() if key != "masks"}


def check_arguments(method: str, sparsity: float, pattern: str, scope: str | None) -> str:
    """Refuse what cannot work for any model, and fill in the method's own scope.

    Returns:
        The scope.

    Raises:
        UserError: for an unknown method, pattern or scope, or a share out of range.
    """
    choose("pruning method", method, PRUNERS)
    check_sparsity(sparsity)
    parse_pattern(pattern)
    return choose("scope", scope or DEFAULT_SCOPE.get(method, "matrix"), SCOPES)


def check_text(method: str, model: nn.Module, targets: dict[str, nn.Module], windows: list[Tensor]) -> None:
    """Refuse calibration text that is missing, malformed, or shorter than SparseGPT's widest layer is wide.

    Raises:
        UserError: with the number of tokens needed.
    """
    if not windows:
        raise UserError(f"method {method!r} needs calibration text; pass windows of token ids, or use 'magnitude'.")
    for window in windows:
        if window.ndim != 2 or window.shape[0] != 1 or window.dtype.is_floating_point:
            raise UserError(f"calibration windows are token ids of shape (1, tokens), not {tuple(window.shape)}.")
    have = sum(window.shape[1] for window in windows)
    name, need = max(((n, sizes(m)[1]) for n, m in targets.items()), key=lambda item: item[1])
    if method == "sparsegpt" and have < need:
        raise UserError(
            f"the calibration text has {have} tokens, but {name} has {need} input features; give at least {need} "
            f"tokens, better {4 * need}."
        )
    try:
        find_blocks(model, targets)
    except UserError as error:
        raise UserError(
            f"method {method!r} walks one stack of equal blocks, which {type(model).__name__} does not have; "
            "use method 'magnitude' without calibration text."
        ) from error


def packed_bits(bits: int, sparsity: float, pattern: str) -> float:
    """Bits per weight when only kept weights are stored, with their places at the entropy of the mask.

    Args:
        bits: per kept weight.
        sparsity: share of zeros (of n:m patterns: n/m).
        pattern: unstructured, 2:4 or 4:8.
    """
    group = parse_pattern(pattern)
    if group:
        return (1 - group[0] / group[1]) * bits + log2(comb(group[1], group[0])) / group[1]
    entropy = -sum(p * log2(p) for p in (sparsity, 1 - sparsity) if p > 0)
    return (1 - sparsity) * bits + entropy


@torch.no_grad()
def prune_model(
    model: nn.Module,
    *,
    method: str = "wanda",
    sparsity: float = 0.5,
    pattern: str = UNSTRUCTURED,
    scope: str | None = None,
    calibration: list[Tensor] | None = None,
    skip: tuple[str, ...] | list[str] = ("lm_head",),
    seed: int = 0,
    progress: Progress = silent,
) -> PruneReport:
    """Set weights of the model's linear layers to zero.

    Args:
        model: a dense transformers model, changed in place.
        method: "magnitude", "wanda", "sparsegpt" or "random".
        sparsity: share of every layer's weights to remove, 0 to below 1; n:m patterns have their own.
        pattern: "unstructured", "2:4" or "4:8" (n zeros in every m consecutive inputs).
        scope: "matrix" or "row": which weights compete. None: row for wanda, matrix for the others, as published.
        calibration: windows of token ids, each (1, tokens); wanda and sparsegpt need them. With them the other methods
            report output errors too.
        skip: names or patterns that stay dense, besides the head and tied weights.
        seed: for random.
        progress: called as layers finish.

    Returns:
        The report, with the masks.

    Raises:
        UserError: for anything that does not fit, before the first layer changes.
    """
    scope = check_arguments(method, sparsity, pattern, scope)
    check_dense(model)
    targets = find_targets(model, skip)
    for name, module in targets.items():
        check_fits(sizes(module)[1], pattern, name)
    check_finite(targets)
    if method in NEED_TEXT or calibration:
        check_text(method, model, targets, calibration or [])
    group = parse_pattern(pattern)
    sparsity = group[0] / group[1] if group else sparsity
    settings = {"sparsity": sparsity, "pattern": pattern, "scope": scope, "seed": seed}
    report = PruneReport(method, settings=settings)
    begin, was_training = time.perf_counter(), model.training
    model.eval()

    def prune(name: str, hessian: Hessian | None, pruner=PRUNERS[method][0]) -> None:
        weight = matrix(targets[name])
        exact = weight if weight.dtype == torch.float64 else weight.float()
        found = pruner(exact, hessian, sparsity=sparsity, pattern=pattern, scope=scope, seed=seed, name=name)
        report.notes += [note for note in found.notes if note not in report.notes]
        report.masks[name] = found.mask
        error, of = _error(exact, found.weight, hessian)
        gone = 1 - float(found.mask.double().mean())
        report.layers.append({"name": name, "error": error, "of": of, "sparsity": gone})
        set_matrix(targets[name], found.weight)

    def solve(names: list[str], hessian: Hessian) -> None:
        for name in names:
            prune(name, hessian)

    with Meter() as meter:
        if calibration:
            for name in walk(model, targets, calibration, solve, progress=progress):
                if method in NEED_TEXT:
                    report.notes.append(f"{name}: no calibration token reached it; pruned by magnitude.")
                prune(name, None, prune_magnitude if method in NEED_TEXT else PRUNERS[method][0])
        else:
            for index, name in enumerate(targets):
                prune(name, None)
                progress(index + 1, len(targets), name)
    model.train(was_training)
    gone = sum(int((~mask).sum()) for mask in report.masks.values())
    report.sparsity = gone / sum(mask.numel() for mask in report.masks.values())
    report.bits = 8 * next(iter(targets.values())).weight.element_size()
    report.bytes, report.bits_per_weight = stored_bytes(model), float(report.bits)
    report.packed_bits_per_weight = packed_bits(report.bits, report.sparsity, pattern)
    report.seconds, report.peak_bytes = time.perf_counter() - begin, meter.peak_bytes
    return report


def _error(weight: Tensor, pruned: Tensor, hessian: Hessian | None) -> tuple[float, str]:
    """Relative change of the layer's output on the calibration text, or of its weight where there is none."""
    change = weight - pruned
    if hessian is None:
        return float(change.norm() / weight.norm().clamp(min=1e-30)), "weight"
    moments = hessian.matrix().to(weight.dtype)
    loss, energy = (float(((part @ moments) * part).sum().clamp(min=0)) for part in (change, weight))
    return (loss / max(energy, 1e-30)) ** 0.5, "output"
