"""One cell: train a method on a model with given rows, measure what it cost, answer the questions. Plain data in and out.

The loop is the fine-tuning job's own (same optimizer, schedule, clipping, callbacks of the methods that need them), but the
last weights are judged, nothing is stopped early and nothing is saved: every cell sees the same number of tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import JobError
from workbench.grid.memory import counted
from workbench.grid.sizes import is_head, stored, trained
from workbench.training.config import FinetuneConfig
from workbench.training.methods import Method, find_method

HEAD_ONLY = Method("base", "Trains the classification head alone.", "workbench.grid.cell:only_head", (), 1e-2)
WARM = 5  # first steps that are left out of the step time, at most a quarter


def run(
    cell: dict[str, Any], material: dict[str, Any], scratch: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Train and measure one cell.

    Args:
        cell: from `planning.cell`.
        material: from `material.make`.
        scratch: folder for the Trainer's files and packed bases; nothing stays that another run needs.
        progress: told what is being done.

    Returns:
        The cell with its measurements: {…cell, eval_loss, answers, …} of plain numbers.

    Raises:
        JobError: the numbers broke.
    """
    begun = time.perf_counter()
    prepared = _prepared(cell, material)
    progress("loading")
    model = _model(cell, prepared, scratch)
    found: dict[str, Any] = {"loading_seconds": time.perf_counter() - begun, **_sizes(model, cell)}
    if cell["steps"]:
        found |= _train(cell, prepared, model, scratch, progress)
    if cell["stage"] == "trial":
        progress("evaluation")
        found |= evaluate(model, prepared, material["evaluation"])
    if cell["stage"] == "final":
        progress("test")
        found |= answers(cell, material, model, prepared.tokenizer)
    return {**cell, **found, "seconds": time.perf_counter() - begun}


def _prepared(cell: dict[str, Any], material: dict[str, Any]) -> Any:
    from workbench import models
    from workbench.training.prepare import Prepared

    labels = tuple(material["labels"])
    config = FinetuneConfig(
        model=cell["model"], data=cell["task"], method=cell["method"], method_args=cell["arguments"],
        steps=max(1, cell["steps"]), batch_size=cell["batch_size"], window=cell["window"],
        learning_rate=cell["learning_rate"], precision=cell["precision"], seed=cell["seed"],
        quantize=None if cell["base"] == "none" else cell["base"],
    )  # fmt: skip
    return Prepared(
        config=config, method=HEAD_ONLY if cell["method"] == "base" else find_method(cell["method"]),
        task="sequence-classification" if labels else "causal-lm", ref=None, model_config=None,
        tokenizer=models.load_tokenizer(cell["model"]), labels=labels, train=material["train"],
        evaluation=[], learning_rate=cell["learning_rate"] or 0.0, trainable=0, total=0, file_bytes=0, notes=(),
    )  # fmt: skip


def _model(cell: dict[str, Any], prepared: Any, scratch: Path) -> nn.Module:
    from workbench.training import base

    if cell["method"] != "base":
        packed = scratch / f"base-{cell['key']}" if cell["base"] != "none" else None
        return base.trainable_model(prepared, packed)
    from transformers import set_seed

    set_seed(cell["seed"])
    model = base.load_base(cell["model"], prepared.task, prepared.labels)
    if cell["base"] != "none":
        rows = prepared.train[: base.CALIBRATION_ROWS]
        windows = [torch.tensor([row["input_ids"]]) for row in rows] if cell["base"].startswith("gptq") else None
        base.quantize_base(model, cell["base"], windows)
    if prepared.labels:
        model.config.pad_token_id = prepared.tokenizer.pad_token_id
    model.config.use_cache = False
    return only_head(model.to(base.device())).train()


