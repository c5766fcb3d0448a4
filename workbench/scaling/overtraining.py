"""Over-training: training small models far past the compute-optimal length, predicted from a few cheap runs.

With N parameters (embeddings included), D tokens, M = D/N tokens per parameter and C = 6ND FLOP, and one exponent for N and D,

    L = E + p·N^(−h) + q·D^(−h)                 (as the engine fits it)
      = E + (a·M^η + b·M^(−η))·C^(−η),          η = h/2,  a = p·6^η,  b = q·6^η        (paper, eq. 4)

so ln(L − E) against ln C is a straight line of slope −η at every fixed M: over-training shifts the line, it does not tilt it.
At fixed C the loss is least at M* = (b/a)^(1/(2η)), whatever C is. The mean error over tasks follows from the loss by
Err = ε − k·exp(−γL) (eq. 5). Losses are nats per token, errors shares from 0 to 1.

Source: Gadre et al. 2024, arXiv 2403.08540; code github.com/mlfoundations/scaling, whose q is b (it writes the D term as
q·6^(−h/2)·(MN)^(−h)) and whose exponent is h, twice the paper's η. Departures: the shared fitter finds the optimum instead of
128 starts of `curve_fit`; five runs get a leave-one-out range (four parameters leave one degree of freedom), twelve or more a
bootstrap over runs; Huber on log residuals is offered beside the published squared losses.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.scaling import planner
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.gadre import load_gadre
from workbench.scaling.laws import LAWS

__all__ = ["Chain", "LossToError", "OvertrainingLaw", "load_gadre"]

BOOTSTRAP_FROM = 3  # runs per parameter; below that only leave-one-out ranges are given
NO_DRAWS = np.empty((0, 4))


@dataclasses.dataclass(frozen=True)
class OvertrainingLaw:
    """L(C, M) = E + (a·M^η + b·M^(−η))·C^(−η).

    Args:
        a: coefficient of the size term.
        b: coefficient of the data term.
        E: irreducible loss, nats per token.
        eta: exponent of compute.
        draws: (k, 4) refits (a, b, E, η) of resampled runs, for intervals; empty when the constants were typed.
        kind: what the draws are: "leave-one-out", "bootstrap" or "".
        note: what the reader of an interval must know.
    """

    a: float
    b: float
    E: float
    eta: float
    draws: np.ndarray = dataclasses.field(default_factory=NO_DRAWS.copy, repr=False, compare=False)
    kind: str = ""
    note: str = ""

    @classmethod
    def from_code(cls, p: float, q: float, h: float, E: float) -> OvertrainingLaw:
        """From the constants that the authors' code prints: E + p·N^(−h) + q·6^(−h/2)·(MN)^(−h)."""
        return cls(p * 6 ** (h / 2), q, E, h / 2)

    def to_code(self) -> dict[str, float]:
        """p, q, h, E as the authors' code prints them."""
        return {"p": self.a * 6**-self.eta, "q": self.b, "h": 2 * self.eta, "E": self.E}

    @classmethod
    def fit(
        cls, runs: pd.DataFrame, objective: str = "squared", *, samples: int = 400, seed: int = 0
    ) -> OvertrainingLaw:
        """Fit by the shared engine.

        Args:
            runs: columns N, D, loss (and run, for messages); one row per run.
            objective: "squared" on raw losses (published) or "huber" on log residuals.
            samples: bootstrap resamples where there are enough runs.
            seed: of the resampling.

        Raises:
            UserError: fewer than 5 different runs, one ratio D/N only, bad numbers.
        """
        fitted = _fit("overtraining", runs, objective)
        ratio = fitted.x_["D"] / fitted.x_["N"]
        if _one_ratio(ratio):
            raise UserError(
                f"All {len(runs)} runs have {ratio[0]:.3g} tokens per parameter, so a and b cannot be separated; "
                "add one run of the smallest model trained at least four times as long."
            )
        weights, kind, skipped = _resample(len(runs), 4, ratio, samples, seed)
        note = ""
        if skipped:
            names = runs["run"].iloc[skipped] if "run" in runs else [f"in row {i + 1}" for i in skipped]
            note = f"Without the run {', '.join(map(str, names))} a and b cannot be separated: it is never left out."
        vectors = np.vstack([fitted.vector_[None], fitted.refit(weights)])
        vectors = _from_engine(vectors)
        return cls(*map(float, vectors[0]), draws=vectors[1:], kind=kind, note=note)

    def loss(self, c: Any, m: Any) -> Any:
        """L for compute `c` (FLOP) and `m` tokens per parameter, broadcast against each other."""
        return _loss(np.array([[self.a, self.b, self.E, self.eta]]), *_floats(c, m))[0]

    def loss_nd(self, n: Any, d: Any) -> Any:
        """L for `n` parameters and `d` tokens."""
        n, d = _floats(n, d)
        return self.E + self.to_code()["p"] * n ** (-2 * self.eta) + self.b * 6**-self.eta * d ** (-2 * self.eta)

    def range(self, n: Any, d: Any) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of L over the draws: their whole range (leave-one-out), or the middle 95 % (bootstrap).

        Raises:
            UserError: constants that were typed, not fitted.
        """
        if not len(self.draws):
            raise UserError("This law was typed, not fitted, so it has no interval; use OvertrainingLaw.fit(runs).")
        n, d = _floats(n, d)
        return _ends(_loss(self.draws, 6 * n * d, d / n), self.kind)

    def optimal_ratio(self) -> float:
        """M* = (b/a)^(1/(2η)): tokens per parameter of least loss, the same for every budget."""
        return float((self.b / self.a) ** (1 / (2 * self.eta)))

    def inference_aware(self, flops_train: float, tokens_served: float) -> tuple[float, float]:
        """(N, D) of least training plus serving compute, 6ND + 2N·T, at the best loss `flops_train` can reach.

        Args:
            flops_train: training budget in FLOP that sets the loss.
            tokens_served: T, tokens the model will read or write in its life.

        Raises:
            UserError: a budget that is not positive, or a negative number of tokens.
        """
        if not flops_train > 0 or tokens_served < 0:
            raise UserError(f"A budget needs FLOP > 0 and tokens ≥ 0, not {flops_train:g} and {tokens_served:g}.")
        target = float(self.loss(flops_train, self.optimal_ratio()))
        return planner.inference_aware(self._engine(), target, tokens_served)

    def _engine(self) -> Any:
        p, q = self.a * 6**-self.eta, self.b * 6**-self.eta
        return SimpleNamespace(law_=LAWS["overtraining"], vector_=np.array([self.E, p, q, 2 * self.eta]))


@dataclasses.dataclass(frozen=True)
class LossToError:
    """Err(L) = ε − k·exp(−γL): mean error over tasks from a validation loss.

    Args:
        epsilon: error of a model that knows nothing (L → ∞).
        k: scale.
        gamma: how fast the error falls, per nat.
        draws: (j, 3) refits (ε, k, γ), aligned with a law's draws inside a `Chain`.
    """

    epsilon: float
    k: float
    gamma: float
    draws: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 3)), repr=False, compare=False)

    @classmethod
    def fit(cls, runs: pd.DataFrame) -> LossToError:
        """Least squares of the errors.

        Args:
            runs: columns loss (nats per token) and error (share).

        Raises:
            UserError: fewer than 4 different runs, bad numbers.
        """
        return cls(*map(float, _fit_link(runs).vector_))

    def error(self, loss: Any) -> Any:
        """Mean error at `loss` nats per token."""
        return self.epsilon - self.k * np.exp(-self.gamma * np.asarray(loss, dtype=float))


@dataclasses.dataclass(frozen=True)
class Chain:
    """N, D → loss → mean downstream error.

    Args:
        law: loss from size and data.
        link: error from loss.
    """

    law: OvertrainingLaw
    link: LossToError

    @classmethod
    def fit(cls, runs: pd.DataFrame, link_runs: pd.DataFrame, objective: str = "squared") -> Chain:
        """Fit both parts, and refit both with every run left out in turn.

        Args:
            runs: for the law; columns run, N, D, loss.
            link_runs: for the link; columns run, loss, error. The published study uses one run more here (1.4B at M = 20).
            objective: of the law.

        Raises:
            UserError: as the two parts do; also when a table has no column run.
        """
        for table in (runs, link_runs):
            if "run" not in table:
                raise UserError("A chain leaves runs out by name: both tables need a column run.")
        law, link = OvertrainingLaw.fit(runs, objective, samples=0), _fit_link(link_runs)
        fitted = _fit("overtraining", runs, objective)
        ratio = fitted.x_["D"] / fitted.x_["N"]
        names = list(dict.fromkeys([*runs["run"], *link_runs["run"]]))
        names = [name for name in names if not _one_ratio(ratio[(runs["run"] != name).to_numpy()])]
        own, other = (
            np.array([(table["run"] != name).to_numpy(dtype=float) for name in names]) for table in (runs, link_runs)
        )
        law = dataclasses.replace(law, draws=_from_engine(fitted.refit(own)), kind="leave-one-out")
        return cls(law, LossToError(*map(float, link.vector_), draws=link.refit(other)))

    def predict(self, n: Any, d: Any, interval: bool = True) -> pd.DataFrame:
        """Loss and error of runs that were not made.

        Args:
            n: parameters.
            d: tokens.
            interval: add loss_low, loss_high, error_low, error_high: the range over refits with one run left out.

        Raises:
            UserError: an interval of constants that were typed.
        """
        n, d = (np.atleast_1d(v) for v in _floats(n, d))
        loss = np.atleast_1d(self.law.loss_nd(n, d))
        out = pd.DataFrame({"N": n, "D": d, "loss": loss, "error": self.link.error(loss)})
        if interval:
            low, high = self.law.range(n, d)
            each = _loss(self.law.draws, 6 * n * d, d / n)
            if len(self.link.draws) != len(each):
                raise UserError(
                    "Law and link were resampled apart; Chain.fit(runs, link_runs) resamples them together."
                )
            epsilon, k, gamma = (self.link.draws[:, i, None] for i in range(3))
            below, above = _ends(epsilon - k * np.exp(-gamma * each), self.law.kind)
            out = out.assign(loss_low=low, loss_high=high, error_low=below, error_high=above)
        return out


def _fit(law: str, runs: pd.DataFrame, objective: str) -> ScalingLaw:
    log = None if objective != "squared" else False
    return ScalingLaw(law, objective=objective, log_residuals=log).fit(runs)


def _fit_link(runs: pd.DataFrame) -> ScalingLaw:
    if missing := [column for column in ("loss", "error") if column not in runs]:
        raise UserError(f"The link needs the columns loss and error; missing: {', '.join(missing)}.")
    return ScalingLaw("loss-to-error", objective="squared").fit(
        pd.DataFrame({"L": runs["loss"], "loss": runs["error"]})
    )


def _from_engine(vectors: np.ndarray) -> np.ndarray:
    """(batch, 4) of E, p, q, h (q without the code's factor) → a, b, E, η."""
    floor, p, q, h = vectors.T
    return np.column_stack([p * 6 ** (h / 2), q * 6 ** (h / 2), floor, h / 2])


def _loss(vectors: np.ndarray, c: np.ndarray, m: np.ndarray) -> np.ndarray:
    """(batch, 4) of a, b, E, η and n points → (batch, n); a plain float per vector for scalar points."""
    a, b, floor, eta = (vectors[:, i].reshape(-1, *[1] * np.ndim(c * m)) for i in range(4))
    return floor + (a * m**eta + b * m**-eta) * c**-eta


def _ends(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "leave-one-out":
        return values.min(axis=0), values.max(axis=0)
    return tuple(np.quantile(values, [0.025, 0.975], axis=0))


def _resample(n: int, parameters: int, ratio: np.ndarray, samples: int, seed: int) -> tuple[np.ndarray, str, list[int]]:
    """(weights (k, n), kind, runs that cannot be left out): leave-one-out with few runs, else a bootstrap over runs."""
    if n < BOOTSTRAP_FROM * parameters or not samples:
        kept = [i for i in range(n) if not _one_ratio(np.delete(ratio, i))]
        return 1.0 - np.eye(n)[kept], "leave-one-out", [i for i in range(n) if i not in kept]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    return counts[[not _one_ratio(ratio[row > 0]) for row in counts]].astype(float), "bootstrap", []


def _one_ratio(ratio: np.ndarray) -> bool:
    return bool(ratio.max() / ratio.min() < 1.05)


def _floats(*values: Any) -> tuple[Any, ...]:
    """As float64: 6·N·D of the largest published runs overflows 64-bit integers."""
    return tuple(np.asarray(value, dtype=float)[()] for value in values)
