"""From a fitted law and a budget to a plan: how large, how long, at which rate, and how sure that is.

Training compute is C = 6·N·D FLOP. For L = E + A/N^α + B/D^β the compute-optimal size is closed form (Hoffmann et al.
2022, appendix): N* = G·(C/6)^(β/(α+β)), D* = (C/6)/N*, G = (αA/(βB))^(1/(α+β)). A model that will serve T tokens should be
smaller and trained longer: minimise training plus serving compute 6·N·D + 2·N·T at an equal loss (Gadre et al. 2024;
Sardana et al. 2024). Rate and batch follow the published step law, the mean error over tasks the link Err = ε − k·exp(−γL)
where the table has errors. Intervals come from the law's bootstrap: every resample makes its own plan.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError, choose
from workbench.scaling.hyperparameters import RULES, step_law

Band = tuple[float, float, float]  # value, low, high
LOOSE = 4.0  # tokens per parameter known only within this factor deserve a word


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training run to be, every number with its 95 % interval under the fit.

    Args:
        flops: training compute in FLOP (above the budget where serving asks for a longer training).
        params, tokens, ratio: N, D, and D/N.
        loss: expected loss in the law's unit.
        error: expected mean downstream error as a share, or None without measured errors.
        lr, batch_tokens: step law at the planned N and D, and what the doubt about N and D makes of it (the law's own
            constants are published without an interval).
        steps: optimizer steps of the training.
        rules: peak learning rate by other published rules: how far they disagree.
        schedule: a sentence with the numbers of the schedule.
        total_flops: training plus serving.
        warnings: how far the plan lies beyond the data, and what is loose.
    """

    flops: float
    params: Band
    tokens: Band
    ratio: Band
    loss: Band
    error: Band | None
    lr: Band
    batch_tokens: Band
    steps: float
    rules: dict[str, float]
    schedule: str
    total_flops: float
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ErrorLink:
    """Err = ε − k·exp(−γL), resampled in step with a law's bootstrap.

    Args:
        vector: (3,) ε, k, γ.
        draws: (B, 3) refits, row i under the same resample as row i of the bootstrap.
    """

    vector: np.ndarray
    draws: np.ndarray

    @classmethod
    def fit(cls, table: pd.DataFrame, bootstrap: Any) -> ErrorLink:
        """Fit on the rows of `table` (those the bootstrap's law was fitted to) that have a loss and an error.

        Raises:
            UserError: fewer than 5 rows with an error, or an error outside 0 to 1.
        """
        from workbench.scaling.fitter import ScalingLaw

        has = table["error"].notna().to_numpy()
        own = table[has]
        if not own["error"].between(0, 1).all():
            raise UserError(
                "An error is a share from 0 to 1; the column error holds other numbers. Divide per cents by 100."
            )
        law = ScalingLaw("loss-to-error", objective="squared")
        law.fit(pd.DataFrame({"L": own["loss"], "loss": own["error"]}))
        weights = bootstrap.weights[:, has]
        enough = (weights > 0).sum(axis=1) >= 4
        draws = np.where(enough[:, None], law.refit(np.where(enough[:, None], weights, 1.0)), np.nan)
        return cls(law.vector_, draws)

    def error(self, loss: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Errors at losses (B,) for parameter vectors (B, 3)."""
        return vectors[:, 0] - vectors[:, 1] * np.exp(-vectors[:, 2] * loss)


def gpu_flops(hours: float, gpus: int = 1, peak_tflops: float = 312.0, mfu: float = 0.4) -> float:
    """FLOP that `gpus` do in `hours` at `mfu` (model FLOP utilisation, 0–1) of `peak_tflops` each."""
    if hours <= 0 or gpus < 1 or peak_tflops <= 0 or not 0 < mfu <= 1:
        raise UserError(
            f"A budget needs hours > 0, gpus ≥ 1 and mfu in (0, 1]; got {hours:g} h, {gpus} GPUs, mfu {mfu:g}."
        )
    return hours * 3600.0 * gpus * peak_tflops * 1e12 * mfu


def _pieces(law: Any, vectors: np.ndarray) -> tuple[np.ndarray, ...]:
    """(E, A, B, α, β) columns of parameter vectors, for the laws of N and D with one term each."""
    names = law.law_.parameters
    floor = law.law_.floor
    by = {next(iter(t.powers)): t for t in law.law_.terms if len(t.powers) == 1}
    if set(by) != {"N", "D"} or set(law.law_.columns) != {"N", "D"}:
        raise UserError(
            f"A plan needs a law of N and D (chinchilla, overtraining, minicpm, densing); {law.law_.name} is not."
        )
    pick = [names.index(by[c].coefficient) for c in "ND"] + [names.index(by[c].powers[c]) for c in "ND"]
    e = vectors[:, names.index(floor)] if floor else np.zeros(len(vectors))
    return (e, *(vectors[:, i] for i in pick))


def compute_optimal(
    law: Any, flops: float, vectors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N*, D*, loss) at a training budget, one entry per parameter vector (default: the fit itself)."""
    if not 0 < flops < np.inf:
        raise UserError(f"The budget must be above 0 FLOP and finite, not {flops:g}.")
    vectors = law.vector_[None] if vectors is None else vectors
    e, a, b, alpha, beta = _pieces(law, vectors)
    c = float(flops) / 6.0 / flop_unit(law)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # a resample may lose a term altogether
        n = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * c ** (beta / (alpha + beta))
        d = c / n
        return n, d, e + a * n**-alpha + b * d**-beta


def flop_unit(law: Any) -> float:
    """FLOP per (unit of N × unit of D): 1e18 where both are counted in billions."""
    return 1e18 if "billion" in law.law_.units.get("N", "") else 1.0


def inference_aware(law: Any, loss: float, served: float) -> tuple[float, float]:
    """(N, D) of least training + serving compute 6ND + 2N·`served` that reach `loss` (tokens in the law's unit).

    Raises:
        UserError: a loss at or below the law's floor, a negative number of tokens.
    """
    e = float(_pieces(law, law.vector_[None])[0][0])
    if loss <= e:
        raise UserError(f"This law cannot reach a loss of {loss:g}: its floor is {e:.4g}. Ask for more than that.")
    if served < 0:
        raise UserError(f"Served tokens are 0 or more, not {served:g}.")
    n, d = _serving(law, np.array([loss]), served, law.vector_[None], 20001)
    return float(n[0]), float(d[0])


def _serving(law: Any, loss: np.ndarray, served: float, vectors: np.ndarray, points: int = 1501):
    """(N, D), each (batch,), of least total compute at losses (batch,), on a grid of sizes up to 1e6 times the smallest."""
    e, a, b, alpha, beta = (v[:, None] for v in _pieces(law, vectors))
    gap = loss[:, None] - e
    with np.errstate(all="ignore"):
        n = (a / gap) ** (1 / alpha) * np.geomspace(1 + 1e-6, 1e6, points)
        d = (b / (gap - a * n**-alpha)) ** (1 / beta)
        best = np.nanargmin(np.nan_to_num(6 * n * d + 2 * n * served, nan=np.inf), axis=1)
    rows = np.arange(len(n))
    return n[rows, best], d[rows, best]


def check(flops: float, served_tokens: float = 0.0, schedule: str = "wsd") -> None:
    """Refuse arguments that `plan` cannot use, before anything is fitted."""
    choose("schedule", schedule, ("wsd", "power"))
    if not 0 < flops < np.inf:
        raise UserError(f"The budget must be above 0 FLOP and finite, not {flops:g}.")
    if served_tokens < 0:
        raise UserError(f"Served tokens are 0 or more, not {served_tokens:g}.")


def plan(
    law: Any, flops: float, *, served_tokens: float = 0.0, bootstrap: Any = None, schedule: str = "wsd",
    link: ErrorLink | None = None,
) -> Plan:  # fmt: skip
    """Plan a run.

    Args:
        law: a fitted `ScalingLaw` of N and D.
        flops: training budget; see `gpu_flops` for GPU-hours.
        served_tokens: tokens the model will generate or read in its life. Above 0 the plan keeps the compute-optimal loss and
            shrinks the model until training plus serving is cheapest.
        bootstrap: of the law, for intervals (default: 400 resamples).
        schedule: "wsd" or "power".
        link: from loss to downstream error.

    Raises:
        UserError: a budget that is not positive, a law without N and D.
    """
    check(flops, served_tokens, schedule)
    boot = bootstrap or law.bootstrap(400)
    vectors = np.vstack([law.vector_[None], boot.samples])  # row 0 is the fit, the others are its doubt
    n, d, loss = compute_optimal(law, flops, vectors)
    unit = flop_unit(law) ** 0.5
    if served_tokens:
        n, d = _serving(law, loss, served_tokens / unit, vectors)
    reach = _reach(law, n[0], d[0])
    n, d = n * unit, d * unit
    ratio, training = _band(d / n), 6.0 * n[0] * d[0]
    rate = step_law(float(n[0]), float(d[0]))
    rates, batches = _step_laws(n, d)
    error = None if link is None else _band(link.error(loss, np.vstack([link.vector[None], link.draws])))
    steps = float(d[0]) / rate.batch_tokens
    rules = _other_rules(float(n[0]), float(d[0]))
    warnings = list(reach)
    if ratio[2] > LOOSE * ratio[1]:
        warnings.append(
            f"These runs fix tokens per parameter only between {ratio[1]:.3g} and {ratio[2]:.3g}; the loss moves little in "
            "between, so any size in the interval will do."
        )
    if training > 1.01 * flops:
        warnings.append(
            f"Serving {_flop(served_tokens)} tokens pays for a smaller model trained longer: training takes "
            f"{_flop(training)} FLOP instead of {_flop(flops)}."
        )
    return Plan(
        training, _band(n), _band(d), ratio, _band(loss), error, _band(rates), _band(batches), steps,
        rules, _sentence(schedule, rate, steps),
        training + 2.0 * float(n[0]) * served_tokens, tuple(warnings),
    )  # fmt: skip


def _step_laws(n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    usable = np.isfinite(n) & np.isfinite(d) & (n > 0) & (d > 0)
    pairs = [step_law(float(a), float(b)) if ok else None for a, b, ok in zip(n, d, usable, strict=True)]
    return tuple(
        np.array([np.nan if pair is None else getattr(pair, name) for pair in pairs]) for name in ("lr", "batch_tokens")
    )


def _flop(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")


def _other_rules(n: float, d: float) -> dict[str, float]:
    """Peak learning rate by the other published rules in parameters and tokens.

    A rule with one rate for all sizes counts on a width rule of its own, so it cannot stand beside the others.
    """
    found = {}
    for name, rule in RULES.items():
        if name == "step law" or rule.own_units:
            continue
        rate, larger = rule(n, d).lr, rule(10 * n, 10 * d).lr
        if rate is not None and rate > 0 and rate != larger:
            found[name] = rate
    return found


def _sentence(schedule: str, rate: Any, steps: float) -> str:
    total, warm, decay = (f"{max(1, round(v)):,}".replace(",", "\u2009") for v in (steps, steps / 100, steps / 10))
    if schedule == "wsd":
        return (
            f"WSD: warm up for {warm} steps, hold {rate.lr:.3g}, decay over the last {decay} of {total} steps. "
            "The plateau can be continued; every decay is a branch."
        )
    return (
        f"Power: warm up for {warm} steps to min(0.02, β·4·n^−0.51) after n tokens with β sequences per batch, follow it, "
        f"decay over the last {decay} of {total} steps. It needs no total length in advance."
    )


def _band(values: np.ndarray) -> Band:
    """(fit, low, high) of values whose first entry is the fit and whose others are resamples."""
    draws = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def _reach(law: Any, n: float, d: float) -> tuple[str, ...]:
    from workbench.scaling.holdout import decades_beyond

    beyond = float(decades_beyond(law, pd.DataFrame([{"N": n, "D": d}]))[0])
    return () if beyond <= 0 else (f"The plan lies {beyond:.1f} decades beyond the fitted runs.",)


def iso_loss(law: Any, loss: float, points: int = 100) -> pd.DataFrame:
    """(N, D) pairs of one loss: rows for the iso-loss figure.

    Raises:
        UserError: a loss at or below the floor.
    """
    e, a, b, alpha, beta = (float(v[0]) for v in _pieces(law, law.vector_[None]))
    gap = loss - e
    if gap <= 0:
        raise UserError(f"This law cannot reach a loss of {loss:g}: its floor is {e:.4g}.")
    n = (a / gap) ** (1 / alpha) * np.geomspace(1.02, 1e4, points)
    return pd.DataFrame({"N": n, "D": (b / (gap - a * n**-alpha)) ** (1 / beta), "loss": loss})


def iso_flop(law: Any, budgets: np.ndarray, decades: float = 1.0, points: int = 41) -> pd.DataFrame:
    """Loss against size at fixed training compute: rows (C in FLOP, N, D, loss) within `decades` of every optimum."""
    parts = []
    for flops in np.asarray(budgets, dtype=float):
        n, _, _ = compute_optimal(law, flops)
        sizes = n[0] * np.geomspace(10**-decades, 10**decades, points)
        rows = pd.DataFrame({"C": flops, "N": sizes, "D": flops / 6.0 / flop_unit(law) / sizes})
        parts.append(rows.assign(loss=law.predict(rows)))
    return pd.concat(parts, ignore_index=True)


def frontier(law: Any, low: float, high: float, points: int = 40, bootstrap: Any = None) -> pd.DataFrame:
    """Compute-optimal N, D and loss over budgets from `low` to `high` FLOP.

    With a `bootstrap` also N_low, N_high, D_low, D_high, loss_low, loss_high: 95 % intervals over resampled runs.
    """
    rows = []
    vectors = law.vector_[None] if bootstrap is None else np.vstack([law.vector_[None], bootstrap.samples])
    for flops in np.geomspace(low, high, points):
        row = {"C": flops}
        for name, values in zip(("N", "D", "loss"), compute_optimal(law, flops, vectors), strict=True):
            row[name] = values[0]
            if bootstrap is not None:
                _, row[f"{name}_low"], row[f"{name}_high"] = _band(values)
        rows.append(row)
    return pd.DataFrame(rows)
