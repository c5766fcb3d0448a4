"""Perplexity over token windows that stay inside a document, with an interval over documents.

    perplexity = exp(Σ nll / Σ tokens)        bits per byte = Σ nll / (ln 2 · Σ bytes of those tokens)

A window shows the model W tokens. The first of a document predicts tokens 1 … W−1, each later one the next S tokens (the
stride, default W − 1), with at least the W − S tokens before them as context:

    W = 5, S = 4    document  0 1 2 3 4 5 6 7 8 9      window 1  [0]1 2 3 4
    [context]                                          window 2         [4]5 6 7 8
                                                       window 3           [5 6 7 8]9     moved back to be full

So each token of a document except the first (which has no context; a begin token counts as context) is predicted once,
and all windows of a long document have W tokens: no batch needs padding. A document shorter than W is one shorter window,
padded on the right, where causal attention cannot see it. Chat and prompt–completion rows: one window each, only the
answers are predicted.

`max_tokens` takes windows round robin over the documents, at hashed positions, so that few tokens still speak for many
documents, each with about the same weight; the same settings give the same windows for every model.

The interval resamples documents (not tokens) and takes Σ nll/Σ tokens anew: percentiles, widened for few documents
(simulated, 12 documents: 94 % coverage; 90 % without, and BCa 93 % with the widening).
Perplexity is per token of the model's own tokenizer; between tokenizers compare bits per byte.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.data.examples import Examples
from workbench.data.format import encoder, start_ids
from workbench.errors import UserError
from workbench.evaluation.nll import Scorer, check_ids, evaluating
from workbench.evaluation.statistics import bootstrap_ratio
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

CPU_TOKENS, CUDA_TOKENS = 512, 16_384  # tokens per batch; on CPU 512 were measured 1.4 × faster than 1 024 (cache)


@dataclass(frozen=True)
class Perplexity:
    """Perplexity with its 95 % interval, and what it was measured on.

    Attributes:
        value, low, high: perplexity per token; low and high are nan for a single document.
        bits_per_byte: the same loss per byte of text; nan for chat and prompt–completion rows.
        documents: per document group, nll (nats, summed), tokens (predicted), bytes.
        window, stride: tokens seen at once, tokens predicted per window.
        tokens: predicted tokens in all.
    """

    value: float
    low: float
    high: float
    bits_per_byte: float
    documents: pd.DataFrame
    window: int
    stride: int
    tokens: int


class Document(NamedTuple):
    """Token ids of one row, which of them are predicted, and the bytes each stands for (None where that is not defined)."""

    group: str
    ids: np.ndarray
    wanted: np.ndarray
    bytes: np.ndarray | None


class Window(NamedTuple):
    """Tokens [start, stop) of document `doc`, of which [first, stop) are predicted."""

    doc: int
    start: int
    first: int
    stop: int


def tokenize(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """Rows of any kind but classification as token ids; empty texts are left out.

    Raises:
        UserError: no row is left, or the kind has labels instead of text to predict.
    """
    if examples.kind == "classification":
        raise UserError(
            f"{examples.source} asks for labels, not for text; use classification_accuracy, or load it as text."
        )
    read = _text if examples.kind == "text" else _answer
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    found = [document for row in examples.rows if (document := read(row, tokenizer, plain, start)).wanted.any()]
    if not found:
        raise UserError(
            f"{examples.source} has {len(examples.rows)} rows, and none holds two tokens in a row to predict; check that "
            "its text column is not empty."
        )
    return found


def _text(row: dict, tokenizer: PreTrainedTokenizerBase, plain, start: list[int]) -> Document:
    text = row["text"]
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    ids = np.array(start + encoded["input_ids"], dtype=np.int64)
    wanted = np.arange(len(ids)) > 0
    if tokenizer.is_fast:  # bytes up to the end of each token; the pieces of one character share an end, and telescope
        until = np.concatenate([[0], np.cumsum([len(c.encode("utf-8", "surrogatepass")) for c in text])])
        ends = np.array([0, *(until[end] for _, end in encoded["offset_mapping"])])
        size = np.concatenate([np.zeros(len(start)), np.diff(ends)])
    else:
        size = np.full(len(ids), len(text.encode("utf-8", "surrogatepass")) / max(1, len(ids)))
    return Document(str(row["group"]), ids, wanted, size)


def _answer(row: dict, tokenizer: PreTrainedTokenizerBase, plain, start: list[int]) -> Document:
    from workbench.data.encode import IGNORE, answer_ids

    ids, labels = answer_ids(row, tokenizer, plain, start)
    wanted = np.array(labels, dtype=np.int64) != IGNORE
    wanted[:1] = False
    return Document(str(row["group"]), np.array(ids, dtype=np.int64), wanted, None)


def cut(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, first predicted, stop) of the windows of a document of `length` tokens. See the module's text."""
    found, first = [], 1
    while first < length:
        stop = min(first + stride if first > 1 else window, length)
        found.append((max(0, stop - window), first, stop))
        first = stop
    return found


