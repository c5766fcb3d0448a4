"""Bits per byte: how well a model predicts held-out text, in a unit that does not depend on its tokenizer.

A document of B UTF-8 bytes is cut into tokens t1 … tn; t0 is the end-of-text token that opens every document.

    bits(document) = Σ −log2 p(t_i | up to `window − 1` tokens before it),   bits per byte = Σ bits / Σ B

A window of `window` tokens moves by `stride`; each window scores only the tokens that no earlier window has scored, so
every token but the first few has at least window − stride tokens of context. The sum over tokens is the log-probability
of one segmentation of the text, hence an upper bound on the true bits per byte of the model.

The baselines answer in the same unit: byte and token unigrams fitted on the training part (add-one smoothing), `gzip -9`
and `xz -9e` of the same documents joined, and `xz_primed`, the bytes that xz needs for them after having read the
whole training part: size(train + held-out) − size(train). That one has seen what the model has seen.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

XZ = {"format": lzma.FORMAT_XZ, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]}
BATCH = 16  # windows at once


def windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Where windows begin and end over `length` tokens, and the first position that each one scores.

    Yields:
        (start, stop, first): the window is tokens[start:stop]; the tokens at positions first … stop − 1 are scored.
    """
    first = 1
    for start in range(0, max(1, length), stride):
        stop = min(start + window, length)
        if stop > first:
            yield start, stop, first
        first = stop
        if stop == length:
            return


def document_bits(model: Any, tokenizer: Any, texts: list[str], *, window: int = 256, stride: int = 128) -> list[float]:
    """Bits that a causal language model spends on each text.

    Args:
        model: in eval mode; its logits at position i predict token i + 1.
        tokenizer: its end-of-text token opens each document and is not scored.
        texts: documents.
        window: tokens in a forward pass.
        stride: tokens by which the window moves.

    Returns:
        One number of bits per document.
    """
    import torch

    bits = [0.0] * len(texts)
    jobs = []
    for number, text in enumerate(texts):
        ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        jobs += [(number, ids[start:stop], first - start) for start, stop, first in windows(len(ids), window, stride)]
    jobs.sort(key=lambda job: len(job[1]))
    for at in range(0, len(jobs), BATCH):
        batch = jobs[at : at + BATCH]
        longest = max(len(ids) for _, ids, _ in batch)
        rows = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids, _ in batch], device=model.device)
        with torch.inference_mode():
            scores = model(input_ids=rows).logits[:, :-1].float().log_softmax(-1)  # (B, T − 1, V)
        chosen = scores.gather(-1, rows[:, 1:, None])[..., 0]  # (B, T − 1)
        for (number, ids, first), row in zip(batch, chosen, strict=True):
            bits[number] -= row[first - 1 : len(ids) - 1].double().sum().item() / math.log(2)
    return bits


def unigram_bits(train: Counter, held_out: Counter, symbols: int) -> float:
    """Bits of the held-out counts under add-one frequencies of the training counts over an alphabet of `symbols`."""
    total = sum(train.values()) + symbols
    return -sum(count * math.log2((train[symbol] + 1) / total) for symbol, count in held_out.items())


def baselines(train: list[str], held_out: list[str], tokenizer: Any) -> dict[str, float]:
    """Bits per byte of each baseline on the held-out documents.

    Args:
        train: documents the model has learned from.
        held_out: documents it has not seen.
        tokenizer: for the token unigram.
    """
    seen, unseen = "\n\n".join(train).encode(), "\n\n".join(held_out).encode()
    n_bytes = sum(len(text.encode()) for text in held_out)

    def tokens(texts: list[str]) -> Counter:
        ids = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
        return Counter(chain.from_iterable(ids))

    sizes = {
        "gzip": 8 * len(gzip.compress(unseen, 9, mtime=0)),
        "xz": 8 * len(lzma.compress(unseen, **XZ)),
        "xz_primed": 8 * (len(lzma.compress(seen + unseen, **XZ)) - len(lzma.compress(seen, **XZ))),
        "unigram_bytes": unigram_bits(Counter(seen), Counter(b"".join(t.encode() for t in held_out)), 256),
        "unigram_tokens": unigram_bits(tokens(train), tokens(held_out), len(tokenizer)),
    }
    return {name: bits / n_bytes for name, bits in sizes.items()}
