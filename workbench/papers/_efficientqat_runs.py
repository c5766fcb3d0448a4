"""What the page `efficientqat` runs: quantize the shipped model several ways, and measure the loss on documents not seen.

An arm is a way to choose integers and steps; all that need text get the same windows in the same order. The model that
Block-AP leaves is the one that E2E-QP goes on with, so one cell gives both.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench import data, models
from workbench.compress.e2e_qp import e2e_qp
from workbench.compress.efficientqat import PARTS, block_ap
from workbench.compress.quantize import quantize_model
from workbench.errors import choose

FLOAT, RTN, GPTQ = "float", "RTN", "GPTQ"
STEPS_ONLY, BLOCK, WHOLE, LATE = "steps and zeros only", "Block-AP", "Block-AP + E2E-QP", "RTN + E2E-QP"
JUDGED = (2, 32)  # bits, group


class Case(NamedTuple):
    """One cell: bits, weights per step, and the arms that it gives, the first being the one that is run first."""

    bits: int
    group: int
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How much a scale runs.

    Args:
        model: name of the model.
        texts: bundled texts; windows are taken in equal number from each.
        window: tokens per window.
        batch: windows per update.
        epochs: passes of Block-AP over the text.
        end_epochs: passes of E2E-QP.
        calibrated, tested: windows from each text.
    """

    model: str
    texts: tuple[str, ...]
    window: int
    batch: int
    epochs: int
    end_epochs: int
    calibrated: int
    tested: int


@dataclass(frozen=True)
class Setup:
    """The float model and its text, made once for a seed; windows are token ids (1, window), test (n, window)."""

    base: nn.Module
    windows: list[Tensor]
    test: Tensor
    plan: Plan


def plan_for(scale: str) -> Plan:
    """How much a scale runs.

    Args:
        scale: `smoke`, `small` or `full`.
    """
    three = ("sotu", "moby-dick", "kjv")
    known = {
        "smoke": Plan("tiny-lm", ("moby-dick",), 64, 4, 1, 1, 8, 4),
        "small": Plan("tiny-lm", three, 128, 2, 2, 1, 32, 32),
        "full": Plan("smollm2-135m", three, 256, 2, 2, 1, 256, 64),
    }
    return known[choose("scale", scale, known)]


def cases(scale: str) -> list[Case]:
    """The cells of a scale; `smoke` runs those that are judged and no other."""
    judged = [Case(*JUDGED, (STEPS_ONLY,)), Case(*JUDGED, (BLOCK, WHOLE))]
    if scale == "smoke":
        return [Case(*JUDGED, (RTN,)), *judged]
    plain = [Case(*JUDGED, (GPTQ,))] + [Case(bits, 64, (arm,)) for bits in (4, 3, 2) for arm in (RTN, GPTQ)]
    return [Case(*JUDGED, (RTN, LATE)), *judged, *plain, Case(2, 64, (BLOCK, WHOLE))]


def prepare(plan: Plan, seed: int, device: str) -> Setup:
    """Load the model and draw the windows of the seed, in random order over the texts.

    The split by document is that of seed 0 in every run: the shipped model was trained on its training part.
    """
    tokenizer = models.load_tokenizer(plan.model)
    base = models.load_model(plan.model, device=device)
    windows: list[Tensor] = []
    test: list[Tensor] = []
    for text in plan.texts:
        split = data.split(data.load(text), seed=0)
        windows += data.calibration(split["train"], tokenizer, plan.calibrated, plan.window, seed)
        test += data.calibration(split["test"], tokenizer, plan.tested, plan.window, seed)
    random.Random(seed).shuffle(windows)
    return Setup(base, [window.to(device) for window in windows], torch.cat(test).to(device), plan)


@torch.no_grad()
def loss_of(model: nn.Module, rows: Tensor, size: int = 16) -> float:
    """Mean nats per predicted token over rows (n, window)."""
    model.eval()
    pieces = [model(input_ids=part, labels=part, use_cache=False).loss * len(part) for part in rows.split(size)]
    return float(torch.stack(pieces).sum() / len(rows))