def plan(documents: list[Document], window: int, stride: int, max_tokens: int | None) -> list[Window]:
    """The windows that are scored: all, or a deterministic subset of at most `max_tokens` predicted tokens."""
    queues = []
    for number, document in enumerate(documents):
        pieces = [Window(number, *piece) for piece in cut(len(document.ids), window, stride)]
        pieces = [p for p in pieces if document.wanted[p.first : p.stop].any()]
        if max_tokens is not None:  # full windows first: a window moved back costs more than it predicts
            pieces.sort(key=lambda p, d=document: (p.stop - p.first < stride, _hash(d.group, p.start)))
        queues.append(pieces)
    if max_tokens is None:
        return [piece for pieces in queues for piece in pieces]
    order = sorted(range(len(documents)), key=lambda i: _hash(documents[i].group, len(documents[i].ids)))
    chosen, left = [], max_tokens
    for turn in range(max(map(len, queues))):
        for number in order:
            if turn < len(queues[number]):
                piece = queues[number][turn]
                cost = int(documents[number].wanted[piece.first : piece.stop].sum())
                if cost <= left:
                    chosen.append(piece)
                    left -= cost
    if not chosen:
        raise UserError(f"max_tokens = {max_tokens} is less than one window predicts; use {stride} or more.")
    return chosen


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def batches(windows: list[Window], tokens: int) -> Iterator[list[Window]]:
    """Windows of about equal length together, `tokens` per batch; equal lengths need no padding."""
    ordered = sorted(windows, key=lambda w: w.start - w.stop)
    while ordered:
        rows = max(1, tokens // (ordered[0].stop - ordered[0].start))
        yield ordered[:rows]
        ordered = ordered[rows:]


def perplexity(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    *,
    window: int = 256,
    stride: int | None = None,
    max_tokens: int | None = None,
    level: float = 0.95,
    name: str | None = None,
    progress: Progress = silent,
) -> Perplexity:
    """Measure how well `model` predicts held-out text.

    Args:
        model: a causal language model.
        tokenizer: its own.
        examples: text, chat or prompt–completion rows; `group` names the document.
        window: tokens seen at once.
        stride: tokens predicted per window, 1 to window − 1 (the default). Smaller gives more context and costs more.
        max_tokens: predicted tokens at most; None predicts all.
        level: of the interval.
        name: how errors call the model.
        progress: called with predicted tokens.

    Raises:
        UserError: nothing to predict, every document shorter than the window, a window or stride out of range.
        JobError: the model's logits are not finite.
    """
    if window < 2:
        raise UserError(f"A window of {window} tokens has nothing to predict; use 2 or more.")
    stride = window - 1 if stride is None else stride
    if not 1 <= stride < window:
        raise UserError(f"The stride is {stride}; give 1 to {window - 1}, below the window of {window} tokens.")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; give 1 or more, or leave it out to use all tokens.")
    documents = tokenize(examples, tokenizer)
    longest = max(len(document.ids) for document in documents)
    if examples.kind == "text" and longest < window:
        raise UserError(
            f"All {len(documents)} documents of {examples.source} are shorter than one window of {window} tokens (the "
            f"longest has {longest}); use window={longest} or less, or join short documents."
        )
    if examples.kind != "text":
        documents = [d._replace(ids=d.ids[:window], wanted=d.wanted[:window]) for d in documents]
        documents = [d for d in documents if d.wanted.any()]
        if not documents:
            raise UserError(
                f"A window of {window} tokens ends before every answer of {examples.source}; use {longest}."
            )
    scorer = Scorer(model, name)
    check_ids(scorer, max(int(document.ids.max()) for document in documents), min(window, longest))
    windows = plan(documents, window, stride, max_tokens)
    nll, tokens, size = _score(scorer, documents, windows, progress)
    table = pd.DataFrame({"group": [d.group for d in documents], "nll": nll, "tokens": tokens, "bytes": size})
    table = table[table["tokens"] > 0].groupby("group", sort=False, as_index=False).sum(min_count=1)
    mean = bootstrap_ratio(table["nll"], table["tokens"], level=level, method="percentile", widen=True)
    bits = (
        float(table["nll"].sum() / (math.log(2) * table["bytes"].sum())) if table["bytes"].notna().all() else math.nan
    )
    ends = [math.exp(end) for end in (mean.value, mean.low, mean.high)]
    return Perplexity(*ends, bits, table, window, stride, int(table["tokens"].sum()))


def _score(
    scorer: Scorer, documents: list[Document], windows: list[Window], progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Summed nll, predicted tokens and their bytes by document, from one pass over `windows`."""
    nll, tokens, size = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64), np.zeros(len(documents))
    total = sum(int(documents[w.doc].wanted[w.first : w.stop].sum()) for w in windows)
    with evaluating(scorer.model):
        for batch in batches(windows, CUDA_TOKENS if scorer.device.type == "cuda" else CPU_TOKENS):
            width = max(w.stop - w.start for w in batch)
            ids, wanted = np.empty((len(batch), width), dtype=np.int64), np.zeros((len(batch), width), dtype=bool)
            for row, w in enumerate(batch):
                piece = documents[w.doc].ids[w.start : w.stop]
                ids[row, : len(piece)], ids[row, len(piece) :] = piece, piece[-1]
                wanted[row, w.first - w.start : len(piece)] = documents[w.doc].wanted[w.first : w.stop]
            found = scorer.batch_nll(
                torch.from_numpy(ids).to(scorer.device), torch.from_numpy(wanted).to(scorer.device)
            ).double()
            sums = found.sum(1).tolist()
            for row, w in enumerate(batch):
                document = documents[w.doc]
                nll[w.doc] += sums[row]
                tokens[w.doc] += wanted[row].sum()
                size[w.doc] += math.nan if document.bytes is None else document.bytes[w.first : w.stop].sum()
            progress(tokens.sum(), total, f"perplexity: {tokens.sum():,} of {total:,} tokens")
    return nll, tokens, size
