"""A data set before anything is trained on it: what can be used, what cannot and why, the first rows as a model sees them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from workbench.errors import UserError

from . import catalogue, choices, html
from .fields import Field

ROLES = {
    "text": "What is learned or classified.",
    "label": "The class of a text.",
    "prompt": "What is asked; read, not learned.",
    "completion": "The answer; learned.",
    "messages": "A conversation: a list of role and content.",
    "group": "The document a row belongs to; a document never lies in two parts of the split.",
}
PROBLEMS = 20  # rows that are listed when they cannot be used


def role_fields(key: str) -> list[Field]:
    """One field per role; for an upload they offer the file's own columns."""
    from workbench.data.sources import read_path

    columns: list[str] = []
    if str(key).startswith("upload:"):
        try:
            columns = read_path(Path(choices.data_place(key))).columns
        except UserError:
            columns = []  # the preview beside says what is wrong with the file
    options = (("guess", ""), *((column, column) for column in columns))
    return [
        Field(role, "choice" if columns else "text", "", words, options if columns else (), label=f"{role} column")
        for role, words in ROLES.items()
    ]


def mapping(values: dict[str, Any]) -> dict[str, str] | None:
    """Role → column of the roles that were filled in, None where all are guessed."""
    return {role: str(column).strip() for role, column in values.items() if str(column or "").strip()} or None


def check(key: str, kind: str | None, columns: dict[str, str] | None, model: str) -> str:
    """What of the data can be used, and its first rows with template and loss mask.

    Raises:
        UserError: nothing of it can be used; the sentence names rows, reason and repair.
    """
    catalogue.ready()
    from workbench import data
    from workbench.models import load_tokenizer

    try:
        examples = data.load(choices.data_place(key), kind=kind or None, columns=columns)
    except UserError as error:
        raise UserError(choices.for_page(str(error))) from error
    report = examples.report
    text = html.note(f"Read as {examples.kind}. {report.sentence()}", "caution" if report.problems else "good")
    if report.problems:
        rows = [(p.place, p.column, p.reason, p.fix) for p in report.problems[:PROBLEMS]]
        text += html.table(("Where", "Column", "What is wrong", "What repairs it"), rows, label="Rows left out")
    tokenizer = load_tokenizer(choices.model_place(model))
    return text + "".join(sample(row, i) for i, row in enumerate(data.preview(examples, tokenizer, n=3), 1))


def sample(row: dict[str, Any], number: int) -> str:
    """One row as the model sees it; what is learned is marked."""
    body = "".join(
        f"<mark>{escape(span['text'])}</mark>" if span["learned"] else escape(span["text"]) for span in row["spans"]
    )
    label = f" · label {escape(str(row['label']))}" if "label" in row else ""
    head = f"Row {number}{label} · {row['learned']} of {row['tokens']} tokens are learned (underlined)"
    return f'<article class="wb-sample"><header>{head}</header><pre tabindex="0">{body}</pre></article>'
