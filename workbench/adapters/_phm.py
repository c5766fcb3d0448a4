"""Sums of Kronecker products as linear maps (parameterised hypercomplex multiplication, PHM), never formed as matrices.

    H = Σ_{m=1..n} C_m ⊗ W_m      C_m (n, n) "rule",  W_m = S_m T_m with S_m (i/n, r), T_m (r, o/n);   y = x H  (…, o)

Features stand in n blocks: entry a·(i/n) + p of x is position p of block a, and `C_m ⊗ W_m` (in this order) mixes blocks by
C and positions by W. With r = 1 a token costs n·(i + n² + o) multiplications instead of i·o.

Source: Zhang et al., ICLR 2021, arXiv 2102.08597, §2; rank-one W_m: Karimi Mahabadi et al. 2021, arXiv 2106.04647, §3.2.
"""

from __future__ import annotations

import torch
from torch import nn

from workbench.errors import UserError


def kronecker_sum(rule: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The matrix H, for checks and pictures.

    Args:
        rule: C (n, n, n), C_m first.
        s: S (n, i/n, r).
        t: T (n, r, o/n).

    Returns:
        H (i, o).
    """
    return torch.stack([torch.kron(c, w) for c, w in zip(rule, s @ t, strict=True)]).sum(0)


def phm_map(x: torch.Tensor, rule: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x H without H.

    Args:
        x: (…, i).
        rule, s, t: as in `kronecker_sum`.

    Returns:
        (…, o).
    """
    n, part, rank = s.shape
    blocks = x.unflatten(-1, (n, part)) @ s.permute(1, 0, 2).flatten(1)  # (…, block a, m·r)
    mixed = torch.einsum("...amr,mab->...bmr", blocks.unflatten(-1, (n, rank)), rule)
    return (mixed.flatten(-2) @ t.flatten(0, 1)).flatten(-2)  # (…, block b, o/n) → (…, o)


def phm_map_full(x: torch.Tensor, rule: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x H with full matrices W_m (n, i/n, o/n) in place of S_m T_m."""
    n, part, _ = w.shape
    return torch.einsum("...ap,mab,mpq->...bq", x.unflatten(-1, (n, part)), rule, w).flatten(-2)


def require_divisible(n: int, **sizes: int) -> None:
    """Refuse an n that does not cut every size into equal blocks.

    Args:
        n: number of blocks.
        sizes: the sizes, by the names the user knows.

    Raises:
        UserError: naming the nearest size that works.
    """
    for name, size in sizes.items():
        if size % n or size < n:
            near = max(n, round(size / n) * n)
            raise UserError(f"n={n} does not divide {name}={size}; the nearest that works is {near} (or change n).")


class PHMLinear(nn.Module):
    """A linear layer whose weight is a sum of Kronecker products. Input (…, in_features), output (…, out_features).

    Args:
        in_features: size of the input.
        out_features: size of the output.
        n: number of products; must divide both sizes.
        rank: rank r of each W_m.
        rule: a rule (n, n, n) that other layers share; by default the layer makes its own.
    """

    def __init__(
        self, in_features: int, out_features: int, n: int = 4, rank: int = 1, rule: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        require_divisible(n, in_features=in_features, out_features=out_features)
        self.rule = nn.Parameter(torch.randn(n, n, n) * 0.01) if rule is None else rule
        self.s = nn.Parameter(glorot(n, in_features // n, rank))
        self.t = nn.Parameter(glorot(n, rank, out_features // n))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x H + b."""
        return phm_map(x, self.rule, self.s, self.t) + self.bias


def glorot(*shape: int) -> torch.Tensor:
    """Matrices (…, i, o) with glorot-uniform entries of gain √2 (the reference's start of the fast weights)."""
    bound = (2 * 6 / (shape[-2] + shape[-1])) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound)
