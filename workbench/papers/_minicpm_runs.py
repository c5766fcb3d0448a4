"""The training runs behind the page `minicpm`: cosine runs, the plateau with its branches, one rung of the ladder.

Each function returns plain rows, so that a killed run goes on with the piece it was in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.papers._schedule_lab import Batch, Run, decoder

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

DECAY, HALF_LIVES, LAYERS, BASE = 0.1, 5, 2, 32


@dataclass(frozen=True)
class Plan:
    """What one scale runs: T in steps, warm-up in steps, peak rates, widths and ratios of the ladder, points per curve."""

    steps: int
    warmup: int
    rates: tuple[float, ...]
    widths: tuple[int, ...]
    ratios: tuple[int, ...]
    points: int = 16
    sequences: int = 8
    window: int = 64
    windows: int = 128

    @property
    def batch(self) -> Batch:
        """Size of a step."""
        return Batch(self.sequences, self.window)

    @property
    def lengths(self) -> tuple[int, ...]:
        """T/4, T/2, T."""
        return self.steps // 4, self.steps // 2, self.steps

    def marks(self, after: int, until: int) -> list[int]:
        """Steps between `after` and `until` at which a curve is read, and `until` itself."""
        even = {self.steps * i // self.points for i in range(1, self.points + 1)}
        return sorted({*(step for step in even if after < step < until), until})


def make(width: int, rate: float, seed: int) -> tuple[nn.Module, Optimizer]:
    """A fresh decoder under MiniCPM's parametrization, and its AdamW at `rate` for the base width."""
    import torch

    from workbench.training.parametrization import minicpm_parametrization

    model = decoder(width, LAYERS, seed)
    groups = minicpm_parametrization(model, BASE, lr=rate)
    return model, torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def wsd_run(plan: Plan, seed: int, rate: float, width: int = BASE) -> Run:
    """A plateau without an end."""
    from workbench.training.schedules import wsd_schedule

    schedule = functools.partial(wsd_schedule, warmup_steps=plan.warmup)
    return Run(functools.partial(make, width, rate, seed), schedule, plan.batch, seed, plan.windows)


def cosine(plan: Plan, seed: int, length: int, rate: float) -> list[dict[str, Any]]:
    """One cosine run: its curve, its end, and its early readings at the shorter lengths."""
    from workbench.training.schedules import cosine_schedule

    schedule = functools.partial(cosine_schedule, warmup_steps=plan.warmup, total_steps=length)
    run = Run(functools.partial(make, BASE, rate, seed), schedule, plan.batch, seed, plan.windows)
    base, rows, shorter = {"length": length, "rate": rate}, [], [x for x in plan.lengths if x < length]
    for step in sorted({*plan.marks(0, length), *shorter}):
        loss = run.train(step).loss()
        rows.append({"part": "curve", "schedule": "cosine", **base, "step": step, "loss": loss})
        if step in shorter:
            early = {"length": step, "planned": length, "rate": rate, "loss": loss, "spent": 0}
            rows.append({"part": "end", "schedule": "stopped", **early})
    return [*rows, {"part": "end", "schedule": "cosine", **base, "loss": rows[-1]["loss"], "spent": length}]


def plateau(plan: Plan, seed: int) -> list[dict[str, Any]]:
    """The plateau: its rate picked at the first branch, then continued with a branch before every length.

    Returns:
        `end` rows of schedule "WSD" (one per rate at the first length, then one per length; `before`: the plateau where the
        branch leaves it; `spent`: steps this row cost) and "plateau" (undecayed, at the same step), and `curve` rows.
    """
    first = plan.lengths[0]
    paid = first - decay_steps(first)
    rows: list[dict[str, Any]] = []
    tried = {}
    for rate in plan.rates:
        run = wsd_run(plan, seed, rate)
        line = read(plan, run, paid)
        tried[rate] = run, line, branch(run, first).loss()
        end = {"length": first, "rate": rate, "loss": tried[rate][2], "before": line[-1]["loss"], "spent": first}
        rows.append({"part": "end", "schedule": "WSD", **end, "chosen": False})
    best = min(tried, key=lambda rate: tried[rate][2])
    rows[list(tried).index(best)]["chosen"] = True
    run, line, _ = tried[best]
    rows += line
    for length in plan.lengths:
        if length > first:
            start = length - decay_steps(length)
            rows += read(plan, run, start)
            end = {"length": length, "rate": best, "before": rows[-1]["loss"], "spent": length - paid}
            rows.append({"part": "end", "schedule": "WSD", **end, "loss": branch(run, length).loss(), "chosen": True})
            paid = start
        rows += read(plan, run, length)
        flat = {"length": length, "rate": best, "loss": rows[-1]["loss"], "spent": 0}
        rows.append({"part": "end", "schedule": "plateau", **flat})
    return rows


def read(plan: Plan, run: Run, until: int) -> list[dict[str, Any]]:
    """Train on the plateau up to `until`, reading the loss on the way and there."""
    rows = []
    for step in plan.marks(run.step, until):
        loss = run.train(step).loss()
        rows.append({"part": "curve", "schedule": "plateau", "length": plan.steps, "step": step, "loss": loss})
    return rows


def branch(run: Run, length: int) -> Run:
    """Decay up to step `length` from where the plateau stands."""
    steps = length - run.step
    return run.decayed(steps, decay="halflife", half_life=steps / HALF_LIVES)


def decay_steps(length: int) -> int:
    """Steps of the decay of a branch that ends at `length`."""
    return max(1, round(DECAY * length))


def rung(plan: Plan, seed: int, width: int, n: int, rate: float) -> list[dict[str, Any]]:
    """One size of the ladder: a plateau and its decayed losses at every ratio.

    Args:
        plan, seed: as elsewhere.
        width: of the decoder.
        n: its parameters without the embedding.
        rate: at the base width.
    """
    from workbench.scaling.wsd_ladder import ladder

    run, tokens = wsd_run(plan, seed, rate, width), plan.batch.tokens

    def climb(_: str, steps: list[tuple[int, int]]) -> list[float]:
        return [branch(run.train(start // tokens), end // tokens).loss() for start, end in steps]

    table = ladder(
        {str(width): n},
        plan.ratios,
        climb,
        decay_share=DECAY,
        warmup_tokens=plan.warmup * tokens,
        tokens_per_step=tokens,
    )
    rows = table.drop(columns=["N", "D"]).to_dict("records")
    return [{"part": "ladder", "schedule": "WSD", "rate": rate, **row} for row in rows]
