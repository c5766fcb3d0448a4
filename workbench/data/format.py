"""Write a row as the text that the model sees, in spans that are learned (loss) or only read (no loss).

Conversations go through the tokenizer's chat template. An assistant turn starts where the template's generation prompt
ends and stops after the end-of-turn token, so what is learned is exactly what the model must write when it is asked:

    read     <|im_start|>user\\nWho?<|im_end|>\\n<|im_start|>assistant\\n
    learned  Ishmael.<|im_end|>
    read     \\n

With a chat template, a prompt and its completion are one user and one assistant turn. Without one, a plain form is
used: `User: …\\nAssistant: …` for conversations; prompt, line break (unless a blank is there), completion for pairs.
Each answer ends with the end token. Plain text is learned whole. A classified text is only read: its label is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from workbench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Span(NamedTuple):
    """A piece of the text that the model sees, and whether its tokens count in the loss."""

    text: str
    learned: bool


def spans(row: dict, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """The row as the model sees it.

    Args:
        row: a row of any kind of `Examples`.
        tokenizer: brings the chat template (or none) and the end token.

    Returns:
        Spans whose texts, joined, are the whole input.

    Raises:
        UserError: the chat template refuses the conversation, or does not keep an assistant's words.
    """
    if "messages" in row:
        return chat_spans(row["messages"], tokenizer)
    if "prompt" in row:
        if tokenizer.chat_template:
            return chat_spans(_as_turns(row), tokenizer)
        between = "" if row["prompt"][-1:].isspace() or row["completion"][:1].isspace() else "\n"
        return _joined([Span(row["prompt"] + between, False), Span(row["completion"] + _end(tokenizer), True)])
    return [Span(row["text"], "label" not in row)]


def prompt_text(messages: list[dict], tokenizer: PreTrainedTokenizerBase) -> str:
    """The conversation so far, ready for the model to write the next assistant turn (the form used in training)."""
    return _render(messages, tokenizer, ask=True)


def chat_spans(messages: list[dict], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Spans of a conversation; only assistant turns are learned. See `spans`."""
    whole = _render(messages, tokenizer)
    found, at = [], 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, stop = _turn(messages, index, whole, at, tokenizer)
        found += [Span(whole[at:start], False), Span(whole[start:stop], True)]
        at = stop
    return _joined([*found, Span(whole[at:], False)])


def _turn(messages: list[dict], index: int, whole: str, at: int, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Where in `whole` the model writes turn `index`."""
    try:
        before, after = _render(messages[:index], tokenizer, ask=True), _render(messages[: index + 1], tokenizer)
    except UserError:  # a template that accepts the whole need not accept its beginning
        before, after = "", "\0"
    if before and whole.startswith(after) and after.startswith(before):
        written = after[len(before) :]
        ends = tokenizer.eos_token and written.rstrip().endswith(tokenizer.eos_token)
        return len(before), len(before) + len(written.rstrip() if ends else written)
    # The template rewrites earlier turns (some drop old reasoning), or the conversation opens with an answer.
    content = messages[index]["content"].strip()
    start = whole.find(content, at)
    if start < 0:
        raise UserError(
            f"The chat template of this tokenizer does not keep the words of message {index + 1} ({content[:40]!r}…), "
            "so they cannot be learned; use prompt and completion columns instead."
        )
    stop = start + len(content)
    eos = tokenizer.eos_token or ""
    return start, stop + (len(eos) if whole.startswith(eos, stop) else 0)


def _render(messages: list[dict], tokenizer: PreTrainedTokenizerBase, ask: bool = False) -> str:
    if not tokenizer.chat_template:
        return _plain(messages, tokenizer, ask)
    if not messages:
        return ""
    import jinja2

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"The model's chat template refuses a conversation with the roles {roles} ({error}); reorder its messages, "
            "or use a model whose template allows them."
        ) from error


def _plain(messages: list[dict], tokenizer: PreTrainedTokenizerBase, ask: bool) -> str:
    lines = [
        f"{message['role'].capitalize()}: {message['content'].strip()}"
        + (_end(tokenizer) if message["role"] == "assistant" else "")
        + "\n"
        for message in messages
    ]
    return "".join(lines) + ("Assistant:" if ask else "")


def _end(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.eos_token or ""


def _as_turns(row: dict) -> list[dict]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def _joined(found: list[Span]) -> list[Span]:
    return [span for span in found if span.text]


def encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """A function text → token ids such that spans, encoded one by one and joined, read as the joined text.

    The border between read and learned text is then a border between tokens, the same as in generation. Byte-level
    tokenizers do this as they are; those that put a blank before the first word are shown a line break first, whose
    tokens are taken away again.
    """

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    anchor, word = plain("\n"), plain("x")
    if plain("\nx") == anchor + word:
        return plain
    return lambda text: plain("\n" + text)[len(anchor) :]


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that this tokenizer itself puts before a text (a begin token, or nothing)."""
    ids = tokenizer("x", verbose=False)["input_ids"]
    return ids[:1] if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else []
