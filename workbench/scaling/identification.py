"""What the data can and cannot say: rank, condition, agreement of starts, bounds hit, and the sentences that follow.

The Jacobian J of the residuals by (ln c, θ) is taken at the optimum with columns scaled to unit length. A singular value
near zero is a direction in which parameters move together without changing the fit: its largest entries name them.
With a bootstrap the floor is judged by its interval too: a law without enough bend gives "below this", not a value.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.scaling.laws import Law

if TYPE_CHECKING:
    from workbench.scaling.uncertainty import Bootstrap

WEAK = 1e-3  # a unit-length direction that moves all residuals by less than this times the strongest is not identified
LOOSE = 0.5  # a floor whose interval is wider than this share of the lowest loss is a guess


@dataclasses.dataclass(frozen=True)
class Identification:
    """Numbers and sentences.

    Args:
        rank: directions with a relative singular value above 1e-10.
        condition: largest over smallest singular value of the column-scaled Jacobian.
        agreement: share of polished starts within 1e-6 (relative) of the best objective.
        bounds: parameters that sit on an allowed limit.
        warnings: sentences for people; empty when all is well.
    """

    rank: int
    condition: float
    agreement: float
    bounds: tuple[str, ...]
    warnings: tuple[str, ...]


def jacobian(law: Law, x: dict[str, np.ndarray], parameters: np.ndarray) -> np.ndarray:
    """∂r/∂(ln c, θ) at `parameters` (p,), shape (n, p); r = ln L̂ or L̂ by the law's choice."""
    k = len(law.terms)
    values, slopes = law.log_terms(x, parameters[None, k:])
    signs = np.array([term.sign for term in law.terms], dtype=float)
    parts = np.exp(values[0]) * parameters[:k] * signs  # (n, k)
    rows = np.concatenate([parts, np.einsum("nk,nkm->nm", parts, slopes[0])], axis=1)
    return rows / parts.sum(axis=1, keepdims=True) if law.log_residuals else rows


def identify(fitted: Any, boot: Bootstrap | None = None) -> Identification:
    """Report on a fitted `ScalingLaw`, with its `bootstrap` also on how loose the floor is."""
    law, x, vector = fitted.law_, fitted.x_, fitted.vector_
    names = law.parameters
    rows = jacobian(law, x, vector)
    # Divide columns by their geometric mean, as the fit does: otherwise every coefficient looks tied to its exponent.
    k = len(law.terms)
    for i, name in enumerate(law.exponents):
        for t, term in enumerate(law.terms):
            for column, exponent in term.powers.items():
                if exponent == name:
                    rows[:, k + i] -= term.direction * rows[:, t] * np.log(x[column]).mean()
    length = np.linalg.norm(rows, axis=0)
    length[length == 0] = 1.0
    _, singular, directions = np.linalg.svd(rows / length, full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    best = fitted.starts_.min()
    agreement = float(np.mean(fitted.starts_ <= best * (1 + 1e-6) + 1e-300))
    limits = {**law.exponents, **fitted._coefficient_bounds(law)}
    bounds = tuple(
        name
        for name, value in zip(names, vector, strict=True)
        if name in limits and limits[name][0] < limits[name][1] and _touches(value, limits[name])
    )
    warnings = [*_shape_warnings(law, x), *_direction_warnings(law, singular, directions, names)]
    warnings += _floor_warnings(fitted, boot)
    warnings += [f"{name} sits on its limit {_limit(limits[name])}: the data want a value outside." for name in bounds]
    if agreement < 0.5:
        warnings.append(f"Only {agreement:.0%} of the starts reach the best optimum: the surface has several valleys.")
    return Identification(int((singular > 1e-10 * singular[0]).sum()), condition, agreement, bounds, tuple(warnings))


def _touches(value: float, limits: tuple[float, float]) -> bool:
    return any(abs(value - limit) <= 1e-6 * max(limit, 1e-12) for limit in limits)


def _limit(limits: tuple[float, float]) -> str:
    return f"({limits[0]:g} to {limits[1]:g})"


def _floor_warnings(fitted: Any, boot: Bootstrap | None) -> list[str]:
    law = fitted.law_
    if law.floor is None or not law.log_residuals:
        return []
    least = float(np.abs(fitted.y_).min())
    value = fitted.parameters_[law.floor]
    if value / least < 1e-3:
        return [
            f"{law.floor} is not identified: the fit puts it at zero, so the data show no floor yet. "
            "Read it as “below the lowest loss”, not as a value."
        ]
    if boot is None:
        return []
    low, high = boot.interval(law.floor)
    if low < 0.02 * least or high - low > LOOSE * least:
        return [
            f"{law.floor} is not identified: resampled runs put it anywhere from {low:.3g} to {high:.3g} (lowest loss "
            f"{least:.3g}). Read it as “below {min(high, least):.3g}”, not as a value; larger runs would tell."
        ]
    return []


def _direction_warnings(law: Law, singular: np.ndarray, directions: np.ndarray, names: tuple[str, ...]) -> list[str]:
    found = []
    for value, direction in zip(singular, directions, strict=True):
        if value > WEAK * singular[0]:
            continue
        moving = [names[i] for i in np.argsort(-np.abs(direction)) if abs(direction[i]) > 0.3]
        exponents = [name for name in moving if name in law.exponents]
        shared = [t for t in law.terms if len(t.powers) > 1 and set(t.powers.values()) <= set(exponents)]
        if shared:
            found.append(
                f"Only the sum {' + '.join(shared[0].powers.values())} is identified: their columns grow in step."
            )
        else:
            found.append(f"{', '.join(moving)} cannot be told apart by these runs: they move together without effect.")
    return found


def _shape_warnings(law: Law, x: dict[str, np.ndarray]) -> list[str]:
    found = []
    for column in law.columns:
        distinct = len(np.unique(x[column]))
        span = np.log10(x[column].max() / x[column].min())
        if distinct < 3:
            found.append(
                f"{column} takes only {distinct} value{'s' if distinct > 1 else ''}: its exponent means little."
            )
        elif span < 0.5 and column not in ("L", "P"):
            found.append(
                f"{column} spans a factor of {10**span:.2g} only: its exponent rests on little; a factor of 10 or more tells."
            )
    if {"N", "D"} <= set(law.columns):
        ratio = x["D"] / x["N"]
        if ratio.max() / ratio.min() < 1.05:
            found.append("All runs have one ratio D/N, so the N term and the D term cannot be separated.")
        if np.median(x["N"]) > np.median(x["D"]):
            found.append("N is larger than D in most runs: check that the two columns are not swapped.")
    return found
