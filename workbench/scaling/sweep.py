"""Our own scaling measurements: tiny decoders × data × learning rate × batch on public-domain text.

    workbench sweep                      # every run that the table does not hold yet; stop it and start it again at will

Each run trains a Llama-architecture decoder on bytes (vocabulary 256, windows of 128) of the training part of the bundled
texts and reports the mean loss in nats per byte over a fixed sample of held-out documents. AdamW (0.9, 0.95), weight decay
0.1, gradient norm 1, 5 % linear warm-up, cosine to a *fixed* final rate 1e-5 (arXiv 2503.04715 shows that a final rate tied
to the peak moves the optimum). Text is never repeated within a run: the largest budget is smaller than the corpus.

Columns: n (parameters without embeddings), n_total, d (training tokens, here bytes), lr, batch_tokens, seed, loss (nats per
token), width, layers, steps, seconds, role ("grid" or "large": the held-out larger models at one learning rate).
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.progress import Progress, silent

WINDOW, VOCABULARY, FINAL_RATE = 128, 256, 1e-5
SIZES = {"32x2": (32, 2), "48x3": (48, 3), "64x4": (64, 4), "96x5": (96, 5), "128x6": (128, 6), "192x6": (192, 6)}
FIELDS = ("n", "n_total", "d", "lr", "batch_tokens", "seed", "loss", "width", "layers", "steps", "seconds", "role")


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run."""

    size: str
    tokens: int
    lr: float
    batch_tokens: int
    seed: int = 0
    role: str = "grid"

    @property
    def key(self) -> tuple:
        """What makes a run the same run in the table."""
        width, layers = SIZES[self.size]
        return width, layers, self.tokens, f"{self.lr:.6g}", self.batch_tokens, self.seed


def default_jobs() -> list[Job]:
    """The shipped sweep: 3 sizes × 3 budgets × 5 rates × 3 batches, two more seeds on the smallest, and 9 larger runs."""
    rates = [2.0**-k for k in (10, 9, 8, 7, 6)]
    jobs = [
        Job(size, tokens, lr, batch)
        for size in ("32x2", "48x3", "64x4")
        for tokens in (131_072, 262_144, 524_288)
        for lr in rates
        for batch in (1024, 2048, 4096)
    ]
    jobs += [Job("32x2", 131_072, lr, 2048, seed) for seed in (1, 2) for lr in rates]
    for size, tokens in (("32x2", 1_048_576), ("48x3", 1_048_576), ("64x4", 1_048_576), ("96x5", 262_144), ("96x5", 524_288),
                         ("96x5", 1_048_576), ("128x6", 262_144), ("128x6", 524_288), ("192x6", 262_144)):  # fmt: skip
        jobs += [Job(size, tokens, 2.0**-8, 2048, role="large")]
    return jobs


