"""Terms that are no product of powers: log φ(x; θ) and its gradient by θ, for `Term(special=…)`.

Each function takes the columns (n,) and the exponents by name (batch, 1) and returns log φ, shape (batch, n) or (n,), and
{name of θ: ∂ log φ/∂θ} of the same shape. A factory gets the names it needs, so that one form serves several laws.

- *fixed power*: φ = x^p with p a number (the batch exchange S = S_min + E_min/B; the constant of a quadratic).
- *log power*: φ = (ln x)^p (tokens per character f(V) = a ln²V − b ln V + c; a gain λ ln x).
- *decay*, *growth*: φ = exp(∓θ x) (error against loss; density over time).
- *logistic*: φ = 1/(1 + exp(γ(x − l))) (score against loss).
- *streams*: φ = (N·(k ln P + 1))^(−α) (parallel scaling).
- *repeated*: φ = D'^(−β), D' = U + U·R(1 − exp(−(D/U − 1)/R)): D tokens seen, U of them different (Muennighoff et al.
  2023, arXiv 2305.16264, eq. 6): repeating is worth less and less, R epochs at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Columns = Mapping[str, np.ndarray]
Theta = dict[str, np.ndarray]
Special = Callable[[Columns, Theta], tuple[np.ndarray, Theta]]


def fixed_power(column: str, power: float) -> Special:
    """φ = column^power."""
    return lambda x, theta: (power * np.log(x[column]), {})


def log_power(column: str, power: int) -> Special:
    """φ = (ln column)^power, for columns above 1."""
    return lambda x, theta: (power * np.log(np.log(x[column])), {})


def exponential(column: str, rate: str, sign: int) -> Special:
    """φ = exp(sign · rate · column)."""

    def term(x: Columns, theta: Theta) -> tuple[np.ndarray, Theta]:
        slope = np.broadcast_to(sign * x[column], (len(theta[rate]), len(x[column])))
        return theta[rate] * slope, {rate: slope}

    return term


def logistic(column: str, steepness: str, middle: str) -> Special:
    """φ = 1/(1 + exp(steepness · (column − middle))), falling with the column."""

    def term(x: Columns, theta: Theta) -> tuple[np.ndarray, Theta]:
        away = x[column] - theta[middle]
        share = 1 / (1 + np.exp(-np.clip(theta[steepness] * away, -500, 500)))  # 1 − φ
        value = -np.logaddexp(0.0, theta[steepness] * away)
        return value, {steepness: -share * away, middle: share * theta[steepness]}

    return term


def streams(x: Columns, theta: Theta) -> tuple[np.ndarray, Theta]:
    """φ = (N·(k ln P + 1))^(−alpha)."""
    log_p = np.log(x["P"])
    inner = theta["k"] * log_p + 1
    log_size = np.log(x["N"]) + np.log(inner)
    return -theta["alpha"] * log_size, {"alpha": -log_size, "k": -theta["alpha"] * log_p / inner}


def repeated(x: Columns, theta: Theta) -> tuple[np.ndarray, Theta]:
    """φ = D'^(−beta) of repeated data; `R` is the number of epochs that repeating can be worth at most."""
    again = np.maximum(x["D"] / x["U"] - 1, 0.0)
    fade = np.exp(-again / theta["R"])
    worth = 1 + theta["R"] * (1 - fade)  # D'/U where D ≥ U
    log_data = np.log(np.minimum(x["U"], x["D"])) + np.log(worth)
    slope = (1 - fade - again / theta["R"] * fade) / worth
    return -theta["beta"] * log_data, {"beta": -log_data, "R": -theta["beta"] * slope}
