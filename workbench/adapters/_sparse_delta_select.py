"""Which entries train: the schedule that drops deltas that moved least and grows new ones, and masks chosen once.

Updates count from 1, with interval S and γ = accumulate. A selection phase watches the updates 1…γ, later n·S…n·S+γ, and
closes after the last of them. At closing, k deltas and a share p (1 the first time, then p0·(1 − t/T)):

    drop the ⌊p k⌋ smallest |φ|;  grow as many candidates with the largest score that are not still active
    a position both dropped and grown is left untouched; new values are 0; the count k never changes

Gradient (AG): candidates are the k largest |G| of the first micro-batch of the phase; later ones add G and G² there. Score
|ΣG|; a newcomer's moments start from the means, times 1 − β^age, and its age is the number of updates watched.
Momentum (MA): score = row_i · col_j of SM3's accumulators over all entries; nothing is watched.

Source: Ansell et al. 2024, arXiv 2401.16405, §3 and Algorithm 1; AlanAnsell/peft. Departures: G of a micro-batch is
multiplied by the number of micro-batches in an update, so that moments are those of an update; candidates of a tied layer
count every pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from workbench.adapters._sparse_delta import largest
from workbench.adapters._sparse_delta_optim import SpielAdamW, SpielSM3
from workbench.adapters.sparse import SpielLayer
from workbench.errors import UserError, choose


def spiel_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, SpielLayer]:
    """The layers that carry the adapter, by name."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, SpielLayer) and m.has(adapter_name)}
    if not layers:
        raise UserError(f"No layer carries a spiel adapter called {adapter_name!r}; call get_peft_model first.")
    return layers


def spiel_optimizer(
    model: nn.Module, lr: float, weight_decay: float = 0.0, adapter_name: str = "default", **settings: Any
) -> Optimizer:
    """The optimizer that the adapter's selection needs, over all trainable parameters.

    Args:
        model: with a spiel adapter.
        lr, weight_decay: as usual; decay pulls deltas to zero.
        adapter_name: which adapter.
        settings: further arguments of `SpielAdamW` or `SpielSM3`.
    """
    layers = spiel_layers(model, adapter_name)
    trained = [p for p in model.parameters() if p.requires_grad]
    if model.peft_config[adapter_name].selection != "momentum":
        return SpielAdamW(trained, lr, weight_decay=weight_decay, **settings)
    places = {
        layer.spiel_values[adapter_name]: ((lambda held=layer: held.spiel_indices[adapter_name]), layer.shape)
        for layer in layers.values()
    }
    return SpielSM3(trained, places, lr, weight_decay=weight_decay, **settings)


