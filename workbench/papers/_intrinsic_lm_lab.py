"""The laboratory of the page `intrinsic-dimension-lm`: a small encoder, read with words masked, and a task for its stages.

A transformer encoder of 2 layers and width 32 learns to fill masked words in addresses, a novel and the Bible. It is kept
at several points of that training. The task: from which of four sources is a passage of 24 tokens (addresses before 1900,
addresses after, the novel, the Bible)? Documents of the task are not those of the masked reading.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workbench import data, models
from workbench.adapters._subspace_module import RandomSubspace

CLASSES = 4
MASK = 2  # an id of the tokenizer that texts hardly hold
HEAD_RATES = (3e-2, 1e-1)  # of the output layer alone


@dataclass(frozen=True)
class Plan:
    """How much is read and trained.

    Args:
        reading: updates of masked reading.
        stages: shares of it at which the model is kept.
        dims: grid of d.
        rates, direct: learning rates in the flat, and of direct training.
        steps: of every run on the task.
        train, judged: passages.
        width, layers: of the encoder.
        window: tokens of a passage.
        batch: rows per step.
        documents: of each source and part that are read at most.
    """

    reading: int
    stages: tuple[float, ...]
    dims: tuple[int, ...]
    rates: tuple[float, ...]
    direct: tuple[float, ...]
    steps: int
    train: int
    judged: int
    width: int = 32
    layers: int = 2
    window: int = 24
    batch: int = 64
    documents: int = 1000


@dataclass(frozen=True)
class Task:
    """Windows for reading (n, window), and passages with labels for training and judging."""

    read: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    judged_x: torch.Tensor
    judged_y: torch.Tensor
    vocabulary: int


def make_task(plan: Plan, seed: int, device: str = "cpu") -> Task:
    """Cut the shipped texts into windows, split by document, and label those of the task."""
    tokenizer = models.load_tokenizer("tiny-lm")
    draw = torch.Generator().manual_seed(seed)
    read, passages, labels = [], [], []
    for source in ("sotu", "moby-dick", "kjv"):
        parts = data.split(data.load(source), evaluation=0.25, test=0.25, seed=seed)
        for name, examples in parts.items():
            for row in examples.rows[: plan.documents]:
                ids = tokenizer(row["text"][:6000], add_special_tokens=False, verbose=False)["input_ids"]
                windows = [ids[i : i + plan.window] for i in range(0, len(ids) - plan.window + 1, plan.window)]
                if name == "train":
                    read += windows
                else:
                    passages += windows
                    labels += [_label(source, row)] * len(windows)
    x, y = torch.tensor(passages), torch.tensor(labels)
    per_class = (plan.train + plan.judged) // CLASSES
    chosen = []
    for label in range(CLASSES):
        where = (y == label).nonzero()[:, 0]
        chosen.append(where[torch.randperm(len(where), generator=draw)[:per_class]])
    order = torch.cat(chosen)
    order = order[torch.randperm(len(order), generator=draw)]
    x, y, windows = x[order].to(device), y[order].to(device), torch.tensor(read)
    windows = windows[torch.randperm(len(windows), generator=draw)].to(device)
    return Task(windows, x[: plan.train], y[: plan.train], x[plan.train :], y[plan.train :], len(tokenizer))


def _label(source: str, row: dict[str, Any]) -> int:
    if source != "sotu":
        return 2 if source == "moby-dick" else 3
    words = row["group"].replace("-", " ").replace("_", " ").split()
    return int(next(int(word) for word in words if word.isdigit() and len(word) == 4) >= 1900)


class Encoder(nn.Module):
    """Embeddings and positions, pre-norm transformer layers, and an output layer over the mean of the last states.

    Args:
        vocabulary, width, layers, window: sizes.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, window: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.1 * torch.randn(window, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(copy.deepcopy(block) for _ in range(layers))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, CLASSES)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, window) → (n, window, width)."""
        x = self.embedding(ids) * self.embedding.embedding_dim**0.5 + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, window) → (n, 4)."""
        return self.output(self.states(ids).mean(1))


