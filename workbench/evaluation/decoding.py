"""How far a changed model's next-token distribution is from the original's, at any temperature and top-k.

With logits ℓ of the original and ℓ + ε of the changed model (both [contexts, vocabulary]) and p_T = softmax(ℓ/T),
q_T = softmax((ℓ + ε)/T):

    KL(p_T ‖ q_T) = Σ p log(p/q)                nats per token
    predicted     = Var_{p_T}(ε) / (2 T²)       its second-order expansion in ε, a closed form without q
    TV(p_T, q_T)  = ½ Σ |p − q|                 the largest difference in probability of any event, 0 … 1

Why the closed form also holds where ε/T is not small: take two candidates whose logits differ by a gap g. If gaps near zero
are equally likely, the average of the KL over g is *exactly* that of the closed form, whatever ε/T (a Bregman divergence,
integrated over all places, is the integral of its second-order term); single contexts are off, their mean is not. The same
picture gives the laws while one token leads: a share ∝ T of all contexts has a gap small enough to matter, and each of them
costs (ε/T)², so the mean KL falls like 1/T while the mean TV hardly moves. Where no token leads any more (the chance that two
draws differ, 1 − Σ p², is near 1 and cannot grow with T) KL falls like 1/T² and TV like 1/T.

With top-k the two models may keep different tokens and KL would be infinite. KL and its prediction therefore use the
original's k tokens for both; TV lets each model keep its own.

Source: closed form and grid after Roy 2023, arXiv 2309.05210, which judges samples only; the expansion is the textbook one
(Cover & Thomas 2006, §11.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.errors import UserError


def check_grid(temperatures: Sequence[float], top_ks: Sequence[int | None], vocabulary: int) -> None:
    """Refuse a grid of settings with which sampling means nothing.

    Args:
        temperatures: of the sampling.
        top_ks: how many tokens are kept; None keeps all.
        vocabulary: tokens that the model knows.

    Raises:
        UserError: for the first setting out of range.
    """
    if not len(temperatures) or not len(top_ks):
        raise UserError("The grid is empty; give at least one temperature and one top_k (None keeps all tokens).")
    for temperature in temperatures:
        if not 0 < temperature < float("inf"):
            raise UserError(
                f"A temperature of {temperature} cannot be sampled with; give a number above 0, or greedy=True for the "
                "most likely token."
            )
    for top_k in top_ks:
        if top_k is None:
            continue
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= vocabulary:
            raise UserError(f"top_k is {top_k!r}; give a whole number from 2 to {vocabulary}, or None for all tokens.")
        if top_k == 1:
            raise UserError("top_k = 1 takes the most likely token at every temperature; ask for greedy=True instead.")


def kept_tokens(logits: Tensor, top_k: int | None) -> Tensor:
    """Which tokens top-k keeps: bool [contexts, vocabulary]; exactly k in every row, all when `top_k` is None."""
    if top_k is None:
        return torch.ones_like(logits, dtype=torch.bool)
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.topk(top_k, -1).indices, True)


def log_probabilities(logits: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """log softmax(ℓ/T) over the kept tokens, −∞ elsewhere.

    Args:
        logits: [contexts, vocabulary].
        temperature: above 0.
        keep: bool [contexts, vocabulary], as `kept_tokens` gives it; None keeps all.
    """
    scaled = logits / temperature
    return torch.log_softmax(scaled if keep is None else scaled.masked_fill(~keep, -torch.inf), -1)


def closed_form_kl(logits: Tensor, other: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Var_{p_T}(ε) / (2 T²) of every context, nats [contexts].

    Args:
        logits: ℓ of the original model [contexts, vocabulary].
        other: ℓ + ε of the changed one.
        temperature: above 0.
        keep: tokens that are sampled from.
    """
    p = log_probabilities(logits, temperature, keep).exp()
    return _variance(p, other - logits) / (2 * temperature**2)


def _variance(p: Tensor, change: Tensor) -> Tensor:
    """Var_p of every row; the mean is taken off first, since a shift of all logits may be large."""
    return (p * (change - (p * change).sum(-1, keepdim=True)).square()).sum(-1)


def divergences(logits: Tensor, other: Tensor, temperature: float, top_k: int | None = None) -> dict[str, Tensor]:
    """Distances between the two models' next-token distributions, context by context, computed in float64.

    Args:
        logits: of the original model [contexts, vocabulary].
        other: of the changed model on the same contexts.
        temperature: above 0.
        top_k: tokens kept, or None for all.

    Returns:
        Each [contexts]: `kl` and `predicted` in nats, `tv` between 0 and 1, `same` (1 where both prefer the same token) and
        `spread`, 1 − Σ p², the chance that two draws from the original differ.

    Raises:
        UserError: shapes that differ, logits that are not finite, settings out of range.
    """
    if logits.shape != other.shape or logits.ndim != 2:
        raise UserError(
            f"Logits of shape {tuple(logits.shape)} and {tuple(other.shape)} cannot be compared; "
            "both must be [contexts, vocabulary] on the same contexts."
        )
    check_grid([temperature], [top_k], logits.shape[1])
    logits, other = logits.double(), other.double()
    if not bool(torch.isfinite(logits).all() and torch.isfinite(other).all()):
        raise UserError("Some logits are nan or infinite; compress with more bits, or load the model in float32.")
    keep = None if top_k is None else kept_tokens(logits, top_k)
    p, q = log_probabilities(logits, temperature, keep), log_probabilities(other, temperature, keep)
    share = p.exp()
    difference = torch.where(share > 0, p - q, 0)  # outside the kept set −∞ − −∞
    own = q if top_k is None else log_probabilities(other, temperature, kept_tokens(other, top_k))
    return {
        "kl": (share * difference).sum(-1).clamp(min=0),
        "predicted": _variance(share, other - logits) / (2 * temperature**2),
        "tv": (share - own.exp()).abs().sum(-1) / 2,
        "same": (logits.argmax(-1) == other.argmax(-1)).double(),
        "spread": 1 - share.square().sum(-1),
    }
