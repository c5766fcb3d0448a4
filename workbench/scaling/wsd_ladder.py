"""A data–model law at linear cost: one plateau per model size, and short decays branching off it at several lengths.

With cosine every (size, length) pair is a run of its own: m sizes × k lengths. Under WSD the plateau is shared, so a size
costs one run of the longest length and k short decays (≈ 10 % each). Only *decayed* losses enter the fit of

    L(N, D) = L_0 + C_N·N^(−α) + C_D·D^(−β)             N, D in billions of parameters and tokens

whose compute-optimal ratio under C = 6·N·D FLOP is

    N*/D* = K²·(C/6)^η,   K = (α·C_N / (β·C_D))^(1/(α+β)),   η = (β − α)/(α + β),        C/6 in billions²

The fit itself is the shared one: `ScalingLaw("minicpm", objective="squared")` on the ladder's table.

Source: Hu et al. 2024, arXiv 2404.06395, §4.5 and the appendix on the law. Departure: D/N is never returned without an
interval and without saying whether the budget lies outside the measured ones; the paper's 192 is a mean of 96 to 834.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError

Branch = tuple[int, int]  # tokens where the decay starts, and where it ends
BILLION = 1e9


def ladder(
    sizes: Mapping[str, int], ratios: Sequence[float], run: Callable[[str, list[Branch]], Sequence[float]], *,
    decay_share: float = 0.1, warmup_tokens: int = 0, tokens_per_step: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Measure every size at every ratio, one plateau per size.

    Args:
        sizes: name → parameters (without embeddings).
        ratios: tokens per parameter, at least two.
        run: trains the plateau of one size and returns the loss at the end of each branch, in the order given (rising).
        decay_share: share of a length that is its decay.
        warmup_tokens: end of the warm-up; no branch may start before.
        tokens_per_step: lengths are rounded to whole steps.

    Returns:
        One row per size and ratio: size, ratio, n and d (parameters, tokens), N and D (billions), loss, trained (tokens that
        this row cost beyond the rows before it).

    Raises:
        UserError: fewer than two ratios, a branch inside the warm-up, a decay share outside (0, 1).
    """
    if len(set(ratios)) < 2 or min(ratios) <= 0:
        raise UserError(f"A ladder needs at least two different ratios above 0; got {list(ratios)}.")
    if not 0 < decay_share < 1:
        raise UserError(f"decay_share is the share of a length that decays, between 0 and 1, not {decay_share:g}.")
    plans = {name: branches(n, sorted(set(ratios)), decay_share, tokens_per_step) for name, n in sizes.items()}
    for name, plan in plans.items():
        if plan[0][0] <= warmup_tokens:
            raise UserError(
                f"Size {name} would branch after {plan[0][0]} tokens, inside the warm-up of {warmup_tokens}; use a larger "
                "ratio, smaller steps or a shorter warm-up."
            )
    rows = []
    for name, plan in plans.items():
        reached = 0
        for ratio, (start, end), loss in zip(sorted(set(ratios)), plan, run(name, plan), strict=True):
            n, cost = sizes[name], end - reached
            reached = start
            rows.append({"size": name, "ratio": ratio, "n": n, "d": end, "N": n / BILLION, "D": end / BILLION,
                         "loss": loss, "trained": cost})  # fmt: skip
    return pd.DataFrame(rows)


def branches(parameters: int, ratios: Sequence[float], decay_share: float, tokens_per_step: int) -> list[Branch]:
    """(start, end) of the decay in tokens, for each ratio, in whole steps of at least one."""
    found = []
    for ratio in ratios:
        steps = max(2, round(ratio * parameters / tokens_per_step))
        decay = max(1, round(decay_share * steps))
        found.append(((steps - decay) * tokens_per_step, steps * tokens_per_step))
    return found


def saved(runs: pd.DataFrame) -> float:
    """Share of the tokens of separate runs that a ladder needed (1: nothing saved)."""
    return float(runs["trained"].sum() / runs["d"].sum())


def optimum(C_N: float, alpha: float, C_D: float, beta: float) -> tuple[float, float]:
    """(K², η) of N*/D* = K²·(C/6)^η.

    Raises:
        UserError: a constant that is not positive.
    """
    if min(C_N, alpha, C_D, beta) <= 0:
        raise UserError(f"All constants must be above 0; got {C_N:g}, {alpha:g}, {C_D:g}, {beta:g}.")
    return (alpha * C_N / (beta * C_D)) ** (2 / (alpha + beta)), (beta - alpha) / (alpha + beta)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Compute-optimal tokens per parameter at one budget.

    Args:
        value: D*/N*.
        low, high: interval over the resampled fits (NaN when none was given).
        decades_beyond: how far the budget lies outside the measured ones; 0 inside.
    """

    value: float
    low: float
    high: float
    decades_beyond: float

    def __str__(self) -> str:
        text = f"{self.value:.3g} tokens per parameter ({self.low:.3g} to {self.high:.3g})"
        return text + (
            f", {self.decades_beyond:.1f} decades beyond the measured compute" if self.decades_beyond else ""
        )


def data_model_ratio(fit: Any, flops: float, vectors: np.ndarray | None = None, level: float = 0.95) -> Ratio:
    """D*/N* at a training budget, from constants or from a fitted law.

    Args:
        fit: a fitted `ScalingLaw("minicpm")`, or a mapping with C_N, alpha, C_D, beta (billions).
        flops: training budget C in FLOP.
        vectors: (draws, parameters) resampled parameters of the law, such as `law.bootstrap(…).samples`.
        level: of the interval.

    Raises:
        UserError: a budget that is not positive, constants that are missing.
    """
    if not flops > 0:
        raise UserError(f"The budget must be above 0 FLOP, not {flops:g}.")
    c = float(flops) / 6 / BILLION**2
    constants = fit if isinstance(fit, Mapping) else fit.parameters_
    missing = [name for name in ("C_N", "alpha", "C_D", "beta") if name not in constants]
    if missing:
        raise UserError(f"The data-model ratio needs C_N, alpha, C_D and beta; missing: {', '.join(missing)}.")
    low = high = float("nan")
    if vectors is not None:
        names = list(fit.law_.parameters)
        draws = [
            _ratio({name: row[names.index(name)] for name in ("C_N", "alpha", "C_D", "beta")}, c) for row in vectors
        ]
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    beyond = 0.0
    if not isinstance(fit, Mapping):
        seen = np.log10(6 * fit.x_["N"] * fit.x_["D"] * BILLION**2)
        beyond = max(0.0, np.log10(flops) - seen.max(), seen.min() - np.log10(flops))
    return Ratio(_ratio(constants, c), float(low), float(high), float(beyond))


def _ratio(constants: Mapping[str, float], c: float) -> float:
    k2, eta = optimum(*(float(constants[name]) for name in ("C_N", "alpha", "C_D", "beta")))
    return 1 / (k2 * c**eta)
