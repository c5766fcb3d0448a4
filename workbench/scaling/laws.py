"""Scaling laws as declarations: a law is a signed sum of terms whose logarithm is known once the exponents are.

    L̂(x) = Σ_k s_k · exp( a_k + log φ_k(x; θ) ),        c_k = exp(a_k) > 0,  s_k = ±1

For a power term log φ = −Σ_j p_j ln x_j (+ where the term `rises`), with every p_j one of the exponents θ, so one exponent
may serve two terms (equal-exponent laws) and one term may multiply several columns (encoder × decoder). All laws here are
linear in their coefficients c for fixed θ; `workbench.scaling.engine` uses that. A new law is one `Law(...)` of a few lines,
which `ScalingLaw(law)` takes as it is; those that everybody may name stand in `LAWS`.

Sources: Hoffmann et al. 2022 (chinchilla), Gadre et al. 2024 (overtraining), Hestness et al. 2017 (learning-curve),
Henighan et al. 2020 (power, growth, gain), Su et al. 2024 (kaplan-steps, batch-exchange, critical-batch), Hu et al. 2024
(minicpm), Tao et al. 2024 (vocabulary, token-ratio), Xiao et al. 2024 (densing, loss-to-score, trend), Ghorbani et al. 2021
(bivariate), Chen et al. 2025 (parscale, parscale-power), Muennighoff et al. 2023 (data-constrained).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from workbench.errors import choose
from workbench.scaling import _specials
from workbench.scaling._specials import Columns, Special


@dataclasses.dataclass(frozen=True)
class Term:
    """One term: `sign · coefficient · Π_j column_j^(−exponent_j)`; an empty `powers` is a constant.

    Args:
        coefficient: name of c_k in reports.
        powers: column → name of the exponent it is raised to the negative of.
        sign: +1 or −1 in front of the positive coefficient.
        special: log φ_k and its θ-gradient for a term that is no power of θ (`workbench.scaling._specials`).
        rises: columns are raised to plus their exponents: the term grows.
    """

    coefficient: str
    powers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sign: int = 1
    special: Special | None = None
    rises: bool = False

    @property
    def direction(self) -> int:
        """Sign of the exponents in log φ: −1, or +1 where the term rises."""
        return 1 if self.rises else -1


@dataclasses.dataclass(frozen=True)
class Law:
    """A scaling law.

    Args:
        name: what the user types.
        formula: one line for people.
        columns: inputs it needs, all positive.
        terms: see `Term`.
        exponents: name → (lowest, highest) value allowed.
        reference: paper and equation.
        log_residuals: residuals are ln L̂ − ln L (True) or L̂ − L (False: losses that may be negative).
        units: column → unit, for messages and figures.
        target: what the law predicts, with its unit.
    """

    name: str
    formula: str
    columns: tuple[str, ...]
    terms: tuple[Term, ...]
    exponents: Mapping[str, tuple[float, float]]
    reference: str = ""
    log_residuals: bool = True
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    target: str = "loss (nats per token)"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Coefficients, then exponents: the order of every parameter vector."""
        return (*(term.coefficient for term in self.terms), *self.exponents)

    @property
    def linear(self) -> bool:
        """Whether log φ is linear in θ (all terms are powers), which allows shared derivative tables."""
        return all(term.special is None for term in self.terms)

    @property
    def floor(self) -> str | None:
        """Name of the irreducible constant, if the law has one."""
        return next((t.coefficient for t in self.terms if not t.powers and t.special is None), None)

    def log_terms(self, x: Columns, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log φ and its gradient.

        Args:
            x: columns of length n, all positive.
            theta: exponents, shape (batch, m).

        Returns:
            log φ of shape (batch, n, terms), and ∂ log φ/∂θ of shape (batch or 1, n, terms, m).
        """
        n = len(next(iter(x.values())))
        names = list(self.exponents)
        slopes = np.zeros((1 if self.linear else len(theta), n, len(self.terms), len(names)))
        values = np.zeros((len(theta), n, len(self.terms)))
        for k, term in enumerate(self.terms):
            for column, exponent in term.powers.items():
                i, log_x = names.index(exponent), np.log(x[column])
                slopes[:, :, k, i] += term.direction * log_x
                values[:, :, k] += term.direction * theta[:, i, None] * log_x
            if term.special is not None:
                named = {name: theta[:, i, None] for i, name in enumerate(names)}
                value, gradient = term.special(x, named)
                values[:, :, k] += value
                for name, slope in gradient.items():
                    slopes[:, :, k, names.index(name)] += slope
        return values, slopes

    def predict(self, x: Columns, parameters: np.ndarray) -> np.ndarray:
        """L̂ for parameter vectors of shape (batch, p) in natural units → (batch, n)."""
        k = len(self.terms)
        values, _ = self.log_terms(x, parameters[:, k:])
        signs = np.array([term.sign for term in self.terms], dtype=float)
        return np.einsum("bnk,bk->bn", np.exp(values), signs * parameters[:, :k])


ND = {"N": "parameters", "D": "tokens"}
EXPONENT = (1e-3, 2.5)

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("chinchilla", "L = E + A/N^alpha + B/D^beta", ("N", "D"),
            (Term("E"), Term("A", {"N": "alpha"}), Term("B", {"D": "beta"})),
            {"alpha": EXPONENT, "beta": EXPONENT}, "Hoffmann et al. 2022, arXiv 2203.15556, eq. 2", units=ND),
        Law("overtraining", "L = E + p/N^h + q/D^h (one exponent)", ("N", "D"),
            (Term("E"), Term("p", {"N": "h"}), Term("q", {"D": "h"})),
            {"h": EXPONENT}, "Gadre et al. 2024, arXiv 2403.08540, eq. 4", units=ND),
        Law("compute", "L = E + a/C^alpha", ("C",), (Term("E"), Term("a", {"C": "alpha"})),
            {"alpha": EXPONENT}, "Henighan et al. 2020, arXiv 2010.14701, eq. 1.1", units={"C": "FLOP"}),
        Law("minicpm", "L = L0 + C_N/N^alpha + C_D/D^beta, N and D in billions", ("N", "D"),
            (Term("L0"), Term("C_N", {"N": "alpha"}), Term("C_D", {"D": "beta"})),
            {"alpha": EXPONENT, "beta": EXPONENT}, "Hu et al. 2024, arXiv 2404.06395, §4.5",
            units={"N": "billion parameters", "D": "billion tokens"}),
        Law("data-constrained", "L = E + A/N^alpha + B/D'^beta, D' = U + U·R·(1 − exp(−(D/U − 1)/R))", ("N", "D", "U"),
            (Term("E"), Term("A", {"N": "alpha"}), Term("B", special=_specials.repeated)),
            {"alpha": EXPONENT, "beta": EXPONENT, "R": (0.5, 200.0)}, "Muennighoff et al. 2023, arXiv 2305.16264, eq. 6",
            units={**ND, "U": "different tokens"}),
        Law("power", "L = L_inf + a/x^alpha", ("x",), (Term("L_inf"), Term("a", {"x": "alpha"})),
            {"alpha": EXPONENT}, "Henighan et al. 2020, arXiv 2010.14701, eq. 1.1"),
        Law("pure-power", "L = a/x^alpha", ("x",), (Term("a", {"x": "alpha"}),),
            {"alpha": EXPONENT}, "Kaplan et al. 2020, arXiv 2001.08361, eq. 1.1"),
        Law("growth", "y = a·x^beta", ("x",), (Term("a", {"x": "beta"}, rises=True),),
            {"beta": EXPONENT}, "Henighan et al. 2020, arXiv 2010.14701, §3.2", target="y"),
        Law("gain", "I = lambda·ln x − c", ("x",),
            (Term("lambda", special=_specials.log_power("x", 1)), Term("c", sign=-1)),
            {}, "Henighan et al. 2020, arXiv 2010.14701, §5", log_residuals=False, target="mutual information (nats)"),
        Law("learning-curve", "error = gamma + alpha · m^(−beta)", ("m",),
            (Term("gamma"), Term("alpha", {"m": "beta"})),
            {"beta": EXPONENT}, "Hestness et al. 2017, arXiv 1712.00409, §2", units={"m": "training rows"},
            target="error (share)"),
        Law("kaplan-steps", "L = a/N^alpha_N + b/S^alpha_S", ("N", "S"),
            (Term("a", {"N": "alpha_N"}), Term("b", {"S": "alpha_S"})),
            {"alpha_N": EXPONENT, "alpha_S": EXPONENT}, "Su et al. 2024, arXiv 2403.06563, eq. 4",
            units={"N": "parameters", "S": "minimum steps"}),
        Law("batch-exchange", "S = S_min + E_min/B at one loss; B_crit = E_min/S_min", ("B",),
            (Term("S_min"), Term("E_min", special=_specials.fixed_power("B", -1))),
            {}, "Su et al. 2024, arXiv 2403.06563, eq. 3", units={"B": "tokens per step"}, target="steps"),
        Law("critical-batch", "B_crit = B_star/L^p, p = 1/alpha_B", ("L",), (Term("B_star", {"L": "p"}),),
            {"p": (0.2, 20.0)}, "Su et al. 2024, arXiv 2403.06563, eq. 2", units={"L": "nats per token"},
            target="batch (tokens)"),
        Law("densing", "L = a/N^alpha + b/D^beta", ("N", "D"),
            (Term("a", {"N": "alpha"}), Term("b", {"D": "beta"})),
            {"alpha": EXPONENT, "beta": EXPONENT}, "Xiao et al. 2024, arXiv 2412.04315, eq. 2", units=ND),
        Law("loss-to-score", "score = d + c/(1 + exp(gamma·(L − l)))", ("L",),
            (Term("d"), Term("c", special=_specials.logistic("L", "gamma", "l"))),
            {"gamma": (0.05, 20.0), "l": (0.05, 20.0)}, "Xiao et al. 2024, arXiv 2412.04315, eq. 3",
            log_residuals=False, units={"L": "nats per answer"}, target="score (share)"),
        Law("trend", "y = a·exp(rate·t)", ("t",), (Term("a", special=_specials.exponential("t", "rate", 1)),),
            {"rate": (1e-5, 1.0)}, "Xiao et al. 2024, arXiv 2412.04315, §4", units={"t": "days"}, target="y"),
        Law("bivariate", "L = L_inf + a/(N_e^p_e · N_d^p_d)", ("N_e", "N_d"),
            (Term("L_inf"), Term("a", {"N_e": "p_e", "N_d": "p_d"})),
            {"p_e": EXPONENT, "p_d": EXPONENT}, "Ghorbani et al. 2021, arXiv 2109.07740, eq. 1",
            units={"N_e": "encoder parameters", "N_d": "decoder parameters"}),
        Law("vocabulary", "L_u = −E + A1/N^alpha1 + A2/N_v^alpha2 + B/D^alpha1", ("N", "N_v", "D"),
            (Term("E", sign=-1), Term("A1", {"N": "alpha1"}), Term("A2", {"N_v": "alpha2"}),
             Term("B", {"D": "alpha1"})),
            {"alpha1": EXPONENT, "alpha2": EXPONENT}, "Tao et al. 2024, arXiv 2407.13623, eq. 7",
            log_residuals=False, target="loss above unigrams (nats per token)"),
        Law("token-ratio", "f = a·ln²V − b·ln V + c", ("V",),
            (Term("a", special=_specials.log_power("V", 2)), Term("b", sign=-1, special=_specials.log_power("V", 1)),
             Term("c")),
            {}, "Tao et al. 2024, arXiv 2407.13623, §3", log_residuals=False, units={"V": "vocabulary entries"},
            target="tokens per character"),
        Law("parscale", "L = E + (A/(N·(k ln P + 1)))^alpha, coefficient A^alpha", ("N", "P"),
            (Term("E"), Term("A_alpha", special=_specials.streams)),
            {"alpha": EXPONENT, "k": (1e-3, 10.0)}, "Chen et al. 2025, arXiv 2505.10475, eq. 5",
            units={"N": "parameters", "P": "streams"}),
        Law("parscale-power", "L = E + A/(N^alpha · P^kappa)", ("N", "P"),
            (Term("E"), Term("A", {"N": "alpha", "P": "kappa"})),
            {"alpha": EXPONENT, "kappa": EXPONENT}, "Chen et al. 2025, arXiv 2505.10475, §3 (the form it rejects)",
            units={"N": "parameters", "P": "streams"}),
        Law("loss-to-error", "error = epsilon − k·exp(−gamma·L)", ("L",),
            (Term("epsilon"), Term("k", sign=-1, special=_specials.exponential("L", "gamma", -1))),
            {"gamma": (1e-2, 20.0)}, "Gadre et al. 2024, arXiv 2403.08540, eq. 5", log_residuals=False,
            units={"L": "nats per token"}, target="error (share)"),
    )
}  # fmt: skip


def get_law(name: str | Law) -> Law:
    """The law of that name (a `Law` is returned as it is), or a `UserError` that names the nearest ones."""
    return name if isinstance(name, Law) else LAWS[choose("law", name, LAWS)]