def float_row(setup: Setup, seed: int) -> dict[str, Any]:
    """The row of the model that was not quantized."""
    return {"seed": seed, "bits": 32, "group": 0, "kind": "model", "arm": FLOAT,
            "loss": loss_of(setup.base, setup.test), "held": True}  # fmt: skip


def run_case(setup: Setup, case: Case, seed: int) -> list[dict[str, Any]]:
    """Quantize and measure: one row per arm of the case (`kind` model), one per trained block (`kind` block).

    Returns:
        Rows with seed, kind, bits, group, arm; loss in nats per token and `held`, whether E2E-QP left every integer as it
        was; for blocks block (from 1), before and after, relative output errors.
    """
    model, blocks = quantized(setup, case.bits, case.group, case.arms[0])
    place = {"seed": seed, "bits": case.bits, "group": case.group}
    rows = block_rows(blocks, {**place, "arm": case.arms[0]})
    rows.append({**place, "kind": "model", "arm": case.arms[0], "loss": loss_of(model, setup.test), "held": True})
    if len(case.arms) > 1:
        rows.append({**place, "kind": "model", "arm": case.arms[1], **end_to_end(setup, model)})
    return rows


def own_rows(
    setup: Setup, bits: int, group: int, train: tuple[str, ...], further: bool, seed: int
) -> list[dict[str, Any]]:
    """Rows of one model trained by choice: which parts train in a block, and whether E2E-QP follows."""
    model, plan, blocks = copy.deepcopy(setup.base), setup.plan, []
    if train:
        blocks = block_ap(model, setup.windows, bits=bits, group_size=group, train=train, epochs=plan.epochs,
                          batch_size=plan.batch, clip=False)  # fmt: skip
    else:
        quantize_model(model, method="rtn", bits=bits, group_size=group)
    arm = (", ".join(train) or RTN) + (" + E2E-QP" if further else "")
    place = {"seed": seed, "bits": bits, "group": group, "arm": arm}
    found = end_to_end(setup, model) if further else {"loss": loss_of(model, setup.test), "held": True}
    return [*block_rows(blocks, place), {**place, "kind": "model", **found}]


def block_rows(blocks: list[dict[str, Any]], place: dict[str, Any]) -> list[dict[str, Any]]:
    """Reports of blocks as rows."""
    return [
        {**place, "kind": "block", "block": number, "before": block["before"], "after": block["after"]}
        for number, block in enumerate(blocks, 1)
    ]


def end_to_end(setup: Setup, model: nn.Module) -> dict[str, Any]:
    """Train all steps of a packed model in place; its loss, and whether its integers are what they were."""
    before = integers(model)
    e2e_qp(model, setup.windows, epochs=setup.plan.end_epochs, batch_size=setup.plan.batch)
    held = all(torch.equal(one, other) for one, other in zip(before, integers(model), strict=True))
    return {"loss": loss_of(model, setup.test), "held": held}


def quantized(setup: Setup, bits: int, group: int, arm: str) -> tuple[nn.Module, list[dict[str, Any]]]:
    """A packed copy of the model, and the report of every trained block (none for RTN and GPTQ).

    Args:
        setup: of `prepare`.
        bits: bits per weight.
        group: weights per step.
        arm: RTN, GPTQ, steps and zeros only, or Block-AP.
    """
    model, plan = copy.deepcopy(setup.base), setup.plan
    if arm in (RTN, GPTQ):
        quantize_model(model, method=arm.lower(), bits=bits, group_size=group, calibration=setup.windows, clip=False)
        return model, []
    parts = {STEPS_ONLY: ("scales", "zeros"), BLOCK: PARTS}[choose("arm", arm, (STEPS_ONLY, BLOCK, RTN, GPTQ))]
    return model, block_ap(
        model,
        setup.windows,
        bits=bits,
        group_size=group,
        train=parts,
        epochs=plan.epochs,
        batch_size=plan.batch,
        clip=False,
    )


def integers(model: nn.Module) -> list[Tensor]:
    """Packed integers and zero points of every layer."""
    return [tensor for name, tensor in model.state_dict().items() if name.endswith((".qweight", ".zeros"))]
