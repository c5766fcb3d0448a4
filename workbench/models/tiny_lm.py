"""Train `tiny-lm`, the small language model that ships with the package.

    python -m workbench.models.tiny_lm [--steps N] [--out DIR]

A Llama of 2.2 M parameters with tied embeddings, on State of the Union addresses, Moby-Dick and the King James Bible.
It learns only from the training part of `workbench.data.split(load(name), seed=0)` of each text; the ids of the other
documents, and the bits the finished model spends on each of them, stand in `training.json` beside the weights.

Data order: every epoch shuffles the documents, joins them with the end-of-text token, and cuts the stream into
windows of 257 tokens from a random offset (256 inputs, 256 targets). Optimizer: AdamW, weight decay on matrices only,
gradient norm clipped at 1. Learning rate: linear warm-up, constant, then linear to zero over the last 40 % of the steps
(warmup-stable-decay; Hu et al. 2024, MiniCPM §4.2). Weights are trained in float32 and stored in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.progress import Progress, ProgressLine, silent

DOMAINS = ("sotu", "moby-dick", "kjv")
CONTEXT, VOCABULARY, BATCH = 256, 2048, 8
SHAPE = {  # every Linear input is a multiple of 64, the default group size of the quantizers
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
STEPS, RATE, WARMUP, DECAY, SEED = 700, 3e-3, 60, 0.4, 0


def corpus() -> dict[str, dict[str, dict[str, str]]]:
    """domain → part ("train", "eval", "test") → document id → text."""
    from workbench.data import load, split

    return {
        name: {
            part: {row["group"]: row["text"] for row in rows.rows} for part, rows in split(load(name), seed=0).items()
        }
        for name in DOMAINS
    }


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step (0 … steps − 1): warm-up, constant, linear decay to zero."""
    return min((step + 1) / WARMUP, 1.0, (steps - step) / (DECAY * steps))


def batches(documents: list[list[int]], end: int, seed: int) -> Iterator[Any]:
    """Endless batches (BATCH, CONTEXT + 1) of token ids, epoch after epoch."""
    import numpy as np
    import torch

    draw = np.random.default_rng(seed)
    left = np.empty((0, CONTEXT + 1), dtype=np.int64)
    while True:
        joined = np.concatenate([[end, *documents[i]] for i in draw.permutation(len(documents))])
        joined = joined[draw.integers(CONTEXT) :]
        rows = joined[: len(joined) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
        left = np.concatenate([left, rows[draw.permutation(len(rows))]])
        while len(left) >= BATCH:
            yield torch.from_numpy(left[:BATCH])
            left = left[BATCH:]


def build(tokenizer: Any) -> Any:
    """A fresh model for a tokenizer; seed torch first."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        **SHAPE,
        **ids,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.generation_config = GenerationConfig(**ids, eos_token_id=ends)
    return model


def train(model: Any, documents: list[list[int]], end: int, steps: int, progress: Progress = silent) -> list[float]:
    """Train in place; returns the loss of every step in nats per token."""
    import torch
    from torch.nn.functional import cross_entropy

    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True)
    losses = []
    model.train()
    for step, rows in zip(range(steps), batches(documents, end, SEED), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate(step, steps)
        logits = model(input_ids=rows[:, :-1]).logits  # (B, T, V)
        loss = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        recent = losses[-20:]
        progress(step + 1, steps, f"step {step + 1} of {steps}, loss {sum(recent) / len(recent):.3f} nats per token")
    model.eval()
    return losses


def measure(model: Any, tokenizer: Any, texts: dict) -> tuple[dict, dict]:
    """Bits per byte of the model and of the baselines on the held-out documents of each domain.

    Returns:
        (domain → {"model", "gzip", "xz", …, "bytes"}, domain → part → document id → bits).
    """
    from workbench.models.bits import baselines, document_bits

    table, spent = {}, {}
    for name, parts in texts.items():
        held_out = parts["eval"] | parts["test"]
        bits = dict(zip(held_out, document_bits(model, tokenizer, list(held_out.values())), strict=True))
        n_bytes = sum(len(text.encode()) for text in held_out.values())
        table[name] = {"model": sum(bits.values()) / n_bytes}
        table[name] |= baselines(list(parts["train"].values()), list(held_out.values()), tokenizer)
        table[name]["bytes"] = n_bytes
        spent[name] = {part: {key: round(bits[key], 2) for key in parts[part]} for part in ("eval", "test")}
    total = sum(row["bytes"] for row in table.values())
    columns = [column for column in table[DOMAINS[0]] if column != "bytes"]
    table["all"] = {c: sum(table[name][c] * table[name]["bytes"] for name in texts) / total for c in columns}
    table["all"]["bytes"] = total
    return {name: {c: round(v, 4) for c, v in row.items()} for name, row in table.items()}, spent


def main(arguments: list[str] | None = None) -> None:
    """Train, measure and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m workbench.models.tiny_lm", description="Train tiny-lm.")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps of {BATCH} × {CONTEXT} tokens")
    parser.add_argument("--out", type=Path, default=None, help="folder to write (default: assets/models/tiny-lm)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps is {options.steps}; give 1 or more")

    import torch
    from transformers import LlamaForCausalLM

    from workbench import machine, paths
    from workbench.models.tiny_tokenizer import train_tokenizer

    out = options.out or paths.assets() / "models" / "tiny-lm"
    began = time.monotonic()
    texts = corpus()
    seen = [text for parts in texts.values() for text in parts["train"].values()]
    tokenizer = train_tokenizer(seen, vocabulary=VOCABULARY, context=CONTEXT)
    documents = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in seen]
    torch.manual_seed(SEED)
    model = build(tokenizer)
    losses = train(model, documents, tokenizer.eos_token_id, options.steps, ProgressLine(sys.stderr))
    seconds = time.monotonic() - began
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)

    shipped = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, trust_remote_code=False).eval()
    table, bits = measure(shipped, tokenizer, texts)
    default = options.out is None and options.steps == STEPS
    record = {
        "command": "python -m workbench.models.tiny_lm" + ("" if default else f" --steps {options.steps}"),
        "parameters": model.num_parameters(),
        "steps": options.steps,
        "tokens_seen": options.steps * BATCH * CONTEXT,
        "tokens_in_training_part": sum(map(len, documents)),
        "batch": [BATCH, CONTEXT],
        "peak_learning_rate": RATE,
        "seed": SEED,
        "seconds": round(seconds),
        **machine.describe(),
        "split": "workbench.data.split(load(name), seed=0); nothing of the parts eval and test was learned from",
        "unit": "bits per UTF-8 byte of the parts eval and test together, window 256 tokens, stride 128",
        "held_out_bits_per_byte": table,
        "losses": [round(sum(part) / len(part), 4) for part in (losses[i : i + 25] for i in range(0, len(losses), 25))],
        "bits_of_held_out_documents": bits,
    }
    (out / "training.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
