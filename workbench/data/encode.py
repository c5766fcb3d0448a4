"""Token ids and labels, ready to batch: text in windows inside one document, everything else one row each.

Windows of W tokens: [0, W), [W, 2W), … and, when at least W/4 tokens are left over, one more window over the last W
tokens in which the part that was already learned has label −100. No window crosses documents, no token is learned
twice, none is padding. Shorter documents are left out, and so are short ends.

Other kinds: the row cut at W tokens, with −100 on what is only read (`format.spans`); rows in which nothing is then
learned are left out. Classification: the text with the tokenizer's own special tokens, cut at W, and the class id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench.data.examples import Examples
from workbench.data.format import encoder, spans, start_ids
from workbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # the label that every loss in torch and transformers leaves out


class Encoded(list):
    """A list of rows that also knows what the window cost.

    Attributes:
        tokens: tokens that enter the loss.
        cut: rows that lost their end.
        dropped: documents or rows left out because nothing in them could be learned.
        longest: length of the longest document or row, in tokens, before cutting.
    """

    tokens: int = 0
    cut: int = 0
    dropped: int = 0
    longest: int = 0

    def sentence(self, window: int) -> str:
        """What the window kept, in one line."""
        text = f"{len(self):,} rows of at most {window:,} tokens, {self.tokens:,} tokens learned."
        if self.cut:
            text += f" Longer ones lose their end: {self.cut:,} (the longest has {self.longest:,} tokens)."
        if self.dropped:
            text += f" Left out, because nothing in them can be learned with this window: {self.dropped:,}."
        return text


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, *, window: int, mask_prompt: bool = True) -> Encoded:
    """Turn examples into rows for a `Trainer`.

    Args:
        examples: checked rows.
        tokenizer: the model's own.
        window: tokens per row at most; for text, exactly.
        mask_prompt: learn only completions and assistant turns; False learns every token.

    Returns:
        Rows {"input_ids", "labels", "group"}: lists of equal length, or a class id as label for classification. With
        the counts of `Encoded`.

    Raises:
        UserError: a window below 2 tokens, or a window in which nothing is left to learn.
    """
    if window < 2:
        raise UserError(f"A window of {window} tokens has nothing to predict; use 2 or more.")
    found = Encoded()
    if not examples.rows:
        return found
    if examples.kind == "text":
        _encode_text(examples, tokenizer, window, found)
    elif examples.kind == "classification":
        _encode_labels(examples, tokenizer, window, found)
    else:
        _encode_answers(examples, tokenizer, window, mask_prompt, found)
    if not found:
        if examples.kind == "text":
            why = f"all {found.dropped:,} documents are shorter; use {found.longest} or less, or join short documents"
        else:
            why = f"all {found.dropped:,} rows are cut before their answer; use {found.longest}, or shorten the prompts"
        raise UserError(f"A window of {window} tokens leaves nothing to learn in {examples.source}: {why}.")
    return found


def windows(ids: list[int], window: int) -> list[tuple[list[int], int]]:
    """Windows of one document, each with the number of leading tokens that an earlier window has learned already."""
    starts = range(0, len(ids) - window + 1, window)
    found = [(ids[start : start + window], 0) for start in starts]
    left = len(ids) % window
    if found and left * 4 >= window:
        found.append((ids[-window:], window - left))
    return found


def _encode_text(examples: Examples, tokenizer: PreTrainedTokenizerBase, window: int, found: Encoded) -> None:
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    for row in examples.rows:
        ids = start + plain(row["text"])
        found.longest = max(found.longest, len(ids))
        pieces = windows(ids, window)
        found.dropped += not pieces
        for piece, known in pieces:
            found.tokens += window - known
            found.append({"input_ids": piece, "labels": [IGNORE] * known + piece[known:], "group": row["group"]})


def answer_ids(
    row: dict,
    tokenizer: PreTrainedTokenizerBase,
    plain: Callable[[str], list[int]],
    start: list[int],
    mask_prompt: bool = True,
) -> tuple[list[int], list[int]]:
    """Ids and labels of one uncut row that has read and learned spans."""
    pieces = spans(row, tokenizer)
    ids, labels = [], []
    for piece in pieces:
        part = plain(piece.text)
        ids += part
        labels += part if piece.learned or not mask_prompt else [IGNORE] * len(part)
    if start and ids[:1] != start:  # a chat template usually writes its own begin token
        ids, labels = start + ids, [IGNORE, *labels]
    return ids, labels


def _encode_answers(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, window: int, mask_prompt: bool, found: Encoded
) -> None:
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    for row in examples.rows:
        ids, labels = answer_ids(row, tokenizer, plain, start, mask_prompt)
        found.longest = max(found.longest, len(ids))
        learned = sum(label != IGNORE for label in labels[1:window])  # the first token is never predicted
        if not learned:
            found.dropped += 1
            continue
        found.cut += len(ids) > window
        found.tokens += learned
        found.append({"input_ids": ids[:window], "labels": labels[:window], "group": row["group"]})


def _encode_labels(examples: Examples, tokenizer: PreTrainedTokenizerBase, window: int, found: Encoded) -> None:
    number = {label: index for index, label in enumerate(examples.labels)}
    for row in examples.rows:
        length = len(tokenizer(row["text"], verbose=False)["input_ids"])
        ids = tokenizer(row["text"], truncation=True, max_length=window)["input_ids"]
        found.longest = max(found.longest, length)
        found.cut += length > window
        found.tokens += 1
        found.append({"input_ids": ids, "labels": number[row["label"]], "group": row["group"]})
