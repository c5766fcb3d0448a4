"""Multiple choice: which passage goes on from here? Scored by the log-probability the model gives each choice.

    score(choice) = log p(choice | context) / tokens of the choice

The context is read once per question: its keys and values are repeated for the choices, which then run as one
right-padded batch (attention is causal, so padding behind a choice is invisible). Where a model has no such cache, or an
adapter puts virtual tokens before every call, context and choice run as whole rows with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.data.format import encoder, start_ids
from workbench.errors import UserError, choose
from workbench.evaluation.accuracy import Accuracy, accuracy
from workbench.evaluation.nll import Scorer, check_ids, evaluating
from workbench.evaluation.passages import Item, passage_choice
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["Item", "multiple_choice", "passage_choice"]

CPU_TOKENS, CUDA_TOKENS = 512, 16_384  # tokens of contexts and choices run together


class _Question(NamedTuple):
    number: int
    context: list[int]
    choices: list[list[int]]


def multiple_choice(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    progress: Progress = silent,
    *,
    normalize: str = "tokens",
    level: float = 0.95,
    name: str | None = None,
) -> Accuracy:
    """Let `model` answer `items`.

    Args:
        model: a causal language model.
        tokenizer: its own.
        items: questions, from `passage_choice` or of your own.
        progress: called with answered questions.
        normalize: divide log p by "tokens" or UTF-8 "bytes" of the choice, or by "none" (favours short choices).
        level: of the interval.
        name: how errors call the model.

    Raises:
        UserError: no items, fewer than two choices, an empty context or choice, an unknown normalisation.
        JobError: the model's logits are not finite.
    """
    choose("normalisation", normalize, ("tokens", "bytes", "none"))
    if not items:
        raise UserError("There are no questions to answer; make some with passage_choice.")
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    questions = [_read(number, item, plain, start) for number, item in enumerate(items)]
    scorer = Scorer(model, name)
    check_ids(
        scorer,
        max(max(map(max, [q.context, *q.choices])) for q in questions),
        max(len(q.context) + max(map(len, q.choices)) for q in questions),
    )
    rows: dict[int, dict] = {}
    with evaluating(model):
        for batch in _batches(questions, CUDA_TOKENS if scorer.device.type == "cuda" else CPU_TOKENS):
            logp = _shared(scorer, batch) if _can_share(model) else None
            for question, values in zip(batch, logp or _whole(scorer, batch), strict=True):
                rows[question.number] = _judge(question, items[question.number], values, normalize)
            progress(len(rows), len(items), f"choices: {len(rows)} of {len(items)} questions")
    table = pd.DataFrame([rows[number] for number in range(len(items))])
    return accuracy(table, float(np.mean([1 / len(item.choices) for item in items])), level)


def _read(number: int, item: Item, plain, start: list[int]) -> _Question:
    if len(item.choices) < 2 or not 0 <= item.answer < len(item.choices):
        raise UserError(
            f"Question {number} has {len(item.choices)} choices and answer {item.answer}; give two choices or more, and the "
            "answer's position counted from 0."
        )
    question = _Question(number, start + plain(item.context), [plain(text) for text in item.choices])
    if not question.context or not all(question.choices):
        raise UserError(f"Question {number} has an empty context or choice; every one needs at least one token.")
    return question


def _judge(question: _Question, item: Item, logp: Sequence[float], normalize: str) -> dict:
    size = [{"tokens": len(ids), "bytes": len(text.encode()), "none": 1}[normalize]
            for ids, text in zip(question.choices, item.choices, strict=True)]  # fmt: skip
    score = np.array(logp) / size
    margin = float(score[item.answer] - np.delete(score, item.answer).max())
    return {
        "item": question.number, "group": item.group, "correct": margin > 0, "chosen": int(score.argmax()),
        "answer": item.answer, "margin": margin,
    }  # fmt: skip


def _batches(questions: list[_Question], most: int) -> Iterator[list[_Question]]:
    """Questions with contexts of one length, up to `most` tokens together."""
    batch: list[_Question] = []
    size = 0
    for question in sorted(questions, key=lambda q: (len(q.context), max(map(len, q.choices)), q.number)):
        cost = len(question.context) + sum(map(len, question.choices))
        if batch and (len(batch[0].context) != len(question.context) or size + cost > most):
            yield batch
            batch, size = [], 0
        batch.append(question)
        size += cost
    yield batch


def _can_share(model: nn.Module) -> bool:
    config = getattr(model, "active_peft_config", None) if getattr(model, "peft_config", None) else None
    return not getattr(config, "is_prompt_learning", False)


def _shared(scorer: Scorer, batch: list[_Question]) -> list[list[float]] | None:
    """log p of each choice, contexts read once; None when the model keeps no cache that can be repeated."""
    from transformers import DynamicCache

    device = scorer.device
    hidden, output = scorer.forward(torch.tensor([q.context for q in batch], device=device), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, DynamicCache):
        return None
    owner = [row for row, question in enumerate(batch) for _ in question.choices]
    rows = [choice for question in batch for choice in question.choices]
    last = hidden[torch.tensor(owner, device=device), -1]
    logp = -scorer.nll(last, torch.tensor([ids[0] for ids in rows], device=device)).double()
    width = max(map(len, rows))
    if width > 1:
        ids, wanted = _padded(rows, device)
        cache.batch_select_indices(torch.tensor(owner, device=device))
        hidden, _ = scorer.forward(ids[:, :-1], past_key_values=cache, use_cache=True)
        pick = wanted[:, 1:]
        values = torch.zeros(pick.shape, dtype=torch.float64, device=device)
        values[pick] = scorer.nll(hidden[pick], ids[:, 1:][pick]).double()
        logp = logp - values.sum(1)
    return _by_question(logp.tolist(), batch)


def _whole(scorer: Scorer, batch: list[_Question]) -> list[list[float]]:
    """log p of each choice from whole rows, context and choice."""
    rows = [question.context + choice for question in batch for choice in question.choices]
    ids, wanted = _padded(rows, scorer.device)
    wanted[:, : len(batch[0].context)] = False
    return _by_question((-scorer.batch_nll(ids, wanted).double().sum(1)).tolist(), batch)


def _padded(rows: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (R, T), each row continued with its last token, and a mask of what is real."""
    width = max(map(len, rows))
    ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < torch.tensor([[len(row)] for row in rows], device=device)


def _by_question(values: list[float], batch: list[_Question]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in question.choices] for question in batch]
