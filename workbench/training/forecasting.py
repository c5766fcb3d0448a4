"""What a run will cost, from two real steps: seconds, peak memory, bytes of the file.

The dry run takes AdamW steps with learning rate 0: the same work and the same memory as real ones, and every weight stays
as it was to the last bit (p − 0·m/√v = p). The first step takes the longest rows, so that the memory it needs is the
most that any step needs; the second is timed. With `precision="auto"` both arithmetics are timed and the faster is taken.

    seconds = steps · accumulation · t_step · (mean tokens / tokens timed)
            + evaluations · batches · t_forward + checkpoints · t_save
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.training import attach, base
from workbench.training.batches import Order, collator
from workbench.training.config import FinetuneConfig
from workbench.training.meter import Peak
from workbench.training.save import save_weights, weight_bytes

if TYPE_CHECKING:
    from workbench.training.prepare import Prepared

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Forecast:
    """What training will cost.

    Attributes:
        seconds: from the first step to the last checkpoint, evaluations included; loading the model is not.
        peak_bytes: highest memory of the process (on a GPU: of the GPU).
        file_bytes: size of the saved weights.
        trainable: parameters that train.
        total: all parameters.
        precision: arithmetic that will be used.
        step_seconds: one update.
        timed: seconds per forward and backward pass for each precision that was tried.
    """

    seconds: float
    peak_bytes: int
    file_bytes: int
    trainable: int
    total: int
    precision: str
    step_seconds: float
    timed: dict[str, float]


def forecast(config: FinetuneConfig) -> Forecast:
    """Load the model, take two steps that change nothing, and say what the whole run will cost.

    Raises:
        UserError: settings that cannot work (before the model loads).
    """
    from workbench.training.prepare import prepare

    prepared = prepare(config)
    return dry_run(prepared, base.trainable_model(prepared))


def autocast(precision: str) -> Any:
    """The context of a forward pass in `precision`."""
    return torch.autocast(base.device().type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def candidates(precision: str) -> tuple[str, ...]:
    """The precisions worth a dry run: the one asked for, or for "auto" fp32 and, where a probe says it may pay, bf16.

    A processor without bf16 arithmetic emulates it ten times slower: a step of the real model would take minutes to say so,
    one small matrix product says it in milliseconds.
    """
    if precision != "auto":
        return (precision,)
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 512, dtype=dtype, device=base.device())
        a @ a.T
        times[dtype] = min(_seconds(partial(torch.matmul, a, a.T)) for _ in range(3))
    return ("fp32", "bf16") if times[torch.bfloat16] < 1.5 * times[torch.float32] else ("fp32",)


def dry_run(prepared: Prepared, model: torch.nn.Module) -> Forecast:
    """The forecast for a model that is ready to train; its weights and their gradients are left as they were.

    Args:
        prepared: checked settings and rows.
        model: from `base.trainable_model`.
    """
    config = prepared.config
    collate = collator(prepared.tokenizer.pad_token_id)
    order = Order(prepared.train, config.steps * config.batch_size * config.accumulation, config.seed)
    longest = collate(sorted(prepared.train, key=lambda row: -len(row["input_ids"]))[: config.batch_size])
    first = [order[i] for i in range(config.batch_size)]
    typical = collate(first)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    choices = candidates(config.precision)
    timed, peaks = {}, {}
    with attach.quiet():
        for precision in choices:
            with Peak() as meter:
                _step(model, longest, precision, optimizer)
                timed[precision] = _seconds(partial(_step, model, typical, precision, optimizer))
            peaks[precision] = meter.bytes
        precision = min(timed, key=timed.get)
        model.eval()
        with torch.no_grad(), autocast(precision):
            forward = _seconds(partial(model, **_moved(typical))) if prepared.evaluation else 0.0
        model.train()
    del optimizer
    with tempfile.TemporaryDirectory() as scratch:
        save = _seconds(partial(save_weights, model, Path(scratch)))
        file_bytes = weight_bytes(Path(scratch))
    rows = [len(row["input_ids"]) for row in prepared.train]
    scale = sum(rows) / len(rows) * config.batch_size / typical["input_ids"].numel()
    trainable, total = attach.counts(model)
    step = timed[precision] * min(1.0, scale) * config.accumulation
    evaluations = 1 + -(-config.steps // config.eval_every) if prepared.evaluation else 0
    batches = -(-len(prepared.evaluation) // config.batch_size)
    saves = -(-config.steps // (config.save_every or config.eval_every))
    return Forecast(
        seconds=config.steps * step + evaluations * batches * forward + saves * 3 * save,
        peak_bytes=peaks[precision],
        file_bytes=file_bytes,
        trainable=trainable,
        total=total,
        precision=precision,
        step_seconds=step,
        timed=timed,
    )


def _moved(batch: Batch) -> Batch:
    return {name: tensor.to(base.device()) for name, tensor in batch.items()}


def _step(model: torch.nn.Module, batch: Batch, precision: str, optimizer: torch.optim.Optimizer) -> None:
    with autocast(precision):
        loss = model(**_moved(batch)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