def build(size: str, seed: int) -> Any:
    """A fresh decoder; `n` counts everything but the (tied) embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers = SIZES[size]
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, intermediate_size=width * 8 // 3 // 8 * 8, num_hidden_layers=layers,
            num_attention_heads=width // 16, num_key_value_heads=width // 16, vocab_size=VOCABULARY,
            max_position_embeddings=WINDOW, tie_word_embeddings=True,
        )
    )  # fmt: skip


@functools.cache
def corpus(seed: int = 0) -> tuple[Any, Any]:
    """(training bytes in a fixed shuffled order of documents, held-out windows (256, WINDOW + 1)) as int64 tensors."""
    import numpy as np
    import torch

    from workbench.data import load, split

    train: list[bytes] = []
    held: list[bytes] = []
    for name in ("sotu", "moby-dick", "kjv"):
        parts = split(load(name), seed=0)
        train += [row["text"].encode() + b"\n" for row in parts["train"].rows]
        held += [row["text"].encode() + b"\n" for row in parts["test"].rows]
    order = np.random.default_rng(seed).permutation(len(train))
    stream = np.frombuffer(b"".join(train[i] for i in order), dtype=np.uint8).astype(np.int64)
    joined = np.frombuffer(b"".join(held), dtype=np.uint8).astype(np.int64)
    starts = np.linspace(0, len(joined) - WINDOW - 1, 256).astype(int)
    return torch.from_numpy(stream), torch.from_numpy(np.stack([joined[s : s + WINDOW + 1] for s in starts]))


def factor(step: int, steps: int, lr: float) -> float:
    """Share of the peak rate: 5 % warm-up, then half a cosine to FINAL_RATE."""
    warm = max(1, round(0.05 * steps))
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    floor = FINAL_RATE / lr
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def run_job(job: Job) -> dict[str, Any]:
    """Train one decoder and return its row."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    begun = time.perf_counter()
    stream, held = corpus(job.seed)
    steps = job.tokens // job.batch_tokens
    if job.tokens + steps > len(stream):
        raise UserError(
            f"{job.tokens} tokens are more than the {len(stream)} of the corpus; text is never repeated here."
        )
    model = build(job.size, job.seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=job.lr, betas=(0.9, 0.95))
    rows = job.batch_tokens // WINDOW
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = job.lr * factor(step, steps, job.lr)
        start = step * job.batch_tokens
        batch = torch.stack([stream[start + r * WINDOW : start + (r + 1) * WINDOW + 1] for r in range(rows)])
        logits = model(input_ids=batch[:, :-1]).logits
        cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        losses = [
            cross_entropy(model(input_ids=part[:, :-1]).logits.flatten(0, 1), part[:, 1:].flatten()).item()
            for part in held.split(64)
        ]
    width, layers = SIZES[job.size]
    embedding = VOCABULARY * width
    total = model.num_parameters()
    return {
        "n": total - embedding, "n_total": total, "d": job.tokens, "lr": f"{job.lr:.6g}", "batch_tokens": job.batch_tokens,
        "seed": job.seed, "loss": round(sum(losses) / len(losses), 6), "width": width, "layers": layers, "steps": steps,
        "seconds": round(time.perf_counter() - begun, 2), "role": job.role,
    }  # fmt: skip


def done(path: Path) -> set[tuple]:
    """Keys of the runs that the table holds.

    Raises:
        UserError: a table with other columns.
    """
    if not path.is_file():
        return set()
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise UserError(
                f"{path} is not a sweep table (its columns are {', '.join(reader.fieldnames or ())}); name another."
            )
        return {
            (
                int(r["width"]),
                int(r["layers"]),
                int(r["d"]),
                f"{float(r['lr']):.6g}",
                int(r["batch_tokens"]),
                int(r["seed"]),
            )
            for r in reader
        }


def work(job: Job) -> float:
    """Arithmetic of a run up to a factor, plus a constant for starting it: for the order and the time left."""
    width, layers = SIZES[job.size]
    return float(width**2 * layers * job.tokens + 2_000_000_000)


def missing(jobs: Iterable[Job], have: set[tuple]) -> list[Job]:
    """The jobs that are not in the table, cheapest first."""
    return sorted((job for job in jobs if job.key not in have), key=work)


def sweep(
    path: Path, jobs: Iterable[Job] | None = None, *, processes: int | None = None, progress: Progress = silent
) -> int:
    """Run what is missing, cheapest first, one row appended to `path` as each run ends; returns how many were run.

    Args:
        path: CSV table; runs that it holds are skipped, so a sweep can be killed and continued.
        jobs: what to run (default: the shipped sweep).
        processes: runs side by side, one thread each (default: one per core).
        progress: called after every run.
    """
    todo = missing(default_jobs() if jobs is None else jobs, done(path))
    cost = [work(job) for job in todo]
    total, spent = sum(cost), 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    if not todo:
        return 0
    with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), mp_context=_spawn()) as pool:
        waiting = {pool.submit(run_job, job): c for job, c in zip(todo, cost, strict=True)}
        for finished in as_completed(waiting):
            row = finished.result()
            new = not path.is_file()
            with open(path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            spent += waiting[finished]
            progress(spent, total, f"{row['width']} wide, {row['d']} tokens, rate {row['lr']}: loss {row['loss']:.3f}")
    return len(todo)


def _spawn() -> Any:
    import multiprocessing

    return multiprocessing.get_context("spawn")
