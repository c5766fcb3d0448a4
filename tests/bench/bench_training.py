"""Overhead of a training step through our job, next to a bare loop with the same peft LoRA on the same rows.

    python tests/bench/bench_training.py [model ...]        (default: tiny-lm, smollm2-135m)

The bare loop is what one writes by hand: batch, forward, backward, clip, AdamW, schedule, `loss.item()`. It runs on a twin
of the model inside the job's own loop, one bare step after each job step, so that both see the same machine at the same
moment. A job step is everything else between two bare steps: data, callbacks, logging of every step, metrics to disk.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback, get_linear_schedule_with_warmup

from workbench.training import FinetuneConfig, base, loop
from workbench.training.batches import Order, collator
from workbench.training.prepare import prepare

SETTINGS = {  # enough work that a step is not only dispatch, little enough for a minute
    "tiny-lm": {"steps": 60, "batch_size": 8, "window": 128},
    "smollm2-135m": {"steps": 12, "batch_size": 2, "window": 64},
}
WARM_UP = 3


class Bare(TrainerCallback):
    """Takes a bare step after each job step and keeps the seconds of both."""

    def __init__(self, prepared) -> None:
        config = prepared.config
        self.model = base.trainable_model(prepared)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=prepared.learning_rate, weight_decay=0.0)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, config.steps)
        rows = Order(prepared.train, config.steps * config.batch_size, config.seed)
        self.loader = iter(
            torch.utils.data.DataLoader(rows, config.batch_size, collate_fn=collator(prepared.tokenizer.pad_token_id))
        )
        self.trained, self.clip = trained, config.max_grad_norm
        self.job, self.bare, self.losses = [], [], []

    def step(self) -> float:
        """One update of the twin."""
        batch = {name: tensor.to(base.device()) for name, tensor in next(self.loader).items()}
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss.item()

    def on_train_begin(self, args, state, control, **_) -> None:
        self.left = time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        entered = time.perf_counter()
        self.job.append(entered - self.left)
        self.losses.append(self.step())
        self.left = time.perf_counter()
        self.bare.append(self.left - entered)


def measure(model: str, data: str = "moby-dick", **settings) -> dict:
    """Median seconds of a job step and of a bare step, interleaved, and the ratio of the medians."""
    settings = {**SETTINGS.get(model, {"steps": 60, "batch_size": 4, "window": 64}), **settings}
    config = FinetuneConfig(model, data, precision="fp32", evaluation=0.0, save_every=10**6, warmup=0.0, **settings)
    prepared = prepare(config)
    twin = Bare(prepared)
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "metrics.jsonl", "w") as file:
        watch = loop.Watch(
            config, lambda *_: None, lambda: False, lambda **row: print(json.dumps(row), file=file, flush=True)
        )
        args = loop.arguments(prepared, Path(scratch) / "checkpoints", "fp32", resumed=False)
        trainer = loop.build(prepared, base.trainable_model(prepared), args, [twin, watch])
        loop.train(trainer, None, Path(scratch))
    job = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    apart = max(abs(a - b) / b for a, b in zip(job, twin.losses, strict=True))
    a, b = statistics.median(twin.job[WARM_UP:]), statistics.median(twin.bare[WARM_UP:])
    return {"model": model, "job": a, "bare": b, "ratio": a / b, "apart": apart, "n": len(job) - WARM_UP, **settings}


def main(models: list[str]) -> None:
    """Print one line per model."""
    print("model             job step   bare step   ratio (bound 1.05)   losses differ by")
    for model in models:
        row = measure(model)
        print(
            f"{row['model']:16} {row['job'] * 1e3:8.1f} ms {row['bare'] * 1e3:8.1f} ms   {row['ratio']:.3f}"
            f"                {row['apart']:.1e}    (batch {row['batch_size']} × {row['window']}, median of {row['n']})"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["tiny-lm", "smollm2-135m"])
