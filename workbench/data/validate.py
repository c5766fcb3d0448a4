"""Turn raw rows into checked `Examples`, and say of every row that cannot be used: where it is, why, what repairs it.

A row is dropped when a cell that its kind needs is empty (also NaN), is not text, or is not a conversation. Nothing is
guessed into shape: a number in a text column is reported, not printed as text. The whole source is refused when fewer
than half of its rows survive, when labels mix text and numbers, or when a label has a single example.

A row without a group column gets a group made from its text (its prompt, its first message), not from its position. So
copies of a row, and several answers to one prompt, stay on one side of a split, and sorting the file changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping

from workbench.data.columns import choose_columns
from workbench.data.examples import Examples, Problem, Report, summary
from workbench.data.readers import Raw
from workbench.errors import UserError

_MISSING = {"", "nan", "NaN", "<NA>"}
_ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "system": "system", "developer": "system", "tool": "tool", "function": "tool",
}  # fmt: skip


class _Unusable(Exception):
    """Carries column, reason and fix of a row that is dropped; never leaves this file."""


def validate(raw: Raw, *, kind: str | None = None, columns: Mapping[str, str] | None = None) -> Examples:
    """Check every row of a source.

    Args:
        raw: rows as read.
        kind: text, prompt-completion, chat, classification; None guesses from the column names.
        columns: role → column name, for roles that should not be guessed.

    Returns:
        The rows that can be used, with the report of those that cannot.

    Raises:
        UserError: no usable columns, fewer than half of the rows usable, or labels that cannot be learned.
    """
    kind, mapping = choose_columns(raw.columns, raw.name, kind=kind, columns=columns)
    rows, places, problems = [], [], []
    for place, values in zip(raw.places, raw.rows, strict=True):
        try:
            row = _EXTRACT[kind](values, mapping)
            group = values.get(mapping["group"]) if "group" in mapping else None
            row["group"] = _fingerprint(row) if _missing(group) else str(group)
        except _Unusable as found:
            problems.append(Problem(place, *found.args))
            continue
        rows.append(row)
        places.append(place)
    if len(rows) * 2 < len(raw.rows) or not rows:
        raise UserError(
            f"Only {len(rows):,} of {len(raw.rows):,} rows of {raw.name} can be used: {summary(problems)}. Repair "
            "them, or name the right columns with columns={…} (--column ROLE=COLUMN)."
        )
    labels = _labels(raw, mapping, rows, places) if kind == "classification" else ()
    shown = mapping if raw.columns != ["text", "group"] else {}
    report = Report(raw.name, len(raw.rows), len(rows), tuple(problems), raw.notes + _notes(raw, mapping, rows), shown)
    return Examples(kind, rows, raw.name, report, labels)


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _called(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _text(values: dict, column: str) -> str:
    value = values.get(column)
    if _missing(value):
        raise _Unusable(column, f"empty {column!r}", "fill the cell or delete the row")
    if not isinstance(value, str):
        raise _Unusable(column, f"{column!r} holds {_called(value)}, not text", "write it as text, in quotes")
    return value


def _text_row(values: dict, mapping: dict[str, str]) -> dict:
    return {"text": _text(values, mapping["text"])}


def _pair_row(values: dict, mapping: dict[str, str]) -> dict:
    prompt = _text(values, mapping["prompt"])
    if "input" in mapping and not _missing(values.get(mapping["input"])):
        prompt += "\n\n" + _text(values, mapping["input"])
    return {"prompt": prompt, "completion": _text(values, mapping["completion"])}


def _label_row(values: dict, mapping: dict[str, str]) -> dict:
    column = mapping["label"]
    label = values.get(column)
    if _missing(label):
        raise _Unusable(column, f"empty {column!r}", "fill the cell or delete the row")
    if isinstance(label, float) and not label.is_integer():
        raise _Unusable(column, f"{column!r} holds the fraction {label}", "labels are names or whole numbers")
    if not isinstance(label, str | int | float):
        raise _Unusable(column, f"{column!r} holds {_called(label)}", "give each row one label")
    name = label.strip() if isinstance(label, str) else str(label if isinstance(label, bool) else int(label))
    return {"text": _text(values, mapping["text"]), "label": name}


def _chat_row(values: dict, mapping: dict[str, str]) -> dict:
    column = mapping["messages"]
    turns = values.get(column)
    if _missing(turns):
        raise _Unusable(column, f"empty {column!r}", "fill the cell or delete the row")
    shape = 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            raise _Unusable(column, f"{column!r} is text, not a list of messages", shape) from None
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise _Unusable(column, f"{column!r} is not a list of messages", shape)
    messages = [_message(turn, column, shape) for turn in turns]
    if not any(message["role"] == "assistant" for message in messages):
        raise _Unusable(column, "no assistant message", "add the answer that the model should learn")
    return {"messages": messages}


def _message(turn: dict, column: str, shape: str) -> dict:
    role = turn.get("role") or turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise _Unusable(column, f"the role {role!r} is unknown", "use system, user, assistant or tool")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise _Unusable(column, f"a {role} message without text", shape)
    return {"role": _ROLES[role.lower()], "content": content}


_EXTRACT: dict[str, Callable[[dict, dict[str, str]], dict]] = {
    "text": _text_row, "prompt-completion": _pair_row, "chat": _chat_row, "classification": _label_row,
}  # fmt: skip


def _fingerprint(row: dict) -> str:
    """12 hex digits of what the model is given (text, prompt, or the messages before the first answer)."""
    given = row.get("text") or row.get("prompt") or _before_answer(row["messages"])
    return hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _before_answer(messages: list[dict]) -> str:
    """Everything up to the first answer, or the whole conversation when it opens with one."""
    first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return json.dumps(messages[:first] or messages)


def _labels(raw: Raw, mapping: dict[str, str], rows: list[dict], places: list[str]) -> tuple[str, ...]:
    column = mapping["label"]
    where: dict[str, str] = {}
    kept = set(places)
    for place, values in zip(raw.places, raw.rows, strict=True):
        if place in kept:
            where.setdefault("text" if isinstance(values[column], str) else "number", f"{place}: {values[column]!r}")
    if len(where) > 1:
        raise UserError(
            f"The labels in column {column!r} of {raw.name} mix text and numbers ({where['text']}, {where['number']}); "
            "write all of them as text."
        )
    return check_labels(rows, raw.name, dict(zip([row["label"] for row in rows], places, strict=True)))


def check_labels(rows: list[dict], source: str, places: Mapping[str, str]) -> tuple[str, ...]:
    """Class names in order, when there are at least two and each has at least two examples.

    Args:
        rows: classification rows.
        source: what messages call it.
        places: label → a place where it stands.

    Raises:
        UserError: one label only, or labels with a single example.
    """
    counts = Counter(row["label"] for row in rows)
    if len(counts) == 1:
        raise UserError(f"All rows of {source} have the label {next(iter(counts))!r}; there is nothing to tell apart.")
    single = [label for label, count in counts.items() if count == 1]
    if single:
        first = ", ".join(f"{label!r} ({places[label]})" for label in single[:3]) + (" …" if len(single) > 3 else "")
        what = "label has" if len(single) == 1 else "labels have"
        raise UserError(
            f"{len(single)} {what} one example in {source}: {first}; a label needs at least two, one to learn from and "
            "one to check on: add examples, merge labels, or delete the rows."
        )
    return tuple(sorted(counts, key=_numbers_first))


def _numbers_first(label: str) -> tuple[bool, int, str]:
    """Whole numbers in order of value (0, 2, 10), then names in order of the alphabet."""
    number = label.removeprefix("-").isdecimal()
    return (not number, int(label) if number else 0, label)


def _notes(raw: Raw, mapping: dict[str, str], rows: list[dict]) -> tuple[str, ...]:
    notes = []
    unused = [column for column in raw.columns if column not in mapping.values()]
    if unused:
        notes.append(f"Columns not used: {', '.join(unused)}.")
    first_group: dict[str, str] = {}
    copies = leaks = spoiled = 0
    for row in rows:
        content = {key: value for key, value in row.items() if key != "group"}
        key = json.dumps(content)
        spoiled += "�" in "".join(map(str, content.values()))
        if key in first_group:
            copies += 1
            leaks += first_group[key] != row["group"]
        first_group.setdefault(key, row["group"])
    if copies:
        tail = "each with its copy in one group"
        if leaks:
            tail = f"{leaks:,} of them in another group, so a copy can reach the test part"
        notes.append(f"{copies:,} {'row repeats' if copies == 1 else 'rows repeat'} an earlier one, {tail}.")
    if spoiled:
        notes.append(f"The replacement sign � stands in {spoiled:,} of them: text was damaged when it was converted.")
    return tuple(notes)