def only_head(model: nn.Module) -> nn.Module:
    """Freeze all but the classification head (all, where there is none)."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_head(name) and "lm_head" not in name)
    return model


def _sizes(model: nn.Module, cell: dict[str, Any]) -> dict[str, Any]:
    if cell["method"] == "base":
        return {"trainable": 0, "file_bytes": 0, "total": sum(p.numel() for p in model.parameters())}
    return {
        "trainable": trained(model),
        "file_bytes": stored(model),
        "total": sum(p.numel() for p in model.parameters()),
    }


def _train(
    cell: dict[str, Any], prepared: Any, model: nn.Module, scratch: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    from workbench.models.quiet import quiet
    from workbench.training import extras, loop
    from workbench.training.batches import collator
    from workbench.training.meter import Peak

    config = prepared.config
    batch = collator(prepared.tokenizer.pad_token_id)(prepared.train[: config.batch_size])
    memory = counted(model, batch)
    args = loop.arguments(prepared, scratch / f"trainer-{cell['key']}", config.precision, resumed=False)
    args.save_strategy = "no"
    watch = loop.Watch(config, lambda done, total, text: progress(text), lambda: False, None)
    trainer = loop.build(prepared, model, args, [watch, *extras.extras(prepared.method, None)])
    with Peak() as peak, quiet():
        loop.train(trainer, None, scratch)
    times = watch.step_seconds[min(WARM, len(watch.step_seconds) // 4) :]
    return {
        **memory, "peak_bytes": peak.bytes, "step_seconds": statistics.median(times),
        "train_seconds": sum(watch.step_seconds),
        "train_loss": [round(row["loss"], 5) for row in trainer.state.log_history if "loss" in row],
    }  # fmt: skip


def evaluate(model: nn.Module, prepared: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean loss in nats per target, and accuracy when classifying, over encoded rows."""
    from workbench.training.batches import collator

    collate, size = collator(prepared.tokenizer.pad_token_id), 16
    loss = targets = right = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size])
            batch = {name: tensor.to(next(model.parameters()).device) for name, tensor in batch.items()}
            output = model(**batch)
            count = int(batch["labels"].ne(-100).sum())
            loss, targets = loss + float(output.loss) * count, targets + count
            if prepared.labels:
                right += int((output.logits.argmax(-1) == batch["labels"]).sum())
    if not loss == loss or loss in (float("inf"), float("-inf")):
        raise JobError(f"The evaluation loss is {loss}; the learning rate {prepared.learning_rate:g} is too large.")
    found = {"eval_loss": loss / targets}
    return {**found, "eval_accuracy": right / targets} if prepared.labels else found


def answers(cell: dict[str, Any], material: dict[str, Any], model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """Every answer on the test part: the label chosen for each item, or nats and tokens of each document; and what was
    forgotten (loss on general text), where that is asked for."""
    from workbench.data.examples import Examples, Report
    from workbench.evaluation.classification import classification_accuracy
    from workbench.evaluation.perplexity import perplexity

    def part(rows: list[dict[str, Any]], kind: str) -> Examples:
        report = Report(cell["task"], len(rows), len(rows))
        return Examples(kind, rows, cell["task"], report, tuple(material["labels"]))

    if material["labels"]:
        examples = part(material["test"], "classification")
        items = classification_accuracy(model, tokenizer, examples, window=cell["window"]).items
        return {"chosen": items["chosen"].tolist(), "margin": [round(m, 4) for m in items["margin"].tolist()]}
    tokens = cell["test_tokens"]
    text = perplexity(
        model, tokenizer, part(material["test"], material["kind"]), window=cell["window"], max_tokens=tokens
    )
    found: dict[str, Any] = {
        "groups": text.documents["group"].tolist(), "nll": text.documents["nll"].tolist(),
        "tokens": text.documents["tokens"].tolist(),
    }  # fmt: skip
    if material["general"]:
        other = perplexity(
            model, tokenizer, part(material["general"], "text"), window=cell["window"], max_tokens=max(64, tokens // 2)
        )
        found["general_loss"] = float(other.documents["nll"].sum() / other.documents["tokens"].sum())
    return found
