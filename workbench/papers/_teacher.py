"""An endless labelled stream and two kinds of small network: the laboratory of the page `predictable-empirically`.

Inputs are 16 standard normal numbers; a random network of 32 tanh units, drawn once per seed, names one of 10 classes. With
`noise` a label is replaced, with that probability, by a class drawn at random: then no model can do better than an error of
0.9 · noise on labels of the same kind. Students: one ReLU layer (`relu`), or two tanh layers of half the width each (`tanh`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

INPUTS, CLASSES, TEACHER = 16, 10, 32


@dataclass(frozen=True)
class Stream:
    """Training rows (a pool to take prefixes of), a validation set and a test set, all from one teacher."""

    x: torch.Tensor  # (pool, 16)
    y: torch.Tensor  # (pool,)
    validation: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]

    @property
    def guess(self) -> float:
        """Test error of always naming the most frequent class."""
        return 1.0 - int(torch.bincount(self.test[1], minlength=CLASSES).max()) / len(self.test[1])


def stream(seed: int, pool: int, validation: int, test: int, noise: float = 0.0) -> Stream:
    """Draw a teacher and its labelled rows.

    Args:
        seed: of teacher, rows and label noise.
        pool, validation, test: numbers of rows.
        noise: share of labels replaced by a random class, in all three parts.
    """
    rng = torch.Generator().manual_seed(1000 + seed)
    first = torch.randn(INPUTS, TEACHER, generator=rng) / INPUTS**0.5
    last = torch.randn(TEACHER, CLASSES, generator=rng)
    x = torch.randn(pool + validation + test, INPUTS, generator=rng)
    y = (torch.tanh(x @ first) @ last).argmax(1)
    replaced = torch.rand(len(y), generator=rng) < noise
    y = torch.where(replaced, torch.randint(0, CLASSES, (len(y),), generator=rng), y)
    parts = [slice(0, pool), slice(pool, pool + validation), slice(pool + validation, None)]
    return Stream(x[parts[0]], y[parts[0]], *((x[part], y[part]) for part in parts[1:]))


def student(architecture: str, width: int, seed: int) -> nn.Module:
    """A network of `width` hidden units: `relu` has them in one layer, `tanh` in two of half the width."""
    torch.manual_seed(seed)
    if architecture == "relu":
        return nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, CLASSES))
    half = width // 2
    return nn.Sequential(nn.Linear(INPUTS, half), nn.Tanh(), nn.Linear(half, half), nn.Tanh(), nn.Linear(half, CLASSES))


def error(model: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Share of rows that the model names wrongly."""
    with torch.no_grad():
        return int((model(part[0]).argmax(1) != part[1]).sum()) / len(part[1])


def train(
    data: Stream, rows: np.ndarray, architecture: str, width: int, seed: int, *, rate: float = 1e-2, patience: int = 10,
    cuts: int = 2, limit: int = 8000,
) -> tuple[float, float]:  # fmt: skip
    """Train until the validation error stops falling, cut the rate by five, go on from the best, and again.

    Args:
        data: the stream.
        rows: which rows of its pool are trained on.
        architecture, width: the student.
        seed: starting values and order of rows.
        rate: Adam's first learning rate.
        patience: looks at the validation set without a new best before a cut.
        cuts: how often the rate is cut before training ends.
        limit: steps at most.

    Returns:
        (best validation error, test error of that very state)
    """
    x, y = data.x[rows], data.y[rows]
    model = student(architecture, width, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    order = torch.Generator().manual_seed(seed)
    batch = min(len(x), 128 if len(x) < 2048 else 256)
    every = max(10, len(x) // batch)  # steps between looks: an epoch, but no fewer than ten
    best, kept, waited, left, step = error(model, data.validation), copy.deepcopy(model.state_dict()), 0, cuts, 0
    while step < limit:
        for start in range(0, len(x) - batch + 1, batch):
            if start == 0:
                shuffled = torch.randperm(len(x), generator=order)
            pick = shuffled[start : start + batch]
            loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            if step % every:
                continue
            now = error(model, data.validation)
            waited += 1
            if now < best:
                best, kept, waited = now, copy.deepcopy(model.state_dict()), 0
            if waited >= patience:
                if not left:
                    step = limit
                    break
                model.load_state_dict(kept)
                left, waited = left - 1, 0
                for group in optimizer.param_groups:
                    group["lr"] /= 5
    model.load_state_dict(kept)
    return best, error(model, data.test)
