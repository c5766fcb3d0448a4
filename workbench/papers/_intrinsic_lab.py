"""The laboratory of the page `intrinsic-dimension`: digits, networks of one shape, training in and out of a flat."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workbench.adapters._subspace_module import RandomSubspace


@dataclass(frozen=True)
class Data:
    """Pictures (n, 64) and labels (n,): trained on, and judged by (the same rows where training accuracy is measured)."""

    x: torch.Tensor
    y: torch.Tensor
    judged_x: torch.Tensor
    judged_y: torch.Tensor


@functools.cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)


def digits(seed: int, device: str = "cpu") -> Data:
    """1300 pictures to train on and 497 to judge by."""
    x, y = (part.to(device) for part in _digits())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(device)
    train, judged = order[:1300], order[1300:]
    return Data(x[train], y[train], x[judged], y[judged])


def to_memorise(seed: int, shuffled: bool, device: str = "cpu", count: int = 256) -> Data:
    """`count` training pictures, judged on themselves; with `shuffled`, their labels are dealt anew."""
    data = digits(seed, device)
    x, y = data.x[:count], data.y[:count]
    if shuffled:
        y = y[torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)]
    return Data(x, y, x, y)


def network(width: int, seed: int, device: str = "cpu") -> nn.Sequential:
    """A fresh network 64-w-w-10."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        return nn.Sequential(*layers).to(device)


def small_network(hidden: int, seed: int, device: str = "cpu") -> nn.Sequential:
    """A fresh network 64-h-10: what one gets by simply having few parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).to(device)


def train(model: nn.Module, data: Data, rate: float, steps: int, seed: int, batch: int = 128) -> float:
    """Adam with a rate that falls to zero; the share of judged pictures named right after the last step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(0, len(data.x), (batch,), generator=order).to(data.x.device)
        optimizer.zero_grad()
        cross_entropy(model(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return (model(data.judged_x).argmax(1) == data.judged_y).float().mean().item()


def best(make: Callable[[], nn.Module], data: Data, rates: Sequence[float], steps: int, seed: int) -> dict[str, Any]:
    """The best rate's score: {rate, score}; the smallest such rate where several tie."""
    scores = {rate: train(make(), data, rate, steps, seed) for rate in rates}
    rate = max(scores, key=lambda r: (scores[r], -r))
    return {"rate": rate, "score": scores[rate]}


def curve(
    width: int, projection: str, data: Data, dims: Sequence[int], rates: Sequence[float], direct: Sequence[float],
    steps: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Score against d for one network: the direct score first (d = D), then d upwards until twice above 90 % of it.

    Args:
        width: hidden units of both layers.
        projection: a kind of `RandomSubspace`.
        data: pictures.
        dims: grid of d, increasing.
        rates, direct: learning rates of z, and of direct training.
        steps: of every run.
        seed: start, projection, batches.

    Returns:
        One row per d with the best rate, and one with `direct`.
    """
    device = str(data.x.device)

    def start() -> nn.Sequential:
        return network(width, seed, device)

    total = sum(p.numel() for p in start().parameters())
    place = {"width": width, "projection": projection, "parameters": total}
    rows = [{**place, "d": total, "direct": True, **best(start, data, direct, steps, seed)}]
    reached = 0
    for d in dims:
        found = best(lambda d=d: RandomSubspace(start(), d, projection, seed), data, rates, steps, seed)
        rows.append({**place, "d": d, "direct": False, **found})
        reached += found["score"] >= 0.9 * rows[0]["score"]
        if reached == 2:
            break
    return rows


def small_networks(
    data: Data, hidden: Sequence[int], rates: Sequence[float], steps: int, seed: int
) -> list[dict[str, Any]]:
    """Networks that have few weights to begin with, trained directly: one row per number of hidden units."""
    rows = []
    for h in hidden:

        def start(h: int = h) -> nn.Sequential:
            return small_network(h, seed, str(data.x.device))

        total = sum(p.numel() for p in start().parameters())
        place = {"width": h, "projection": "none", "parameters": total, "d": total, "direct": True}
        rows.append({**place, **best(start, data, rates, steps, seed)})
    return rows


def in_flat(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows trained in a flat."""
    return rows[~rows["direct"].astype(bool)]


def d90(rows: pd.DataFrame) -> float:
    """d90 of one curve (rows of `curve`, one seed or several), between grid points; infinity when not reached."""
    from workbench.adapters.intrinsic_measure import d_threshold

    baseline = rows.loc[rows["direct"].astype(bool), "score"].mean()
    return d_threshold(in_flat(rows), baseline, between=True, bootstrap=0).d
