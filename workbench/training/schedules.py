"""Learning-rate schedules as pure rate functions and as torch schedulers: WSD, power and cosine.

*WSD*: warm up to the peak η over W steps, hold it, decay at the end:
    rate(s) = η·s/W for s < W,  η for W ≤ s < T,  η·f(s − T) after,  with f(t) = 0.5^(t/T_h) ("halflife") or a straight,
    cosine or 1−√ fall to `floor`. The plateau can be continued for ever; every decay is a branch from a kept checkpoint
    with its weights *and* Adam's moments (`checkpoint`, `branch_decay`).
*Power*: with n tokens seen and β sequences per batch, η_p(n) = min(η_max, β·a·n^b), and
    rate(n) = η_p(n_w)·n/n_w for n < n_w (to the curve: no jump),  η_p(n) up to T − n_d,  η_p(T − n_d)·f after.
    It needs no total length and no retuning per batch; `start_decay` ends it whenever one likes.
*Cosine*: warm up, then half a cosine to `floor`.

Every scheduler multiplies each group's own rate, so the ratios of muP groups stay. `state_dict` resumes the count of steps and
a decay decided on the way; lengths are taken from the new call, so a plateau can be resumed with a later end.

Source: Hu et al. 2024 (MiniCPM), arXiv 2404.06395, §4 (WSD); Shen et al. 2024, arXiv 2408.13359, §4 (power; the warm-up as
in IBM/dolomite-engine, lm_engine/optimization/scheduler.py, which has no decay of its own). Departures: η_max defaults to
the largest rate among the groups, not that of the first; the exponential fall is shifted so that it ends at `final_ratio`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from workbench.errors import UserError

Decay = Literal["halflife", "linear", "cosine", "1-sqrt"]
DECAYS = ("halflife", "linear", "cosine", "1-sqrt")
FALLS = ("exponential", "linear")


def decay_factor(
    done: float, length: float, shape: Decay = "1-sqrt", half_life: float | None = None, floor: float = 0.0
) -> float:
    """f after `done` of `length` steps of decay: 1 at the start; `floor` at the end (halflife: 0.5^(done/half_life))."""
    if shape == "halflife":
        return max(floor, 0.5 ** (done / (half_life or length / 10)))
    share = min(1.0, max(0.0, done / length))
    fall = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2, "1-sqrt": math.sqrt(share)}[shape]
    return 1 - (1 - floor) * fall


def wsd_factor(
    step: float, *, warmup: float, decay_start: float | None, decay: float, shape: Decay = "1-sqrt",
    half_life: float | None = None, floor: float = 0.0,
) -> float:  # fmt: skip
    """Share of the peak rate at `step` (0-based): warm-up, plateau, decay from `decay_start` on (None: never)."""
    if step < warmup:
        return step / warmup
    if decay_start is None or step <= decay_start:
        return 1.0
    return decay_factor(step - decay_start, decay, shape, half_life, floor)


def wsd_schedule(
    optimizer: Optimizer, *, warmup_steps: int, stable_steps: int | None = None, decay_steps: int = 0,
    decay: Decay = "1-sqrt", half_life: float | None = None, floor: float = 0.0,
) -> LambdaLR:  # fmt: skip
    """Warm-up, stable, decay.

    Args:
        optimizer: its groups' rates are the peaks.
        warmup_steps: steps of linear warm-up.
        stable_steps: steps of plateau; None holds it for ever (decide later, with `branch_decay`).
        decay_steps: steps of the decay.
        decay: shape of the decay.
        half_life: steps in which "halflife" halves the rate (default: a tenth of the decay).
        floor: share of the peak that remains.

    Raises:
        UserError: negative lengths, a decay without `stable_steps`, an unknown shape, floor outside [0, 1).
    """
    _check(decay, floor, half_life, warmup_steps, stable_steps or 0, decay_steps)
    if stable_steps is None and decay_steps:
        raise UserError("A decay needs stable_steps; leave decay_steps at 0 to hold the plateau and branch later.")
    start = None if stable_steps is None or not decay_steps else warmup_steps + stable_steps

    def factor(step: int) -> float:
        return wsd_factor(
            step,
            warmup=warmup_steps,
            decay_start=start,
            decay=decay_steps,
            shape=decay,
            half_life=half_life,
            floor=floor,
        )

    return LambdaLR(optimizer, factor)


def checkpoint(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What a branch needs: a copy of weights, moments and rates that further steps do not touch (`torch.save` takes it)."""
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def branch_decay(
    kept: dict[str, Any], model: nn.Module, optimizer: Optimizer, *, decay_steps: int, decay: Decay = "1-sqrt",
    half_life: float | None = None, floor: float = 0.0,
) -> LambdaLR:  # fmt: skip
    """Decay from a checkpoint on the plateau: loads weights and Adam's moments, then falls from the peak.

    Args:
        kept: what `checkpoint` returned; it is not changed, so any number of branches can start from it.
        model: receives the weights.
        optimizer: of `model`, with the same groups; receives moments and peak rates.
        decay_steps: steps of the decay.
        decay, half_life, floor: as in `wsd_schedule`.

    Raises:
        UserError: a checkpoint that is not on the plateau (inside the warm-up, or in a decay: there is no way back up).
    """
    _check(decay, floor, half_life, decay_steps)
    if decay_steps < 1:
        raise UserError(f"A branch needs at least 1 step of decay, not {decay_steps}.")
    for group in kept["optimizer"]["param_groups"]:
        peak = group.get("initial_lr", group["lr"])
        if not math.isclose(group["lr"], peak, rel_tol=1e-9):
            raise UserError(
                f"This checkpoint has rate {group['lr']:.3g} of a peak of {peak:.3g}: it lies inside the warm-up or a decay. "
                "Branch from a checkpoint of the plateau."
            )
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(copy.deepcopy(kept["optimizer"]))
    return LambdaLR(optimizer, lambda step: decay_factor(step, decay_steps, decay, half_life, floor))


