"""The numbers behind `LearningCurve`: many curves fitted at once, and two curves fitted jointly.

Internal parameters z = (u, b, v): ln ε = ln(e^v + h), h = e^(u − b·t) (capped by the guess level), t = ln m − mean ln m.
Centring t keeps u and b apart; e^v keeps the floor positive. Levenberg–Marquardt with exact derivatives on a batch of curves
that share their m and weights: (batch, n) residuals, a few hundred curves in some ten milliseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, stats

TINY = -30.0  # ln of a floor that counts as none
SHARP = 4.0  # power of the harmonic sum that joins guessing and power law


class Model:
    """ln ε of internal parameters and its derivatives.

    Args:
        log_m: (n,) ln of the rows of each shard.
        guess: error of guessing, or None.
        floor: whether v is fitted.
        center: of ln m; by default its mean.
    """

    def __init__(self, log_m: np.ndarray, guess: float | None, floor: bool, center: float | None = None) -> None:
        self.center = float(log_m.mean()) if center is None else center
        self.t, self.guess, self.floor = log_m - self.center, guess, floor
        self.parameters = 3 if floor else 2

    def pieces(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(h before the cap, h after it, γ, g − γ), each (batch, n) or (batch, 1)."""
        h = np.exp(np.clip(z[:, :1] - z[:, 1:2] * self.t, -50, 50))
        gamma = np.exp(self.bounded(z[:, 2:3])) if self.floor else np.zeros((len(z), 1))
        if self.guess is None:
            return h, h, gamma, np.full_like(gamma, np.inf)
        room = self.guess - gamma
        return h, (h**-SHARP + room**-SHARP) ** (-1 / SHARP), gamma, room

    def bounded(self, v: np.ndarray) -> np.ndarray:
        """ln γ kept above nothing and below the guess level."""
        return np.clip(v, TINY, 20.0 if self.guess is None else np.log(0.999 * self.guess))

    def log_error(self, z: np.ndarray) -> np.ndarray:
        """(batch, n) ln ε."""
        _, capped, gamma, _ = self.pieces(z)
        return np.log(gamma + capped)

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """(batch, n, p) ∂ ln ε/∂z."""
        h, capped, gamma, room = self.pieces(z)
        by_h = (capped / h) ** (SHARP + 1) * h / (gamma + capped)  # by ln h
        columns = [by_h, -by_h * self.t]
        if self.floor:
            lost = (capped / room) ** (SHARP + 1) if self.guess is not None else 0.0
            columns.append(gamma * (1 - lost) / (gamma + capped))
        return np.stack([np.broadcast_to(c, capped.shape) for c in columns], axis=2)

    def natural(self, z: np.ndarray) -> np.ndarray:
        """(batch, 3) α, β, γ."""
        gamma = np.exp(self.bounded(z[:, 2])) if self.floor else np.zeros(len(z))
        gamma = np.where(gamma <= np.exp(TINY) * 1.01, 0.0, gamma)
        return np.column_stack([np.exp(z[:, 0] + z[:, 1] * self.center), -z[:, 1], gamma])

    def internal(self, alpha: float, beta: float, gamma: float) -> np.ndarray:
        """(1, p) z of natural parameters."""
        z = [np.log(alpha) + beta * self.center, -beta, np.log(max(gamma, 1e-6))]
        return np.array([z[: self.parameters]])


def solve(
    model: Model, target: np.ndarray, weights: np.ndarray, start: np.ndarray, iterations: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of ln ε for every row of `target`.

    Args:
        model: which curve.
        target: (batch, n) ln of measured errors.
        weights: (n,).
        start: (1, p) or (batch, p).

    Returns:
        z (batch, p) and the weighted sum of squares (batch,).
    """
    z = np.repeat(start, len(target), axis=0) if len(start) == 1 else start.copy()
    damping, open_ = np.full(len(z), 1e-3), np.arange(len(z))
    rss = (weights * (model.log_error(z) - target) ** 2).sum(axis=1)
    for _ in range(iterations):
        slopes = model.slopes(z[open_])
        residual = model.log_error(z[open_]) - target[open_]
        pulled = slopes * weights[:, None]
        normal = pulled.transpose(0, 2, 1) @ slopes
        gradient = np.einsum("bnp,bn->bp", pulled, residual)
        diagonal = np.einsum("bpp->bp", normal) + 1e-9
        damped = normal + (damping[open_, None] * diagonal)[:, :, None] * np.eye(model.parameters)
        step = -np.linalg.solve(damped + 1e-13 * np.eye(model.parameters), gradient[:, :, None])[:, :, 0]
        trial = z[open_] + np.clip(step, -2, 2)
        if model.floor:
            trial[:, 2] = model.bounded(trial[:, 2])
        after = (weights * (model.log_error(trial) - target[open_]) ** 2).sum(axis=1)
        better = after <= rss[open_]
        gain = np.where(better, rss[open_] - after, 0.0)
        won = open_[better]
        z[won], rss[won] = trial[better], after[better]
        damping[open_] = np.where(better, damping[open_] / 10, damping[open_] * 10).clip(1e-14, 1e12)
        finished = (better & (gain <= 1e-13 * rss[open_] + 1e-28)) | (damping[open_] >= 1e11)
        open_ = open_[~finished]
        if not len(open_):
            break
    return z, rss


def joint(first: Any, second: Any) -> tuple[float, float, float]:
    """Two fitted `LearningCurve`s with one slope, then also one offset, by nested least squares.

    Returns:
        (p of equal slopes, α ratio first/second at the shared slope, p of equal offsets)
    """
    center = float(np.log(np.concatenate([first.m_, second.m_])).mean())
    curves = [first, second]
    models = [Model(np.log(c.m_), c.guess, c.floor, center) for c in curves]
    starts = [m.internal(c.scale_, c.exponent_, max(c.floor_, 1e-6))[0] for m, c in zip(models, curves, strict=True)]
    floors = [start[2:] for start in starts]
    n = len(first.m_) + len(second.m_)

    def residuals(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [np.sqrt(c.weights_) * (m.log_error(z[None])[0] - np.log(c.error_))
             for c, m, z in zip(curves, models, parts, strict=True)]
        )  # fmt: skip

    def shared(z: np.ndarray, offsets: int) -> np.ndarray:
        slope, tail = z[:1], z[1 + offsets :]
        own = [z[1:2], z[offsets : offsets + 1]]
        ends = [tail[: len(floors[0])], tail[len(floors[0]) :]]
        return residuals([np.concatenate([own[i], slope, ends[i]]) for i in (0, 1)])

    mean = np.mean([s[1] for s in starts])
    begin = np.concatenate([[mean], [s[0] for s in starts], *floors])
    one_slope = optimize.least_squares(shared, begin, args=(2,), x_scale="jac")
    begin = np.concatenate([[mean], [np.mean([s[0] for s in starts])], *floors])
    one_offset = optimize.least_squares(shared, begin, args=(1,), x_scale="jac")
    apart = first.rss_ + second.rss_
    p_slope = _f_test(2 * one_slope.cost, apart, n - 2 * models[0].parameters)
    p_offset = _f_test(2 * one_offset.cost, 2 * one_slope.cost, n - 2 * models[0].parameters + 1)
    return p_slope, float(np.exp(one_slope.x[1] - one_slope.x[2])), p_offset


def _f_test(restricted: float, full: float, freedom: int) -> float:
    return float(stats.f.sf(max(0.0, restricted - full) / max(full / freedom, 1e-300), 1, freedom))