def encoder(plan: Plan, vocabulary: int, seed: int) -> Encoder:
    """A fresh encoder with an output layer for the four sources, without dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(vocabulary, plan.width, plan.layers, plan.window)


def stages(plan: Plan, task: Task, seed: int) -> dict[float, dict[str, torch.Tensor]]:
    """Read with words masked, and keep the model (its output layer fresh) at each share of the updates."""
    model = encoder(plan, task.vocabulary, seed).to(task.x.device)
    kept: dict[float, dict[str, torch.Tensor]] = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    marks = {round(share * plan.reading): share for share in plan.stages}
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 1.0) * max(0.05, 1 - step / max(1, plan.reading))
    )
    draw = torch.Generator().manual_seed(seed)
    for step in range(plan.reading + 1):
        if step in marks:
            kept[marks[step]] = copy.deepcopy(model.state_dict())
        if step == plan.reading:
            break
        ids = task.read[torch.randint(0, len(task.read), (plan.batch,), generator=draw).to(task.read.device)]
        hidden = torch.rand(ids.shape, generator=draw).to(ids.device) < 0.15
        states = model.states(ids.masked_fill(hidden, MASK))[hidden]
        optimizer.zero_grad()
        cross_entropy(states @ model.embedding.weight.T, ids[hidden]).backward()
        optimizer.step()
        schedule.step()
    return kept


def fit(model: nn.Module, task: Task, plan: Plan, rate: float, seed: int) -> dict[str, float]:
    """Adam with a falling rate over all trainable parameters.

    Returns:
        score and train, the accuracy on judged passages and on those trained on; in a flat with numbers of 16 bits.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / plan.steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(plan.steps):
        rows = torch.randint(0, len(task.x), (plan.batch,), generator=draw).to(task.x.device)
        optimizer.zero_grad()
        cross_entropy(model(task.x[rows]), task.y[rows]).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        if isinstance(model, RandomSubspace):
            for number in trained:
                number.copy_(number.half())
        pairs = {"score": (task.judged_x, task.judged_y), "train": (task.x, task.y)}
        return {name: (model(x).argmax(1) == y).float().mean().item() for name, (x, y) in pairs.items()}


def size(plan: Plan, vocabulary: int) -> int:
    """Parameters of the encoder."""
    return sum(p.numel() for p in encoder(plan, vocabulary, 0).parameters())


def start(plan: Plan, task: Task, state: dict[str, torch.Tensor], seed: int) -> nn.Module:
    """A model at one stage of its reading."""
    model = encoder(plan, task.vocabulary, seed).to(task.x.device)
    model.load_state_dict(state)
    return model


def best_of(found: dict[float, dict[str, float]]) -> dict[str, float]:
    """{rate, score, train} of the rate with the best score (the smaller one when tied)."""
    rate = max(found, key=lambda r: (found[r]["score"], -r))
    return {"rate": rate, **found[rate]}


def direct(
    plan: Plan, task: Task, state: dict[str, torch.Tensor], seed: int, head_only: bool = False
) -> dict[str, float]:
    """Best accuracy of training all parameters, or the output layer alone."""
    found = {}
    for rate in plan.direct if not head_only else HEAD_RATES:
        model = start(plan, task, state, seed)
        if head_only:
            model.requires_grad_(False)
            model.output.requires_grad_(True)
        found[rate] = fit(model, task, plan, rate, seed)
    return best_of(found)


def in_flat(
    plan: Plan, task: Task, state: dict[str, torch.Tensor], d: int, structure: bool, seed: int,
    rates: Sequence[float] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Best accuracy with d numbers, every tensor inside the flat (the output layer too)."""
    found = {}
    for rate in plan.rates if rates is None else rates:
        small = RandomSubspace(start(plan, task, state, seed), d, "layerwise_fastfood", seed, structure=structure)
        found[rate] = fit(small, task, plan, rate, seed)
    return best_of(found)


def curve(
    plan: Plan, task: Task, state: dict[str, torch.Tensor], structure: bool, baseline: float, seed: int, **place: Any
) -> list[dict[str, Any]]:
    """Best accuracy at each d, upwards until 90 % of the baseline is reached.

    Args:
        plan, task, state: what is trained, from where.
        structure: a scale for each tensor (SAID).
        baseline: accuracy of direct training.
        seed: projection and batches.
        place: columns that every row gets.
    """
    rows = []
    for d in plan.dims:
        rows.append({**place, "d": d, **in_flat(plan, task, state, d, structure, seed)})
        if rows[-1]["score"] >= 0.9 * baseline:
            break
    return rows