def cosine_factor(step: float, *, warmup: float, total: float, floor: float = 0.0) -> float:
    """Share of the peak rate at `step`: warm-up, then half a cosine to `floor` at `total`."""
    return step / warmup if step < warmup else decay_factor(step - warmup, total - warmup, "cosine", floor=floor)


def cosine_schedule(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, floor: float = 0.0) -> LambdaLR:
    """Warm-up, then half a cosine from the peak to `floor` (a share of it) at `total_steps`.

    Raises:
        UserError: negative lengths, a warm-up as long as the training, floor outside [0, 1).
    """
    _check("cosine", floor, None, warmup_steps, total_steps)
    if warmup_steps >= total_steps:
        raise UserError(f"Warm-up of {warmup_steps} steps leaves nothing of {total_steps}; shorten it.")

    return LambdaLR(optimizer, lambda step: cosine_factor(step, warmup=warmup_steps, total=total_steps, floor=floor))


def power_rate(
    tokens: float, *, batch_sequences: float, a: float = 4.0, b: float = -0.51, lr_max: float = 0.02
) -> float:
    """η_p(n) = min(lr_max, β·a·n^b) after n `tokens`; at n = 0 it is lr_max (n^b is infinite there)."""
    return lr_max if tokens <= 0 else min(lr_max, batch_sequences * a * tokens**b)


@dataclasses.dataclass(frozen=True)
class PowerCurve:
    """The whole schedule over tokens: warm-up, power law, decay; fields as in `power_schedule`.

    Args:
        end: tokens where the decay starts; None: never.
    """

    batch_sequences: float
    warmup_tokens: float
    a: float = 4.0
    b: float = -0.51
    lr_max: float = 0.02
    end: float | None = None
    decay_tokens: float = 0.0
    decay: Literal["exponential", "linear"] = "exponential"
    final_ratio: float = 0.0

    def rate(self, tokens: float) -> float:
        """Learning rate after `tokens` of training."""
        if tokens < self.warmup_tokens:
            return tokens / self.warmup_tokens * self._power(self.warmup_tokens)
        if self.end is None or tokens <= self.end:
            return self._power(tokens)
        share = min(1.0, (tokens - self.end) / self.decay_tokens)
        fall = 1 - (1 - self.final_ratio) * share if self.decay == "linear" else _exponential(share, self.final_ratio)
        return self._power(self.end) * fall

    def _power(self, tokens: float) -> float:
        return power_rate(tokens, batch_sequences=self.batch_sequences, a=self.a, b=self.b, lr_max=self.lr_max)


class PowerFactor:
    """The curve as a factor over steps. LambdaLR stores `__dict__`: the size of a step, and a decay decided on the way."""

    __slots__ = ("__dict__", "base", "curve", "tokens_seen", "tokens_step")

    def __init__(self, curve: PowerCurve, base: float, tokens_per_step: int, tokens_seen: int) -> None:
        self.curve, self.base, self.tokens_step, self.tokens_seen = curve, base, tokens_per_step, tokens_seen
        self.__dict__.update(tokens_per_step=tokens_per_step, late=None)

    def tokens(self, step: int) -> int:
        """Tokens seen before `step`."""
        if self.tokens_per_step != self.tokens_step:
            raise UserError(
                f"This state counted {self.tokens_per_step} tokens a step and the schedule has {self.tokens_step}; for another "
                "batch make a new power_schedule with tokens_seen= and load no scheduler state."
            )
        return self.tokens_seen + step * self.tokens_step

    def __call__(self, step: int) -> float:
        curve = self.curve
        if self.late is not None:
            curve = dataclasses.replace(curve, end=self.late[0], decay_tokens=self.late[1])
        return curve.rate(self.tokens(step)) / self.base


