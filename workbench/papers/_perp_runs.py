"""What the page `perp` runs: prune the shipped model, retrain a part of it, and measure the loss on documents not seen.

A case is a pruner, a sparsity or pattern, and an arm (what is retrained). Every arm gets the same text in the same order,
the same steps and two learning rates; the one that is better on the eval part is scored on the test part.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench import data, models
from workbench.compress.masks import sparsity_of
from workbench.compress.perp import add_biases
from workbench.compress.perp_train import reconstruct_blocks, retrain
from workbench.compress.prune import NEED_TEXT, prune_model
from workbench.errors import choose

VECTORS, LORA, FULL = (1.6e-2, 3.2e-2), (4e-3, 8e-3), (4e-4, 8e-4)
ARMS = {  # name: (what trains, learning rates)
    "nothing": ((), (0.0,)),
    "biases": (("biases",), VECTORS),
    "norms": (("norms",), VECTORS),
    "biases and norms": (("biases", "norms"), VECTORS),
    "LoRA-prune": (("biases", "norms", "loraprune"), LORA),
    "MaskLoRA": (("biases", "norms", "masklora"), LORA),
    "full": (("full",), FULL),
    "MaskLoRA, block by block": (("masklora",), (2e-3, 8e-3)),
}
RECONSTRUCTION = "MaskLoRA, block by block"


class Case(NamedTuple):
    """One cell: pruner, share of zeros, pattern, arm."""

    pruner: str
    sparsity: float
    pattern: str
    arm: str


@dataclass(frozen=True)
class Plan:
    """How much a scale runs.

    Args:
        model: name of the model.
        texts: bundled texts; windows are taken in equal number from each.
        window: tokens per row.
        batch: rows per step.
        steps: optimizer steps (of every block, a third of it, when reconstructing).
        calibrated, trained, evaluated, tested: rows from each text.
        rates: how many of an arm's learning rates are tried.
    """

    model: str
    texts: tuple[str, ...]
    window: int
    batch: int
    steps: int
    calibrated: int
    trained: int
    evaluated: int
    tested: int
    rates: int = 2


@dataclass(frozen=True)
class Setup:
    """The dense model and its text, made once for a seed; rows are token ids (n, window)."""

    base: nn.Module
    calibration: list[Tensor]
    parts: dict[str, Tensor]
    plan: Plan


def plan_for(scale: str) -> Plan:
    """How much a scale runs.

    Args:
        scale: `smoke`, `small` or `full`.
    """
    three = ("sotu", "moby-dick", "kjv")
    known = {
        "smoke": Plan("tiny-lm", ("moby-dick",), 64, 2, 2, 8, 8, 4, 4, rates=1),
        "small": Plan("tiny-lm", three, 64, 4, 60, 22, 80, 16, 32),
        "full": Plan("smollm2-135m", three, 256, 8, 400, 43, 1100, 32, 64),
    }
    return known[choose("scale", scale, known)]


def cases(scale: str) -> list[Case]:
    """The cells of a scale; `smoke` runs those that are judged and no other."""
    plain, nm = "unstructured", "2:4"
    judged = [Case("magnitude", 0.6, plain, arm) for arm in ("nothing", "biases and norms", "MaskLoRA", "full")]
    judged += [
        Case("magnitude", s, plain, arm) for s in (0.7, 0.8) for arm in ("nothing", "LoRA-prune", "MaskLoRA", "full")
    ]
    judged += [Case("sparsegpt", 0.6, plain, "nothing")]
    if scale == "smoke":
        return judged
    more = [
        Case(pruner, s, plain, "nothing")
        for s in (0.6, 0.7, 0.8, 0.9)
        for pruner in ("magnitude", "wanda", "sparsegpt")
    ]
    more += [Case(pruner, 0.5, nm, "nothing") for pruner in ("magnitude", "wanda", "sparsegpt")]
    more += [Case("magnitude", 0.8, plain, arm) for arm in ("biases", "norms", "biases and norms", RECONSTRUCTION)]
    more += [Case("magnitude", 0.5, nm, "MaskLoRA")]
    return list(dict.fromkeys(judged + more))


def prepare(plan: Plan, seed: int, device: str) -> Setup:
    """Load the model, give it zero biases, and draw windows of the seed.

    The split by document is that of seed 0 in every run: the shipped model was trained on its training part.
    """
    tokenizer = models.load_tokenizer(plan.model)
    base = models.load_model(plan.model, device=device)
    add_biases(base)
    sizes = {"train": plan.trained, "eval": plan.evaluated, "test": plan.tested}
    drawn: dict[str, list[Tensor]] = {part: [] for part in sizes}
    for text in plan.texts:
        split = data.split(data.load(text), seed=0)
        for part, count in sizes.items():
            drawn[part] += data.calibration(split[part], tokenizer, count, plan.window, seed)
    parts = {part: torch.cat(rows).to(device) for part, rows in drawn.items()}
    per = plan.trained
    first = [parts["train"][i * per : i * per + plan.calibrated] for i in range(len(plan.texts))]
    return Setup(base, list(torch.cat(first).split(1)), parts, plan)


@torch.no_grad()
def loss_of(model: nn.Module, rows: Tensor, size: int = 16) -> float:
    """Mean nats per predicted token over rows (n, window)."""
    model.eval()
    pieces = [model(input_ids=part, labels=part, use_cache=False).loss * len(part) for part in rows.split(size)]
    return float(torch.stack(pieces).sum() / len(rows))


def run_case(setup: Setup, case: Case, seed: int) -> list[dict[str, Any]]:
    """Prune and retrain at every rate of the arm; the row of the best one on the eval part has `test`.

    Returns:
        One row per rate; losses in nats per token, `zeros` the share of zeros in the merged layers.
    """
    parts, rates = ARMS[case.arm]
    rates = rates[: setup.plan.rates] if parts else rates
    text = setup.calibration if case.pruner in NEED_TEXT else None
    place = {"seed": seed, **case._asdict()}
    rows, best, kept = [], None, None
    for rate in rates:
        model = copy.deepcopy(setup.base)
        masks = prune_model(
            model, method=case.pruner, sparsity=case.sparsity, pattern=case.pattern, calibration=text
        ).masks
        share = train(setup, model, masks, case.arm, rate, seed) if parts else 0.0
        row = {**place, "rate": rate, "share": share, "eval": loss_of(model, setup.parts["eval"]), "chosen": False}
        rows.append(row)
        if best is None or row["eval"] < best["eval"]:
            best, kept = row, model
    zeros = sparsity_of(kept)
    best |= {"chosen": True, "test": loss_of(kept, setup.parts["test"]), "zeros": zeros}
    return rows


def train(setup: Setup, model: nn.Module, masks: dict[str, Tensor], arm: str, rate: float, seed: int) -> float:
    """Retrain a pruned model in place; returns the share of its parameters that trained, 0 … 1."""
    plan = setup.plan
    if arm == RECONSTRUCTION:
        found = reconstruct_blocks(
            model, setup.base, masks, setup.calibration, steps=max(1, plan.steps // 3), learning_rate=rate, seed=seed
        )
    else:
        found = retrain(
            model, masks, setup.parts["train"], train=ARMS[arm][0], steps=plan.steps, batch_size=plan.batch,
            learning_rate=rate, seed=seed,
        )  # fmt: skip
    return found.trainable / found.total


def dense_row(setup: Setup, seed: int) -> dict[str, Any]:
    """The row of the model that was not pruned."""
    place = {"seed": seed, "pruner": "none", "sparsity": 0.0, "pattern": "unstructured", "arm": "nothing"}
    losses = {part: loss_of(setup.base, setup.parts[part]) for part in ("eval", "test")}
    return {**place, "rate": 0.0, "share": 0.0, **losses, "chosen": True, "zeros": 0.0}
