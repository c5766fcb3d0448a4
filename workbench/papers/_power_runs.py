"""The training runs behind the page `power-scheduler`: all schedules of one batch and budget, trained side by side.

Runs of one batch read the same text at the same step (`workbench.scaling.fleet`), so they differ in their rates only; the
rates are those of `workbench.training.schedules`. All decays have the same length and shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import UserError
from workbench.papers._schedule_lab import KNOWS_NOTHING, VOCABULARY, Batch, held_out, order, text
from workbench.scaling.fleet import Fleet
from workbench.training.schedules import PowerCurve, cosine_factor, wsd_factor

DECAY, WARM, B = (
    0.1,
    0.1,
    -0.51,
)  # decay as a share of each budget, warm-up as a share of the shortest, the law's exponent
Rate = Callable[[float], float]  # tokens seen → learning rate


@dataclass(frozen=True)
class Plan:
    """What one scale runs.

    Args:
        budget: characters of the shortest budget.
        multiples: budgets as multiples of it; the first is where everything is tuned.
        factors: batches as multiples of `sequences`; 1 is where everything is tuned.
        rates: the six-point grid, rising.
    """

    budget: int
    rates: tuple[float, ...]
    multiples: tuple[int, ...] = (1, 4, 16)
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    sequences: int = 8
    window: int = 32
    width: int = 32
    layers: int = 2
    windows: int = 128

    def batch(self, factor: float) -> Batch:
        """Size of a step at a multiple of the batch."""
        return Batch(round(self.sequences * factor), self.window)

    def constant(self, rate: float) -> float:
        """a of the power law that passes through `rate` where the shortest budget's decay starts, at the first batch."""
        return rate / (self.sequences * ((1 - DECAY) * self.budget) ** B)


@dataclass(frozen=True)
class Lane:
    """One run: which schedule, and the number that was tuned (peak rate, or a of the power law)."""

    schedule: str
    value: float

    def rate(self, plan: Plan, factor: float, total: float) -> Rate:
        """Its rate over tokens, for a training of `total` tokens."""
        warm, start, decay = WARM * plan.budget, (1 - DECAY) * total, DECAY * total
        if self.schedule == "cosine":
            return lambda n: self.value * cosine_factor(n, warmup=warm, total=total)
        if self.schedule == "WSD":
            return lambda n: self.value * wsd_factor(n, warmup=warm, decay_start=start, decay=decay, shape="linear")
        sequences = plan.batch(factor).sequences
        return PowerCurve(sequences, warm, self.value, B, plan.rates[-1], start, decay, "linear").rate


def train(plan: Plan, seed: int, factor: float, multiple: int, lanes: list[Lane]) -> list[dict[str, Any]]:
    """Train lanes side by side up to one budget at one batch.

    Returns:
        One row per lane: schedule, value, factor, multiple, loss (nats per character).

    Raises:
        UserError: more text than there is.
    """
    batch, total = plan.batch(factor), multiple * plan.budget
    train_windows, own = text(plan.window)[0], order(plan.window, seed)
    if total > len(train_windows) * plan.window:
        raise UserError(f"A budget of {total} characters is more than the text has; use less.")
    fleet = Fleet(len(lanes), plan.width, plan.layers, VOCABULARY, seed)
    rates = [lane.rate(plan, factor, total) for lane in lanes]
    for step in range(round(total / batch.tokens)):
        windows = train_windows[own[step * batch.sequences : (step + 1) * batch.sequences]]
        fleet.step(windows, torch.tensor([[rate(step * batch.tokens)] for rate in rates]))
    with torch.no_grad():
        losses = (
            fleet.losses(held_out(plan.window, plan.windows))
            .nan_to_num(KNOWS_NOTHING)
            .clamp(max=KNOWS_NOTHING)
            .tolist()
        )
    return [
        {"schedule": lane.schedule, "value": lane.value, "factor": factor, "multiple": multiple, "loss": loss}
        for lane, loss in zip(lanes, losses, strict=True)
    ]  # fmt: skip


def tune(plan: Plan, seed: int) -> list[dict[str, Any]]:
    """Try six values of every schedule at the shortest budget and the first batch.

    Returns:
        Rows as from `train`, with the best value of each schedule `chosen`.
    """
    values = {"WSD": plan.rates, "power": [plan.constant(rate) for rate in plan.rates], "cosine": plan.rates}
    rows = []
    for schedule, tried in values.items():
        own = train(plan, seed, 1.0, plan.multiples[0], [Lane(schedule, value) for value in tried])
        best = min(own, key=lambda row: row["loss"])
        rows += [{"part": "tune", **row, "chosen": row is best} for row in own]
    return rows


def cells(plan: Plan, seed: int, factor: float, multiple: int, tuned: dict[str, float]) -> list[dict[str, Any]]:
    """One batch and one budget: the grid of WSD rates, and power and cosine with the value that was tuned.

    Args:
        plan, seed: as elsewhere.
        factor, multiple: of the batch and of the budget.
        tuned: schedule → value.
    """
    lanes = [Lane("WSD", rate) for rate in plan.rates] + [Lane(name, tuned[name]) for name in ("power", "cosine")]
    rows = train(plan, seed, factor, multiple, lanes)
    return [{"part": "cell", **row, "chosen": row["value"] == tuned[row["schedule"]]} for row in rows]


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    return {**dataclasses.asdict(plan), "decay": DECAY, "warm-up": WARM, "b": B}
