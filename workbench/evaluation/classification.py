"""Accuracy of a model with a classification head. Every answer is kept; the most frequent label is the bar to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.data.examples import Examples
from workbench.errors import JobError, UserError
from workbench.evaluation.accuracy import Accuracy, accuracy
from workbench.evaluation.nll import device_of, evaluating, name_of
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

BATCH_TOKENS = 4096  # tokens run together, padding included


def classification_accuracy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    *,
    window: int = 256,
    level: float = 0.95,
    name: str | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Share of passages whose label has the highest logit.

    Args:
        model: sequence-classification head; class i is `examples.labels[i]`.
        tokenizer: its own.
        examples: classification rows.
        window: tokens a text is cut at.
        level: of the interval.
        name: how errors call the model.
        progress: called with classified rows.

    Returns:
        `chance` is the share of the most frequent label among these rows; margins are differences of logits.

    Raises:
        UserError: no rows, another kind of rows, or another number of labels than the head has.
        JobError: the model's logits are not finite.
    """
    name = name or name_of(model)
    if examples.kind != "classification":
        raise UserError(
            f"{examples.source} holds {examples.kind} rows, which have no label; load it as classification."
        )
    if not examples.rows:
        raise UserError(f"{examples.source} has no rows to classify; give a part of the split that has some.")
    if (heads := model.config.num_labels) != len(examples.labels):
        raise UserError(
            f"The head of {name} tells {heads} labels apart but {examples.source} has {len(examples.labels)}; load the "
            f"model with num_labels={len(examples.labels)} or use the data that it was tuned on."
        )
    texts = [row["text"] for row in examples.rows]
    ids = tokenizer(texts, truncation=True, max_length=window)["input_ids"]
    answers = np.array([examples.labels.index(row["label"]) for row in examples.rows])
    logits = _logits(model, tokenizer, ids, progress)
    if not np.isfinite(logits).all():
        raise JobError(
            f"The model {name} gives logits that are not finite (nan or infinity), so it cannot be scored; train it with a "
            "lower rate, or load it in float32."
        )
    right = logits[np.arange(len(ids)), answers]
    others = logits.copy()
    others[np.arange(len(ids)), answers] = -np.inf
    table = pd.DataFrame(
        {
            "item": np.arange(len(ids)),
            "group": [str(row["group"]) for row in examples.rows],
            "correct": right > others.max(1),
            "chosen": logits.argmax(1),
            "answer": answers,
            "margin": right - others.max(1),
        }
    )
    return accuracy(table, float(np.bincount(answers).max() / len(answers)), level)


def _logits(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], progress: Progress
) -> np.ndarray:
    """Logits (rows, labels), rows of similar length together, padded and masked."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    device, out, done = device_of(model), [None] * len(ids), 0
    # A decoder's head reads the last token that is not padding, so it must know the padding token.
    single = getattr(model.config, "pad_token_id", None) is None
    with evaluating(model):
        while done < len(ids):
            size = 1 if single else max(1, BATCH_TOKENS // max(1, len(ids[order[done]])))
            chosen = order[done : done + size]
            batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt", padding_side="right")
            logits = model(**{key: value.to(device) for key, value in batch.items()}).logits
            for i, row in zip(chosen, logits.double().cpu().numpy(), strict=True):
                out[i] = row
            done += len(chosen)
            progress(done, len(ids), f"labels: {done:,} of {len(ids):,} rows")
    return np.stack(out)
