"""The experiment of lesson 01: train the shipped model on another text in several ways, and look at what moved.

Task, batches and scoring are those of the pages about adapters (`workbench.papers._transfer`): Python source code, which
the model has never read. Every way gets the same batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from workbench import lesson_lora
from workbench.papers import _transfer
from workbench.progress import Progress, silent
from workbench.training.attach import train_all, train_last

PLANS = {
    "smoke": _transfer.Plan("tiny-lm", window=32, batch=2, steps=2, evaluated=4, tested=4, documents=10),
    "small": _transfer.Plan("tiny-lm", window=64, batch=8, steps=60, evaluated=32, tested=96, documents=60),
}
RATES = {"full": 1e-3, "last-n": 2e-3, "lora": 1e-2}  # usual values, not tuned: a fair comparison sweeps them
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = KINDS[:4]


def task(scale: str, seed: int) -> _transfer.Task:
    """The language task at a scale: model, and windows of train, eval and test.

    Args:
        scale: `smoke` or `small`.
        seed: of the split and the order.
    """
    return _transfer.language_task(PLANS[scale], seed, "cpu")


def full(model: nn.Module) -> nn.Module:
    """Every number trains."""
    train_all(model)
    return model


def last(layers: int) -> Callable[[nn.Module], nn.Module]:
    """The last layers and the final norm train."""

    def wrap(model: nn.Module) -> nn.Module:
        train_last(model, layers)
        return model

    return wrap


def lora(r: int, targets: tuple[str, ...] = KINDS) -> Callable[[nn.Module], nn.Module]:
    """Our twenty lines on the named matrices."""
    return lambda model: lesson_lora.add_lora(model, targets, r=r, alpha=2.0 * r)


@dataclass(frozen=True)
class Trained:
    """One way to fine-tune, done.

    Attributes:
        name: how it is shown.
        method: `full`, `last-n` or `lora`, for the colour.
        numbers: how many were trained.
        loss: nats per token on modules not seen.
        weights: every matrix of the model afterwards, LoRA's products put in.
    """

    name: str
    method: str
    numbers: int
    loss: float
    weights: Mapping[str, torch.Tensor]


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weight matrices of the layers, by name."""
    return {
        name: layer.weight.detach().clone()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in KINDS
    }


def train(
    this: _transfer.Task, name: str, method: str, wrap: Callable[[nn.Module], nn.Module], seed: int = 0
) -> Trained:
    """Train one way on a copy of the task's model and score it on the test part.

    Args:
        this: from `task`.
        name: how it is shown.
        method: `full`, `last-n` or `lora`; decides the learning rate.
        wrap: makes the model trainable.
        seed: of LoRA's start and the order of the batches.
    """
    model, _ = _transfer.train(this, wrap, RATES[method], seed)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    loss = _transfer.score(model, this, "test")
    return Trained(name, method, numbers, loss, matrices(lesson_lora.merge_lora(model)))


def untouched(this: _transfer.Task) -> Trained:
    """The model as it is."""
    base = copy.deepcopy(this.base)
    return Trained("base", "base", 0, _transfer.score(base, this, "test"), matrices(base))


def all_ways(this: _transfer.Task, seed: int = 0, progress: Progress = silent) -> dict[str, Trained]:
    """The model as it is, everything trained, the last layer, and LoRA of rank 8 on every matrix.

    Args:
        this: from `task`.
        seed: of the training.
        progress: told after each.
    """
    plans = [("full", "full", full), ("last layer", "last-n", last(1)), ("LoRA r=8", "lora", lora(8))]
    found = {"base": untouched(this)}
    for done, (name, method, wrap) in enumerate(plans):
        progress(done, len(plans), f"training: {name}")
        found[name] = train(this, name, method, wrap, seed)
    progress(len(plans), len(plans), "done")
    return found


def table(found: Mapping[str, Trained]) -> pd.DataFrame:
    """Numbers trained, their share, and the loss on unseen modules; one row for each way."""
    total = found["full"].numbers
    rows = {
        way.name: {"numbers trained": way.numbers, "share": way.numbers / total, "loss (nats per token)": way.loss}
        for way in found.values()
    }
    return pd.DataFrame(rows).T.astype({"numbers trained": int})


def change_rows(found: Mapping[str, Trained]) -> pd.DataFrame:
    """Columns method, layer, kind, change: ‖ΔW‖ / ‖W‖ of every matrix under every way, for `figures.changes`."""
    base = found["base"].weights
    rows = []
    for way in found.values():
        for name, after in way.weights.items():
            if way.method != "base":
                parts = name.split(".")
                moved = float((after - base[name]).norm() / base[name].norm())
                rows.append((way.name, parts[2], parts[-1].removesuffix("_proj"), moved))
    return pd.DataFrame(rows, columns=["method", "layer", "kind", "change"])


def spectrum_rows(found: Mapping[str, Trained], matrix: str) -> pd.DataFrame:
    """Columns method, index, value: singular values of one matrix's change, for `figures.spectra`.

    Args:
        found: from `all_ways`.
        matrix: name such as `model.layers.3.self_attn.v_proj`.
    """
    base = found["base"].weights[matrix]
    rows = []
    for way in found.values():
        delta = way.weights[matrix] - base
        if float(delta.norm()) > 0:
            rows += [(way.method, i, float(v)) for i, v in enumerate(torch.linalg.svdvals(delta), 1)]
    return pd.DataFrame(rows, columns=["method", "index", "value"])


def points(found: Mapping[str, Trained]) -> pd.DataFrame:
    """Columns name, method, trainable, loss: every trained way, for `figures.pareto`."""
    rows = [(way.name, way.method, way.numbers, way.loss) for way in found.values() if way.method != "base"]
    return pd.DataFrame(rows, columns=["name", "method", "trainable", "loss"])
