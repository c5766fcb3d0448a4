"""Questions made from any text: which passage goes on from here?

A question is a context, its true continuation, and continuations cut from *other* documents. Nothing but the content gives
the answer away: all choices begin at a word, have the same number of tokens, and the right one stands at a random place. A
model that ignores the context is right 1/choices of the time. Questions are kept as text, so that models with different
tokenizers can answer the same ones.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.data.examples import Examples
from workbench.data.format import encoder
from workbench.data.split import order
from workbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT, LENGTH = 32, 8  # tokens of context and of each choice
TRIES = 60  # places tried before a document, or a question, is given up
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
    turn = misses = 0
    while misses < TRIES * len(groups):
        group = groups[turn % len(groups)]
        rng = random.Random(f"{seed}:{group}:{turn}")
        if item := _question(cutter, places, group, used[group], choices, rng):
            found.append(item)
            if len(found) == items:
                return found
        turn, misses = turn + 1, 0 if item else misses + 1
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
