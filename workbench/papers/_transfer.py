"""Two small transfer tasks that pages about adapters share: another text domain, and a classification.

`python`: the shipped language model has read addresses, a novel and the Bible; it learns the source code of this
interpreter's standard library (measure: nats per token on modules it has not seen).
`century`: passages of State of the Union addresses, in which century were they said (measure: share right, on
addresses not seen). Its new output layer is trained in every arm, at one fixed learning rate.

Both are split by document. `train` makes the same number of steps on the same batches for every arm.
"""

from __future__ import annotations

import copy
import math
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench import data, models
from workbench.data import Examples
from workbench.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig

HEAD = "score"  # the classification layer of a Llama
HEAD_RATE = 3e-3


@dataclass(frozen=True)
class Plan:
    """How much of one task is run.

    Args:
        model: name of the model.
        window: tokens per row.
        batch: rows per step.
        steps: optimizer steps.
        evaluated: rows of the eval part that choose the learning rate.
        tested: rows of the test part that give the result.
        documents: modules of the standard library that are read (task `python` only).
    """

    model: str
    window: int
    batch: int
    steps: int
    evaluated: int
    tested: int
    documents: int = 0


@dataclass(frozen=True)
class Task:
    """One transfer task: a model that is copied for every run, and encoded windows.

    Args:
        name: `python` or `century`.
        metric: `loss` (nats per token, lower is better) or `accuracy` (share, higher is better).
        base: the untouched model.
        parts: train, eval and test, each a dict of tensors with one window per row.
        plan: how much of it is run.
    """

    name: str
    metric: str
    base: nn.Module
    parts: dict[str, dict[str, torch.Tensor]]
    plan: Plan


def standard_library(limit: int) -> Examples:
    """Public top-level modules of this interpreter's standard library, one document per module.

    Args:
        limit: at most so many modules, evenly spread over the alphabet.

    Raises:
        UserError: when the interpreter ships no source files.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = [path for path in sorted(folder.glob("[a-z]*.py")) if path.stat().st_size > 2000]
    if len(names) < 10:
        raise UserError(f"The standard library in {folder} has no source files; use an interpreter that ships them.")
    keep = min(limit, len(names))
    paths = [names[index * len(names) // keep] for index in range(keep)]
    rows = [{"text": path.read_text(encoding="utf-8", errors="replace"), "group": path.stem} for path in paths]
    return Examples("text", rows, "standard library", data.Report("standard library", len(rows), len(rows)))


def language_task(plan: Plan, seed: int, device: str) -> Task:
    """The task `python`."""
    tokenizer = models.load_tokenizer(plan.model)
    parts = data.split(standard_library(plan.documents), evaluation=0.15, test=0.2, seed=seed)
    tensors = {}
    for name, examples in parts.items():
        rows = [row["input_ids"] for row in data.encode(examples, tokenizer, window=plan.window)]
        ids = torch.tensor([row for row in rows if len(row) == plan.window])[wanted(len(rows), name, plan, seed)]
        tensors[name] = {"input_ids": ids.to(device), "labels": ids.to(device)}
    return Task("python", "loss", models.load_model(plan.model, device=device), tensors, plan)


def classification_task(plan: Plan, seed: int, device: str) -> Task:
    """The task `century`."""
    tokenizer = models.load_tokenizer(plan.model)
    examples = data.load("sotu-century")
    labels = {label: index for index, label in enumerate(sorted({row["label"] for row in examples.rows}))}
    tensors = {}
    for name, part in data.split(examples, evaluation=0.15, test=0.2, seed=seed).items():
        rows = [part.rows[index] for index in wanted(len(part.rows), name, plan, seed)]
        encoded = tokenizer(
            [row["text"] for row in rows], padding="max_length", truncation=True, max_length=plan.window,
            return_tensors="pt", padding_side="right",
        )  # fmt: skip
        tensors[name] = {
            "input_ids": encoded["input_ids"].to(device),
            "attention_mask": encoded["attention_mask"].to(device),
            "labels": torch.tensor([labels[row["label"]] for row in rows], device=device),
        }
    torch.manual_seed(seed)
    model = models.load_model(plan.model, task="sequence-classification", num_labels=len(labels), device=device)
    return Task("century", "accuracy", model, tensors, plan)


TASKS = {"python": language_task, "century": classification_task}


def attach(model: nn.Module, config: PeftConfig) -> nn.Module:
    """`get_peft_model` without the notice that peft 0.21 gives on transformers 5 (a renamed attribute)."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def wanted(count: int, part: str, plan: Plan, seed: int) -> list[int]:
    """Which rows of a part are used: all that training can come to see, and a seeded sample for eval and test."""
    most = {"train": plan.batch * plan.steps, "eval": plan.evaluated, "test": plan.tested}[part]
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].tolist()


def batches(part: dict[str, torch.Tensor], size: int, steps: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """`steps` batches of `size` rows, in the same order for every arm; rows come again once all were seen."""
    generator = torch.Generator().manual_seed(seed)
    count = len(part["input_ids"])
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(math.ceil(size * steps / count))])
    for step in range(steps):
        rows = order[step * size : (step + 1) * size].to(part["input_ids"].device)
        yield {name: tensor[rows] for name, tensor in part.items()}


@torch.no_grad()
def score(model: nn.Module, task: Task, part: str, size: int = 32) -> float:
    """The task's metric on one part: mean nats per token, or share of passages right."""
    model.eval()
    total = count = 0.0
    for start in range(0, len(task.parts[part]["input_ids"]), size):
        batch = {name: tensor[start : start + size] for name, tensor in task.parts[part].items()}
        labels = batch.pop("labels")
        logits = model(**batch).logits.float()
        if task.metric == "accuracy":
            total += (logits.argmax(-1) == labels).sum().item()
            count += len(labels)
        else:
            flat = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            total += flat.item()
            count += labels[:, 1:].numel()
    return total / count


def train(task: Task, wrap: Callable[[nn.Module], nn.Module] | None, rate: float, seed: int) -> tuple[nn.Module, int]:
    """Train one arm on a copy of the task's model.

    Args:
        task: what is learned.
        wrap: puts the adapter on a copy of the base model; None trains only the output layer (nothing for `python`).
        rate: peak learning rate of the adapter (of the output layer where that is all there is).
        seed: order of the batches and starting values.

    Returns:
        The trained model and how many numbers its adapter trains (output layer not counted).
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(task.base).requires_grad_(False)
    if wrap is not None:
        model = wrap(model)
    adapter = [p for p in model.parameters() if p.requires_grad]
    head = [p for name, p in model.named_parameters() if f"{HEAD}." in name] if task.metric == "accuracy" else []
    for parameter in head:
        parameter.requires_grad_(True)
    trained = [*adapter, *head]
    if trained:
        groups = [{"params": adapter, "lr": rate}, {"params": head, "lr": HEAD_RATE if adapter else rate}]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        for _ in updates(task, model, optimizer, trained, seed):
            pass
    return model, sum(p.numel() for p in adapter)


def updates(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], seed: int
) -> Iterator[int]:
    """Train on the task's training part, gradients clipped at 1, the rate rising over a tenth of the steps and then falling.

    Args:
        task: what is learned, and for how long.
        model: with everything attached; put into training mode.
        optimizer: over `trained`.
        trained: parameters whose gradients are clipped together.
        seed: order of the batches.

    Yields:
        the number of updates made, after each.
    """
    plan = task.plan
    warm = max(1, plan.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (plan.steps - step) / max(1, plan.steps - warm))
    )
    model.train()
    for step, batch in enumerate(batches(task.parts["train"], plan.batch, plan.steps, seed), 1):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        yield step