def exchange(
    values: torch.Tensor, indices: torch.Tensor, candidates: torch.Tensor, score: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which deltas leave and which candidates take their places.

    Args:
        values, indices: φ and η (k,).
        candidates: distinct flat positions (c,).
        score: how wanted each candidate is (c,).
        share: p.

    Returns:
        slots (n,), places in φ that are given up, and taken (n,), places in `candidates`; n may be below ⌊p k⌋.
    """
    count = int(share * len(values))
    dropped = torch.argsort(values.abs(), stable=True)[:count]
    staying = torch.ones(len(values), dtype=torch.bool, device=values.device)
    staying[dropped] = False
    free = (~torch.isin(candidates, indices[staying])).nonzero()[:, 0]
    grown = free[torch.argsort(score[free], descending=True, stable=True)[:count]]
    new = grown[~torch.isin(candidates[grown], indices[dropped])]
    leaving = dropped[~torch.isin(indices[dropped], candidates[grown])]
    count = min(len(new), len(leaving))
    return leaving[:count], new[:count]


class _Collector:
    """Candidates of one matrix: chosen in the first backward pass it sees, summed over all."""

    def __init__(self, k: int, size: int, factor: float) -> None:
        self.k, self.size, self.factor = k, size, factor
        self.best = self.positions = self.total = self.squares = None
        self.samples = 0

    def __call__(self, start: int, piece: torch.Tensor) -> None:
        piece = piece.detach().float() * self.factor
        if self.samples == 0:
            inside = torch.arange(start, start + len(piece), dtype=torch.int32, device=piece.device)
            top = largest(piece.abs(), min(self.k, len(piece))).long()
            found, at = piece[top], inside[top]
            if self.best is not None:
                found, at = torch.cat([self.best[0], found]), torch.cat([self.best[1], at])
            keep = largest(found.abs(), self.k).long()
            self.best = (found[keep], at[keep])
            if start + len(piece) == self.size:
                (self.total, self.positions), self.best = self.best, None
                self.squares, self.samples = self.total.square(), 1
            return
        low, high = torch.searchsorted(
            self.positions.long(), torch.tensor([start, start + len(piece)], device=piece.device)
        ).tolist()
        seen = piece[self.positions[low:high].long() - start]
        self.total[low:high] += seen
        self.squares[low:high] += seen.square()
        self.samples += start + len(piece) == self.size

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("positions", "total", "squares", "samples")}


class Reselector:
    """Moves the deltas of one adapter during training: call `after_step()` after every optimizer step.

    Args:
        model: with a spiel adapter.
        optimizer: from `spiel_optimizer`.
        total_steps: T, updates of the whole run.
        adapter_name: which adapter.
        accumulation: micro-batches per update.

    Raises:
        UserError: an optimizer without ages (gradient) or accumulators (momentum).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        total_steps: int,
        adapter_name: str = "default",
        accumulation: int = 1,
    ) -> None:
        self.layers, self.name = spiel_layers(model, adapter_name), adapter_name
        self.config, self.total_steps, self.accumulation = model.peft_config[adapter_name], total_steps, accumulation
        self.optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        wanted = {"gradient": SpielAdamW, "momentum": SpielSM3}.get(self.config.selection)
        if wanted is not None and not isinstance(self.optimizer, wanted):
            raise UserError(
                f"selection={self.config.selection!r} needs the optimizer {wanted.__name__}, not "
                f"{type(self.optimizer).__name__}: newcomers would take a huge first step; use spiel_optimizer(model, lr)."
            )
        self.step, self.log = 0, []
        self.collectors: dict[str, _Collector] = {}
        self._open()

    def share(self) -> float:
        """p at the present step: 1 in the first phase, then falling from p0 to 0."""
        if self.step <= self.config.accumulate:
            return 1.0
        done = min(1.0, self.step / self.total_steps)
        falling = 1 - done if self.config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.config.initial_rate * falling

    def after_step(self) -> None:
        """Count one update; close or open a phase when it is due."""
        self.step += 1
        if self.config.selection == "static":
            return
        if self.step % self.config.interval == self.config.accumulate:
            self._close()
        if (self.step + 1) % self.config.interval == 0:
            self._open()

    def _open(self) -> None:
        if self.config.selection != "gradient":
            return
        for key, layer in self.layers.items():
            k, size = len(layer.spiel_values[self.name]), layer.in_features * layer.out_features
            self._watch(key, _Collector(k, size, self.accumulation))

    def _watch(self, key: str, collector: _Collector) -> None:
        self.collectors[key] = self.layers[key].spiel_watch[self.name] = collector

    @torch.no_grad()
    def _close(self) -> None:
        moved = held = 0
        for key, layer in self.layers.items():
            layer.spiel_watch.pop(self.name, None)
            moved += self._exchange(key, layer)
            held += len(layer.spiel_values[self.name])
        self.collectors.clear()
        self.log.append({"step": self.step, "share": self.share(), "moved": moved, "deltas": held})

    def _exchange(self, key: str, layer: SpielLayer) -> int:
        values, indices = layer.spiel_values[self.name], layer.spiel_indices[self.name]
        if self.config.selection == "momentum":
            candidates, score = self._by_accumulators(values, indices, layer.shape)
        else:
            collector = self.collectors.get(key)
            if collector is None or collector.samples == 0:
                return 0  # the layer took no part in any backward pass
            candidates, score = collector.positions, collector.total.abs()
        slots, taken = exchange(values, indices, candidates, score, self.share())
        indices[slots] = candidates[taken]
        values[slots] = 0
        state = self.optimizer.state.get(values, {})
        if self.config.selection == "gradient" and state:
            betas = next(g["betas"] for g in self.optimizer.param_groups if any(p is values for p in g["params"]))
            age = collector.samples / self.accumulation
            state["age"][slots] = age
            for name, sums, beta in zip(
                ("exp_avg", "exp_avg_sq"), (collector.total, collector.squares), betas, strict=True
            ):
                state[name][slots] = sums[taken] / collector.samples * (1 - beta**age)
        order = indices.argsort()
        for held in (indices, values.data, *(state.get(name) for name in ("age", "exp_avg", "exp_avg_sq"))):
            if held is not None:
                held.copy_(held[order])
        return len(slots)

    def _by_accumulators(
        self, values: torch.Tensor, indices: torch.Tensor, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The candidates of SM3: the largest products of row and column sums, active entries among them."""
        state, wanted = self.optimizer.state.get(values, {}), 2 * len(values)
        if not state:
            return indices.clone(), torch.zeros_like(values)
        found: tuple[torch.Tensor, torch.Tensor] | None = None
        step = max(1, (1 << 22) // shape[1])
        for first in range(0, shape[0], step):
            score = torch.outer(state["row"][first : first + step], state["column"]).reshape(-1)
            top = largest(score, wanted).long()
            at, best = (top + first * shape[1]).to(torch.int32), score[top]
            if found is not None:
                at, best = torch.cat([found[0], at]), torch.cat([found[1], best])
                keep = largest(best, wanted).long()
                at, best = at[keep], best[keep]
            found = at, best
        return found

    def close(self) -> None:
        """Stop watching; what the present phase has collected is dropped."""
        for layer in self.layers.values():
            layer.spiel_watch.pop(self.name, None)
        self.collectors.clear()

    def state_dict(self) -> dict[str, Any]:
        """Step, log and what the present phase has collected."""
        return {"step": self.step, "log": self.log, "seen": {key: c.state() for key, c in self.collectors.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken (the optimizer and the adapter are restored on their own)."""
        self.step, self.log = state["step"], list(state["log"])
        self.close()
        if state["seen"]:
            self._open()
        for key, kept in state["seen"].items():
            for name, value in kept.items():
                setattr(self.collectors[key], name, value.clone() if torch.is_tensor(value) else value)


def choose_mask(
    model: nn.Module,
    losses: Iterable[Callable[[], torch.Tensor]],
    score: str = "gradient",
    adapter_name: str = "default",
) -> None:
    """Place the deltas once, by a score over a few batches; for `selection="static"`, before training.

    Args:
        model: with a spiel adapter, all values zero.
        losses: each is called and gives the loss of one batch.
        score: `gradient` (|ΣG|) or `fisher` (ΣG²). One dense score per adapted matrix is held meanwhile.
        adapter_name: which adapter.
    """
    choose("score", score, ("gradient", "fisher"))
    layers = spiel_layers(model, adapter_name)
    sums: dict[str, torch.Tensor] = {}

    def add(key: str, size: int, start: int, piece: torch.Tensor) -> None:
        total = sums.setdefault(key, torch.zeros(size, device=piece.device))
        total[start : start + len(piece)] += piece.float().square() if score == "fisher" else piece.float()

    for key, layer in layers.items():
        size = layer.in_features * layer.out_features
        layer.spiel_watch[adapter_name] = lambda start, piece, key=key, size=size: add(key, size, start, piece)
    try:
        for loss in losses:
            loss().backward()
    finally:
        for layer in layers.values():
            layer.spiel_watch.pop(adapter_name, None)
        model.zero_grad()
    for key, total in sums.items():
        held = layers[key].spiel_indices[adapter_name]
        held.copy_(largest(total.abs(), len(held)))
