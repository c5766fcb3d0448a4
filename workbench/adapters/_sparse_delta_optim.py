"""Optimizers for deltas whose positions change during training.

`SpielAdamW` is AdamW with an age per entry: the bias correction of an entry that entered ten steps ago is that of step
ten. With one common step count a newcomer's first update would be about 1/√(1 − β2) times too large.

    m ← β1 m + (1−β1) g,   v ← β2 v + (1−β2) g²,   a ← a + 1
    φ ← φ − lr · decay · φ − lr · m/(1−β1^a) / (√(v/(1−β2^a)) + ε)         decay pulls towards the pretrained weight

`SpielSM3` keeps d_out + d_in accumulators per matrix instead of two numbers per delta:

    ν_ij = min(row_i, col_j) + g²,   φ ← φ − lr · g / (√ν + ε),   row_i, col_j ← largest ν of their active entries

Source: Ansell et al. 2024, arXiv 2401.16405, §3.1–3.2, AlanAnsell/peft (SftAdamW, SftSM3); SM3-II: Anil et al. 2019,
arXiv 1901.11150. Parameters that are no deltas (a new output layer) get plain AdamW, or Adagrad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from workbench.errors import UserError


def _checked(lr: float, weight_decay: float) -> None:
    if lr < 0 or weight_decay < 0:
        raise UserError(f"lr={lr} and weight_decay={weight_decay} must not be negative.")


def _closure(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class SpielAdamW(Optimizer):
    """AdamW with an age per entry.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root.
        weight_decay: decoupled, times lr.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        _checked(lr, weight_decay)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = _closure(closure)
        for group in self.param_groups:
            (first, second), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad.float()
                if not state:
                    state.update({name: torch.zeros_like(g) for name in ("age", "exp_avg", "exp_avg_sq")})
                age, m, v = state["age"].add_(1), state["exp_avg"], state["exp_avg_sq"]
                m.mul_(first).add_(g, alpha=1 - first)
                v.mul_(second).addcmul_(g, g, value=1 - second)
                root = (v / (1 - second**age)).sqrt_().add_(group["eps"])
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_((m / (1 - first**age) / root * lr).to(p.dtype))
        return loss


class SpielSM3(Optimizer):
    """SM3 with row and column accumulators for sparse deltas.

    Args:
        params: parameters or groups.
        places: parameter → (positions η, (d_out, d_in)) for the deltas among them; η is read at every step.
        lr, eps, weight_decay: as in `SpielAdamW`.
    """

    def __init__(
        self, params: Iterable, places: dict[nn.Parameter, tuple[Callable[[], torch.Tensor], tuple[int, int]]],
        lr: float = 1e-3, eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        _checked(lr, weight_decay)
        self.places = places
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = _closure(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.float()
                root = (self._deltas(p, g) if p in self.places else self._plain(p, g)).sqrt()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((g / (root + group["eps"]) * group["lr"]).to(p.dtype))
        return loss

    def _plain(self, p: nn.Parameter, g: torch.Tensor) -> torch.Tensor:
        state = self.state[p]
        if not state:
            state["sum"] = torch.zeros_like(g)
        return state["sum"].addcmul_(g, g)

    def _deltas(self, p: nn.Parameter, g: torch.Tensor) -> torch.Tensor:
        positions, (d_out, d_in) = self.places[p]
        row, column = positions().long().div(d_in, rounding_mode="floor"), positions().long() % d_in
        state = self.state[p]
        if not state:
            state.update(row=g.new_zeros(d_out), column=g.new_zeros(d_in))
        seen = torch.minimum(state["row"][row], state["column"][column]).addcmul_(g, g)
        state["row"].scatter_reduce_(0, row, seen, "amax", include_self=False)
        state["column"].scatter_reduce_(0, column, seen, "amax", include_self=False)
        return seen
