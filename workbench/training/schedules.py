"""Learning-rate schedules as pure rate functions and as torch schedulers: WSD, power and cosine.

*WSD* (MiniCPM, arXiv 2404.06395 §4): warm up to the peak η over W steps, hold it, decay at the end:
    rate(s) = η·s/W for s < W,  η for W ≤ s < T,  η·f(s − T) after,  with f(t) = 0.5^(t/T_h) ("halflife") or a straight,
    cosine or 1−√ fall to `floor`. The plateau can be continued for ever; every decay is a branch (`branch_decay`).
*Power* (arXiv 2408.13359 §4): η_p(n) = min(η_max, β·a·n^b) with n tokens seen and β sequences per batch; warm up *to the
    curve* (no jump), follow it, fall to zero over the last n_d tokens. It needs no total length and no retuning per batch.
*Cosine*: warm up, then half a cosine to `floor`.

Every scheduler multiplies each group's own rate, so the ratios of muP groups stay; state_dict resumes the count.
"""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from workbench.errors import UserError

Decay = Literal["halflife", "linear", "cosine", "1-sqrt"]
DECAYS = ("halflife", "linear", "cosine", "1-sqrt")


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
    step: int, *, warmup: int, decay_start: int | None, decay: int, shape: Decay = "1-sqrt",
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
    _check(decay, floor, warmup_steps, decay_steps)
    if stable_steps is None and decay_steps:
        raise UserError("A decay needs stable_steps; leave decay_steps at 0 to hold the plateau and branch later.")
    start = None if stable_steps is None or not decay_steps else warmup_steps + stable_steps
    return LambdaLR(
        optimizer,
        lambda step: wsd_factor(
            step,
            warmup=warmup_steps,
            decay_start=start,
            decay=decay_steps,
            shape=decay,
            half_life=half_life,
            floor=floor,
        ),
    )


def branch_decay(
    optimizer: Optimizer, *, at_step: int, warmup_steps: int, decay_steps: int, decay: Decay = "1-sqrt",
    half_life: float | None = None, floor: float = 0.0,
) -> LambdaLR:  # fmt: skip
    """Decay from a plateau checkpoint: load weights *and* optimizer state at `at_step`, then step this scheduler.

    Raises:
        UserError: a branch point inside the warm-up (there is no plateau yet).
    """
    _check(decay, floor, warmup_steps, decay_steps)
    if at_step < warmup_steps:
        raise UserError(f"Step {at_step} lies inside the warm-up of {warmup_steps} steps; branch from the plateau.")
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])
    return LambdaLR(optimizer, lambda step: decay_factor(step, decay_steps, decay, half_life, floor))


def cosine_schedule(optimizer: Optimizer, *, warmup_steps: int, total_steps: int, floor: float = 0.0) -> LambdaLR:
    """Warm-up, then half a cosine from the peak to `floor` (a share of it) at `total_steps`."""
    _check("cosine", floor, warmup_steps, total_steps)
    if warmup_steps >= total_steps:
        raise UserError(f"Warm-up of {warmup_steps} steps leaves nothing of {total_steps}; shorten it.")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return decay_factor(step - warmup_steps, total_steps - warmup_steps, "cosine", floor=floor)

    return LambdaLR(optimizer, factor)


def power_rate(
    tokens: float, *, batch_sequences: float, a: float = 4.0, b: float = -0.51, lr_max: float = 0.02
) -> float:
    """η_p(n) = min(lr_max, β·a·n^b) after n `tokens`; at n = 0 it is lr_max (n^b is infinite there)."""
    return lr_max if tokens <= 0 else min(lr_max, batch_sequences * a * tokens**b)


def power_schedule(
    optimizer: Optimizer, *, tokens_per_step: int, batch_sequences: int, warmup_tokens: int, a: float = 4.0,
    b: float = -0.51, lr_max: float | None = None, total_tokens: int | None = None, decay_tokens: int = 0,
    decay: Literal["exponential", "linear"] = "exponential", final_ratio: float = 0.0,
) -> LambdaLR:  # fmt: skip
    """The power scheduler.

    Args:
        optimizer: the first group's rate is the cap η_max unless `lr_max` is given; other groups keep their ratio to it.
        tokens_per_step: tokens in one optimizer step, accumulation included (sequences × length).
        batch_sequences: β, *sequences* in one optimizer step. Tokens here would be off by the sequence length.
        warmup_tokens: tokens of warm-up to the curve.
        a, b: constants of the law; the published ones are 4 and −0.51.
        lr_max: the cap.
        total_tokens: end of training; None runs for ever.
        decay_tokens: length of the final decay; needs `total_tokens`.
        decay: shape of the fall: e^(−5·share) shifted to end at `final_ratio`, or a straight line.
        final_ratio: share of the curve that remains at the end.

    Raises:
        UserError: b ≥ 0, a ≤ 0, warm-up + decay beyond the total, a decay without a total.
    """
    if b >= 0 or a <= 0:
        raise UserError(f"The power law needs a > 0 and b < 0; a is {a:g}, b is {b:g}.")
    if decay_tokens and total_tokens is None:
        raise UserError("decay_tokens needs total_tokens: say when training ends.")
    if total_tokens is not None and warmup_tokens + decay_tokens > total_tokens:
        raise UserError(
            f"Warm-up ({warmup_tokens} tokens) and decay ({decay_tokens}) are longer than the training ({total_tokens})."
        )
    cap = lr_max if lr_max is not None else optimizer.param_groups[0]["lr"]
    base = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
    curve = {"batch_sequences": batch_sequences, "a": a, "b": b, "lr_max": cap}
    end = None if total_tokens is None or not decay_tokens else total_tokens - decay_tokens

    def factor(step: int) -> float:
        n = step * tokens_per_step
        if n < warmup_tokens:
            return n / warmup_tokens * power_rate(warmup_tokens, **curve) / base
        if end is None or n <= end:
            return power_rate(n, **curve) / base
        share = min(1.0, (n - end) / decay_tokens)
        fall = 1 - (1 - final_ratio) * share if decay == "linear" else _exponential(share, final_ratio)
        return power_rate(end, **curve) * fall / base

    return LambdaLR(optimizer, factor)


def _exponential(share: float, final: float) -> float:
    """1 at 0, `final` at 1, falling geometrically by e^(−5 share) in between."""
    low = math.exp(-5.0)
    return final + (1 - final) * (math.exp(-5.0 * share) - low) / (1 - low)


def _check(shape: str, floor: float, *lengths: int) -> None:
    if shape not in DECAYS:
        raise UserError(f"There is no decay called {shape!r}; choose one of: {', '.join(DECAYS)}.")
    if not 0 <= floor < 1:
        raise UserError(f"The floor is a share of the peak rate from 0 to below 1, not {floor:g}.")
    if any(length < 0 for length in lengths):
        raise UserError(f"Lengths of a schedule are steps from 0 up; got {', '.join(map(str, lengths))}.")