def power_schedule(
    optimizer: Optimizer, *, tokens_per_step: int, batch_sequences: int, warmup_tokens: int, a: float = 4.0,
    b: float = -0.51, lr_max: float | None = None, total_tokens: int | None = None, decay_tokens: int = 0,
    decay: Literal["exponential", "linear"] = "exponential", final_ratio: float = 0.0, tokens_seen: int = 0,
) -> LambdaLR:  # fmt: skip
    """The power scheduler.

    Args:
        optimizer: the group with the largest rate follows the curve; the others keep their ratio to it.
        tokens_per_step: tokens in one optimizer step, accumulation included (sequences × length).
        batch_sequences: β, *sequences* in one optimizer step. Tokens here would be off by the sequence length.
        warmup_tokens: tokens of warm-up to the curve.
        a, b: constants of the law; the published ones are 4 and −0.51.
        lr_max: the cap η_max (default: the largest rate among the groups).
        total_tokens: end of training; None runs for ever.
        decay_tokens: length of the final decay; needs `total_tokens` (or decide later, with `start_decay`).
        decay: shape of the fall: e^(−5·share) shifted to end at `final_ratio`, or a straight line.
        final_ratio: share of the curve that remains at the end.
        tokens_seen: tokens trained before the first step of this scheduler (to go on with another batch).

    Raises:
        UserError: b ≥ 0, a ≤ 0, sizes below 1, more sequences than tokens, warm-up + decay beyond the total, a decay
            without a total, an unknown shape.
    """
    if b >= 0 or a <= 0:
        raise UserError(f"The power law needs a > 0 and b < 0; a is {a:g}, b is {b:g}.")
    if not 0 < batch_sequences <= tokens_per_step:
        raise UserError(
            f"A step of {tokens_per_step} tokens cannot hold {batch_sequences} sequences; batch_sequences counts sequences."
        )
    if decay not in FALLS:
        raise UserError(f"There is no fall called {decay!r}; choose one of: {', '.join(FALLS)}.")
    _check("linear", final_ratio, None, warmup_tokens, decay_tokens, tokens_seen)
    if decay_tokens and total_tokens is None:
        raise UserError("decay_tokens needs total_tokens: say when training ends, or call start_decay when you know.")
    if total_tokens is not None and warmup_tokens + decay_tokens > total_tokens:
        raise UserError(
            f"Warm-up ({warmup_tokens} tokens) and decay ({decay_tokens}) are longer than the training ({total_tokens})."
        )
    base = max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
    end = None if total_tokens is None or not decay_tokens else total_tokens - decay_tokens
    cap = base if lr_max is None else lr_max
    curve = PowerCurve(batch_sequences, warmup_tokens, a, b, cap, end, decay_tokens, decay, final_ratio)
    return LambdaLR(optimizer, PowerFactor(curve, base, tokens_per_step, tokens_seen))


def start_decay(scheduler: LambdaLR, at_tokens: int, decay_tokens: int) -> None:
    """End a running power schedule: follow the curve up to `at_tokens`, then fall over `decay_tokens`.

    Raises:
        UserError: another scheduler, a point already passed or inside the warm-up, a decay of no length.
    """
    factor = scheduler.lr_lambdas[0]
    if not isinstance(factor, PowerFactor):
        raise UserError("start_decay ends a power_schedule; for WSD keep a checkpoint and use branch_decay.")
    earliest = max(factor.tokens(scheduler.last_epoch), factor.curve.warmup_tokens)
    if at_tokens < earliest or decay_tokens <= 0:
        raise UserError(
            f"A decay over {decay_tokens} tokens from {at_tokens} on cannot be started: it needs a length above 0 and a start "
            f"at {earliest} tokens or later (seen, or warm-up)."
        )
    factor.late = (at_tokens, decay_tokens)


def _exponential(share: float, final: float) -> float:
    """1 at 0, `final` at 1, falling geometrically by e^(−5 share) in between."""
    low = math.exp(-5.0)
    return final + (1 - final) * (math.exp(-5.0 * share) - low) / (1 - low)


def _check(shape: str, floor: float, half_life: float | None, *lengths: int) -> None:
    if shape not in DECAYS:
        raise UserError(f"There is no decay called {shape!r}; choose one of: {', '.join(DECAYS)}.")
    if not 0 <= floor < 1:
        raise UserError(f"The floor is a share of the peak rate from 0 to below 1, not {floor:g}.")
    if half_life is not None and half_life <= 0:
        raise UserError(f"A half-life is a number of steps above 0, not {half_life:g}.")
    if any(length < 0 for length in lengths):
        raise UserError(f"Lengths of a schedule are numbers from 0 up; got {', '.join(map(str, lengths))}.")
