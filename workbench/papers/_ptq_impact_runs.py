"""What the page `ptq-impact` runs: the shipped model in eight formats, on shared contexts and with shared dice.

A format changes the weights of the linear layers only, in blocks of 64; embeddings, head and activations stay as they are.
The rounded weights are put back into a dense copy: the numbers of the packed model, quicker to compute with on a CPU, and
for that reason never timed. bfloat16, the paper's baseline, is the original here: the weights are stored in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workbench import data, models
from workbench.compress.nf4 import quantize_float
from workbench.compress.records import FloatWeight, IntWeight, float_bits_per_weight, integer_bits_per_weight
from workbench.compress.rtn import quantize_rtn
from workbench.compress.targets import find_targets, matrix, set_matrix
from workbench.errors import choose
from workbench.evaluation.decoding_study import context_sensitivity, sample_sensitivity
from workbench.papers.cells import cell
from workbench.progress import Progress, part

BLOCK = 64
ORIGINAL = "full"


def absmax_integers(weight: Tensor, bits: int, block: int = BLOCK) -> IntWeight:
    """Integers −(2^(N−1)−1) … 2^(N−1)−1 of steps max|w| / (2^(N−1)−1), block by block along the input.

    Args:
        weight: float [out, in].
        bits: 2, 3, 4 or 8.
        block: weights per scale; divides in.
    """
    top = (1 << bits - 1) - 1
    groups = weight.float().reshape(len(weight), -1, block)
    scales = (groups.abs().amax(-1) / top).clamp(min=2.0**-24).to(torch.float16)
    codes = torch.round(groups / scales.float().unsqueeze(-1)).clamp(-top, top) + (top + 1)
    zeros = torch.full_like(scales, top + 1, dtype=torch.uint8)
    return IntWeight(codes.to(torch.uint8).view(weight.shape), scales, zeros, bits, block, True)


FORMATS: dict[str, tuple[float, Callable[[Tensor], IntWeight | FloatWeight]]] = {  # (stored bits per weight, rounding)
    "int8": (integer_bits_per_weight(8, BLOCK, True), partial(absmax_integers, bits=8)),
    "nf4": (float_bits_per_weight(BLOCK), partial(quantize_float, kind="nf4")),
    "nf4-dq": (float_bits_per_weight(BLOCK, True), partial(quantize_float, kind="nf4", double_quant=True)),
    "fp4": (float_bits_per_weight(BLOCK), partial(quantize_float, kind="fp4")),
    "fp4-dq": (float_bits_per_weight(BLOCK, True), partial(quantize_float, kind="fp4", double_quant=True)),
    "int4": (integer_bits_per_weight(4, BLOCK, True), partial(absmax_integers, bits=4)),
    "rtn-4": (integer_bits_per_weight(4, BLOCK, False), quantize_rtn),
    "int3": (integer_bits_per_weight(3, BLOCK, True), partial(absmax_integers, bits=3)),
}
SAMPLED = ("int8", "nf4", "fp4", "int4", "int3")


def rounded(model: nn.Module, name: str) -> nn.Module:
    """A dense copy of `model` with the weights of its linear layers rounded to a format.

    Args:
        model: a dense model; not changed.
        name: one of `FORMATS`, or "full" for a copy that is not rounded.
    """
    new = copy.deepcopy(model)
    if choose("format", name, [ORIGINAL, *FORMATS]) != ORIGINAL:
        for layer in find_targets(new).values():
            set_matrix(layer, FORMATS[name][1](matrix(layer)).dequantize())
    return new


def stored_bytes(model: nn.Module, name: str) -> int:
    """Bytes of the whole model in a format; what is not quantized counts two bytes a number, tied weights once."""
    targets = sum(matrix(layer).numel() for layer in find_targets(model).values())
    rest = sum(parameter.numel() for parameter in model.parameters()) - targets
    bits = 16.0 if name == ORIGINAL else FORMATS[name][0]
    return round(2 * rest + targets * bits / 8)


@dataclass(frozen=True)
class Plan:
    """How much a scale runs.

    Args:
        model: name of the model.
        texts: bundled texts; windows are taken in equal number from the test part of each.
        windows: windows of 64 tokens from each text, a context after every `every` tokens.
        every: distance of the contexts.
        temperatures: of the distributions.
        top_ks: of the distributions; None keeps all tokens.
        prompts: prompts of 16 tokens from each text.
        samples: texts written for each prompt.
        new_tokens: tokens of each text.
        warm: temperatures of the texts.
    """

    model: str
    texts: tuple[str, ...]
    windows: int
    every: int
    temperatures: tuple[float, ...]
    top_ks: tuple[int | None, ...]
    prompts: int
    samples: int
    new_tokens: int
    warm: tuple[float, ...]


def plan_for(scale: str) -> Plan:
    """How much a scale runs.

    Args:
        scale: `smoke` (plumbing), `small` (the shipped model, gives the verdict) or `full` (SmolLM2-135M).
    """
    three, grid = ("sotu", "moby-dick", "kjv"), (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
    known = {
        "smoke": Plan("tiny-lm", ("moby-dick",), 3, 32, (0.5, 1.0), (None,), 2, 2, 4, (0.7,)),
        "small": Plan("tiny-lm", three, 64, 16, grid, (None, 40), 16, 4, 24, (0.1, 0.3, 0.5, 0.7, 1.0, 1.5)),
        "full": Plan("smollm2-135m", three, 10, 16, grid, (None, 40), 4, 2, 16, (0.1, 0.7)),
    }
    return known[choose("scale", scale, known)]


def held_out(plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Windows for the contexts [windows, 64] and prompts [prompts, 16] from documents the model has not seen."""
    tokenizer = models.load_tokenizer(plan.model)
    windows: list[Tensor] = []
    prompts: list[Tensor] = []
    for text in plan.texts:
        test = data.split(data.load(text), seed=0)["test"]
        found = data.calibration(test, tokenizer, plan.windows + plan.prompts, 64, seed)
        windows += found[: plan.windows]
        prompts += [window[:, :16] for window in found[plan.windows :]]
    return torch.cat(windows), torch.cat(prompts)


def run(plan: Plan, seed: int, device: str, progress: Progress) -> list[dict[str, Any]]:
    """All rows of one seed: `part` is "contexts" or "texts"."""
    base = models.load_model(plan.model, device=device)
    windows, prompts = held_out(plan, seed)
    made = {name: partial(rounded, base, name) for name in FORMATS}

    def contexts() -> list[dict[str, Any]]:
        found = context_sensitivity(
            {ORIGINAL: base, **made}, windows, temperatures=plan.temperatures, top_ks=plan.top_ks, every=plan.every,
            progress=part(progress, 0.0, 0.4),
        )  # fmt: skip
        found["bits"] = found["model"].map(lambda name: FORMATS[name][0])
        found["bytes"] = found["model"].map(partial(stored_bytes, base))
        return found.to_dict("records")

    def texts() -> list[dict[str, Any]]:
        found = sample_sensitivity(
            {ORIGINAL: base, **{name: made[name] for name in SAMPLED}}, prompts, temperatures=plan.warm,
            new_tokens=plan.new_tokens, samples=plan.samples, seed=seed, progress=part(progress, 0.4, 1.0),
        )  # fmt: skip
        return found.to_dict("records")

    rows = [{"part": "contexts", **row} for row in cell("contexts", contexts)]
    return rows + [{"part": "texts", **row} for row in cell("texts", texts)]
