"""Multiple choice: which passage goes on from here? Scored by the log-probability the model gives each choice.

    score(choice) = log p(choice | context) / tokens of the choice

`passage_choice` makes questions from any text: a context, its true continuation, and continuations cut from *other*
documents. Nothing but the content gives the answer away: all choices begin at a word, have the same number of tokens, and
the right one stands at a random place. A model that ignores the context is right 1/choices of the time.

The context is read once per question: its keys and values are repeated for the choices, which then run as one
right-padded batch (attention is causal, so padding behind a choice is invisible). Where a model has no such cache, or an
adapter puts virtual tokens before every call, context and choice run as whole rows with the same result.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench.data.examples import Examples
from workbench.data.format import encoder, start_ids
from workbench.data.split import order
from workbench.errors import UserError, choose
from workbench.evaluation.accuracy import Accuracy, accuracy
from workbench.evaluation.nll import Scorer, check_ids, evaluating
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

CONTEXT, LENGTH = 48, 16  # tokens of context and of each choice
BATCH_TOKENS = 2048  # tokens of contexts and choices run together
TRIES = 60  # places tried in one document before it counts as too short
_WORD = re.compile(r"(?<=\S) (?=\w)")


@dataclass(frozen=True)
class Item:
    """A question: `choices[answer]` is right. `group` is the document it comes from; texts join without a blank between."""

    context: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""


def passage_choice(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    *,
    items: int = 64,
    choices: int = 4,
    seed: int = 0,
    context: int = CONTEXT,
    length: int = LENGTH,
) -> list[Item]:
    """Questions from text: the true continuation among continuations of other documents.

    Args:
        examples: text rows with at least two documents.
        tokenizer: counts the tokens; models with another tokenizer can answer the same questions.
        items: number of questions, spread evenly over the documents.
        choices: choices per question, at least 2.
        seed: of places and order; the order of the rows does not matter.
        context, length: tokens of the context and of each choice.

    Raises:
        UserError: counts out of range, fewer than two documents, or documents too short.
    """
    for what, value, least in (
        ("items", items, 1),
        ("choices", choices, 2),
        ("context", context, 1),
        ("length", length, 1),
    ):
        if value < least:
            raise UserError(f"{what} = {value} makes no question; use {least} or more.")
    if examples.kind != "text" or not tokenizer.is_fast:
        raise UserError("Questions are cut from plain text with a fast tokenizer; load text rows (kind 'text').")
    texts: dict[str, list[str]] = {}
    for row in sorted(examples.rows, key=lambda row: (row["group"], row["text"])):
        texts.setdefault(row["group"], []).append(row["text"])
    cutter = _Cutter(tokenizer, context, length)
    places = {group: spots for group in order(list(texts), seed) if (spots := cutter.spots(texts[group]))}
    if len(places) < 2:
        raise UserError(
            f"Questions need two documents with more than {context + length} tokens each; {examples.source} has "
            f"{len(places)} of {len(texts)}; give longer documents, or a shorter context and length."
        )
    found: list[Item] = []
    groups, used = list(places), {group: [] for group in places}
    for turn in range(items * TRIES):
        group = groups[turn % len(groups)]
        rng = random.Random(f"{seed}:{group}:{turn}")
        if item := _question(cutter, places, group, used[group], choices, rng):
            found.append(item)
        if len(found) == items:
            return found
    raise UserError(
        f"{examples.source} gives {len(found)} questions without overlap, {items} were asked for; use items={len(found)} or "
        "fewer, or more text."
    )


class _Cutter:
    """Cuts contexts and choices of an exact number of tokens out of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int, length: int) -> None:
        self.tokenizer, self.context, self.length = tokenizer, context, length
        self.plain = encoder(tokenizer)

    def spots(self, texts: list[str]) -> list[tuple[str, int]]:
        """(text, position) where a choice may begin: before words, or before any character where no blanks are used."""
        found = []
        for text in texts:
            room = range(self.context, len(text) - self.length)  # a token is at least one character, roughly
            starts = [m.start() for m in _WORD.finditer(text)] or list(room)
            found += [(text, start) for start in starts if start in room]
        return found

    def choice(self, text: str, at: int) -> str | None:
        """`length` tokens of text from `at` on, or None where no cut gives exactly that many."""
        piece = text[at : at + 12 * self.length]
        ends = [end for _, end in self._offsets(piece)]
        return next((c for n in (0, -1, 1) if (c := self._exact(piece, ends, self.length + n, self.length))), None)

    def before(self, text: str, at: int) -> str | None:
        """`context` tokens of text up to `at`, or None."""
        piece = text[max(0, at - 12 * self.context) : at]
        starts = [start for start, _ in self._offsets(piece)]
        if len(starts) <= self.context:
            return None
        cut = piece[starts[-self.context] :]
        return cut if len(self.plain(cut)) == self.context else None

    def _offsets(self, piece: str) -> list[tuple[int, int]]:
        return self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]

    def _exact(self, piece: str, ends: list[int], index: int, length: int) -> str | None:
        if not 0 < index < len(ends):
            return None
        cut = piece[: ends[index - 1]]
        return cut if len(self.plain(cut)) == length else None


def _question(cutter: _Cutter, places: dict, group: str, used: list, choices: int, rng: random.Random) -> Item | None:
    text, at = rng.choice(places[group])
    context, true = cutter.before(text, at), cutter.choice(text, at)
    if context is None or true is None:
        return None
    span = (at - len(context), at + len(true))
    if any(text is other and span[0] < stop and start < span[1] for other, start, stop in used):
        return None
    others = [name for name in places if name != group]
    names = rng.sample(others, choices - 1) if len(others) >= choices - 1 else rng.choices(others, k=choices - 1)
    wrong: list[str] = []
    for name in names:
        for _ in range(TRIES):
            candidate = cutter.choice(*rng.choice(places[name]))
            if candidate is not None and candidate != true and candidate not in wrong:
                wrong.append(candidate)
                break
        else:
            return None
    used.append((text, *span))
    answer = rng.randrange(choices)
    return Item(context, (*wrong[:answer], true, *wrong[answer:]), answer, str(group))


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
        for batch in _batches(questions):
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


def _batches(questions: list[_Question]) -> Iterator[list[_Question]]:
    """Questions with contexts of one length, up to `BATCH_TOKENS` together."""
    batch: list[_Question] = []
    size = 0
    for question in sorted(questions, key=lambda q: (len(q.context), max(map(len, q.choices)), q.number)):
        cost = len(question.context) + sum(map(len, question.choices))
        if batch and (len(batch[0].context) != len(question.context) or size + cost > BATCH_TOKENS):
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
