"""From a fitted law and a budget to a plan: how large, how long, at which rate, and how sure that is.

Training compute is C = 6·N·D FLOP. For L = E + A/N^α + B/D^β the compute-optimal size is closed form (Hoffmann et al.
2022, appendix): N* = G·(C/6)^(β/(α+β)), D* = (C/6)/N*, G = (αA/(βB))^(1/(α+β)). A model that will serve T tokens should be
smaller and trained longer: minimise training plus serving compute 6·N·D + 2·N·T at an equal loss (Gadre et al. 2024;
Sardana et al. 2024). Intervals come from the law's bootstrap: every resample makes its own plan.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.scaling.hyperparameters import step_law

Band = tuple[float, float, float]  # value, low, high


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training run to be, every number with its 95 % interval under the fit.

    Args:
        flops: training compute in FLOP.
        params, tokens, ratio: N, D, and D/N.
        loss: expected loss in the law's unit.
        lr, batch_tokens: step law at the planned N and D (published constants: no interval of ours).
        schedule: a sentence.
        total_flops: training plus serving.
        warnings: how far the plan lies beyond the data.
    """

    flops: float
    params: Band
    tokens: Band
    ratio: Band
    loss: Band
    lr: float
    batch_tokens: float
    schedule: str
    total_flops: float
    warnings: tuple[str, ...]


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
    if set(by) != {"N", "D"}:
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
    if not flops > 0:
        raise UserError(f"The budget must be above 0 FLOP, not {flops:g}.")
    vectors = law.vector_[None] if vectors is None else vectors
    e, a, b, alpha, beta = _pieces(law, vectors)
    c = float(flops) / 6.0 / _unit(law)
    n = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * c ** (beta / (alpha + beta))
    d = c / n
    return n, d, e + a * n**-alpha + b * d**-beta


def _unit(law: Any) -> float:
    """FLOP per (unit of N × unit of D): 1e18 where both are counted in billions."""
    return 1e18 if "billion" in law.law_.units.get("N", "") else 1.0


def inference_aware(law: Any, loss: float, served: float) -> tuple[float, float]:
    """(N, D) of least training + serving compute 6ND + 2N·`served` that reach `loss` (tokens in the law's unit).

    Raises:
        UserError: a loss at or below the law's floor.
    """
    e, a, b, alpha, beta = (float(v[0]) for v in _pieces(law, law.vector_[None]))
    gap = loss - e
    if gap <= 0:
        raise UserError(f"This law cannot reach a loss of {loss:g}: its floor is {e:.4g}. Ask for more than that.")
    smallest = (a / gap) ** (1 / alpha)
    n = smallest * np.geomspace(1 + 1e-6, 1e6, 20001)
    d = (b / (gap - a * n**-alpha)) ** (1 / beta)
    best = int(np.argmin(6 * n * d + 2 * n * served))
    return float(n[best]), float(d[best])


def plan(law: Any, flops: float, *, served_tokens: float = 0.0, bootstrap: Any = None, schedule: str = "wsd") -> Plan:
    """Plan a run.

    Args:
        law: a fitted `ScalingLaw` of N and D.
        flops: training budget; see `gpu_flops` for GPU-hours.
        served_tokens: tokens the model will generate or read in its life. Above 0 the plan keeps the compute-optimal loss and
            shrinks the model until training plus serving is cheapest.
        bootstrap: of the law, for intervals (default: 400 resamples).
        schedule: "wsd" or "power".

    Raises:
        UserError: a budget that is not positive, a law without N and D.
    """
    boot = bootstrap or law.bootstrap(400)
    n, d, loss = compute_optimal(law, flops)
    ns, ds, losses = compute_optimal(law, flops, boot.samples)
    bands = {"params": _band(n[0], ns), "tokens": _band(d[0], ds), "ratio": _band(d[0] / n[0], ds / ns),
             "loss": _band(loss[0], losses)}  # fmt: skip
    unit = _unit(law) ** 0.5
    if served_tokens:
        small, long = inference_aware(law, float(loss[0]), served_tokens / unit)
        bands["params"], bands["tokens"] = (small, np.nan, np.nan), (long, np.nan, np.nan)
        bands["ratio"] = (long / small, np.nan, np.nan)
    params, tokens = bands["params"][0] * unit, bands["tokens"][0] * unit
    rate = step_law(params, tokens)
    training = 6.0 * params * tokens
    words = {
        "wsd": f"warm up 1 %, hold {rate.lr:.3g}, decay over the last 10 % (WSD)",
        "power": "power schedule: no total length needed; decay over the last 10 %",
    }
    if schedule not in words:
        raise UserError(f"The schedule is wsd or power, not {schedule!r}.")
    return Plan(
        training, *(tuple(v * (1 if k in ("ratio", "loss") else unit) for v in b) for k, b in bands.items()), rate.lr,
        rate.batch_tokens, words[schedule], training + 2.0 * params * served_tokens, _reach(law, bands),
    )  # fmt: skip


def _band(value: float, draws: np.ndarray) -> Band:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(value), float(low), float(high)


def _reach(law: Any, bands: dict[str, Band]) -> tuple[str, ...]:
    from workbench.scaling.holdout import decades_beyond

    at = pd.DataFrame([{"N": bands["params"][0], "D": bands["tokens"][0]}])
    beyond = float(decades_beyond(law, at)[0])
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


def frontier(law: Any, low: float, high: float, points: int = 40) -> pd.DataFrame:
    """Compute-optimal N, D and loss over budgets from `low` to `high` FLOP."""
    rows = []
    for flops in np.geomspace(low, high, points):
        n, d, loss = compute_optimal(law, flops)
        rows.append({"C": flops, "N": n[0], "D": d[0], "loss": loss[0]})
    return pd.DataFrame(rows)
