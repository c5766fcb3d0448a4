"""The infinitely wide muP network with one linear hidden layer, exactly, in a network of d + C hidden units.

A linear network of width n with weights U_n (n, d) and V_n (C, n) computes f_n(x) = α V_n U_n x. Under muP its weights stay
random projections of a finite network that does not depend on n, all through training by SGD:

    U_n = Ω U / √n      V_n = V Ωᵀ / √n      Ω (n, d + C), entries ~ N(0, 1)
    f_n(x) = α V (ΩᵀΩ / n) U x   →   f(x) = α V U x   as ΩᵀΩ / n → I

U (d + C, d) starts as [σ1 I; 0] and V (C, d + C) as [0, σ2 I], so the infinite network starts at f = 0 and, unlike a kernel
limit, its hidden features U x move. One SGD rate serves every width. The distance to a sample of width n falls as n^(−1/2).

Source: Yang & Hu 2021, arXiv 2011.14522 (the limit of the linear one-hidden-layer network); its code edwardjhu/TP4.
Departures: no biases; gradients come from autograd, since the limit is itself a finite network.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench.errors import UserError


class LinearMup(nn.Module):
    """A finite linear network f(x) = α V U x, trained by SGD at one rate.

    Args:
        u: (width, d) first weights.
        v: (C, width) last weights.
        alpha: factor of the output.
    """

    def __init__(self, u: torch.Tensor, v: torch.Tensor, alpha: float = 1.0) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(u), nn.Parameter(v)
        self.alpha = alpha

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d) → (…, width): what the hidden layer says of x."""
        return x @ self.u.T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d) → (…, C)"""
        return self.alpha * self.features(x) @ self.v.T


class InfiniteLinearMup(LinearMup):
    """The limit of infinite width: d + C hidden units hold all that SGD can ever reach.

    Args:
        d: inputs.
        c: outputs.
        sigma1: standard deviation of the first weights (times √n).
        sigma2: of the last weights (times √n).
        alpha: factor of the output.

    Raises:
        UserError: a size below 1, or both standard deviations 0 (no gradient would ever flow).
    """

    def __init__(self, d: int, c: int, sigma1: float = 1.0, sigma2: float = 1.0, alpha: float = 1.0) -> None:
        if d < 1 or c < 1:
            raise UserError(f"InfiniteLinearMup needs at least one input and one output, not {d} and {c}.")
        if sigma1 == 0 and sigma2 == 0:
            raise UserError("With sigma1 = sigma2 = 0 no gradient ever flows; set one of them above 0.")
        u, v = torch.zeros(d + c, d), torch.zeros(c, d + c)
        u[:d] = sigma1 * torch.eye(d)
        v[:, d:] = sigma2 * torch.eye(c)
        super().__init__(u, v, alpha)

    def sample(self, width: int, seed: int = 0) -> LinearMup:
        """A network of finite width in the same state: fresh before training, trained after it.

        Args:
            width: hidden units of the sample.
            seed: of Ω.

        Raises:
            UserError: a width below 1.
        """
        if width < 1:
            raise UserError(f"A sample needs a width of at least 1, not {width}.")
        generator = torch.Generator().manual_seed(seed)
        omega = torch.randn(width, self.u.shape[0], generator=generator, dtype=torch.float64).to(self.u)
        with torch.no_grad():
            u = omega @ self.u / width**0.5
            v = self.v @ omega.T / width**0.5
        return LinearMup(u, v, self.alpha)
