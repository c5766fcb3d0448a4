"""Show rows as the model will see them: chat template applied, learned text marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.data.encode import IGNORE, answer_ids
from workbench.data.examples import Examples
from workbench.data.format import encoder, spans, start_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 2000  # characters of a span that a preview carries


def preview(examples: Examples, tokenizer: PreTrainedTokenizerBase, n: int = 3) -> list[dict]:
    """The first rows with their loss mask.

    Args:
        examples: checked rows.
        tokenizer: brings the chat template.
        n: how many rows.

    Returns:
        One dict per row: `group`; `spans`, a list of {"text", "learned"} (long texts end in …); `tokens` and `learned`,
        lengths of the whole row in tokens; and `label` for classification.

    Raises:
        UserError: the chat template refuses a conversation.
    """
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    found = []
    for row in examples.rows[:n]:
        ids, labels = answer_ids(row, tokenizer, plain, start)
        shown = [{"text": _short(span.text), "learned": span.learned} for span in spans(row, tokenizer)]
        learned = sum(label != IGNORE for label in labels)
        entry = {"group": row["group"], "spans": shown, "tokens": len(ids), "learned": learned}
        found.append(entry | ({"label": row["label"]} if "label" in row else {}))
    return found


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
