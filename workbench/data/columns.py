"""Which column plays which role, and so which kind of examples a table holds: guessed from names, or told.

Names are compared without case, blanks and `_-`. Evidence is taken in this order: a conversation column; a prompt with
its completion; a text with its label; a text. Roles that the user names come first and decide between the families.
"""

from __future__ import annotations

from collections.abc import Mapping

from workbench.data.examples import KINDS
from workbench.errors import UserError, choose

SYNONYMS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns"),
    "prompt": ("prompt", "instruction", "instructions", "question", "query", "problem", "user", "human", "input",
               "source"),
    "input": ("input", "context"),
    "completion": ("completion", "output", "answer", "response", "reply", "solution", "assistant", "target", "chosen"),
    "text": ("text", "content", "document", "body", "passage", "article", "paragraph", "sentence", "review", "comment",
             "tweet", "message", "story", "code", "abstract", "description"),
    "label": ("label", "labels", "class", "category", "sentiment", "intent", "topic", "target", "y"),
    "group": ("group", "groupid", "document", "documentid", "docid", "doc", "file", "filename", "path"),
}  # fmt: skip
NEEDED = {"chat": ("messages",), "prompt-completion": ("prompt", "completion"), "classification": ("text", "label"),
          "text": ("text",)}  # fmt: skip
OPTIONAL = {
    "chat": ("group",),
    "prompt-completion": ("input", "group"),
    "classification": ("group",),
    "text": ("group",),
}


def _plain(name: str) -> str:
    return "".join(c for c in str(name).lower() if c.isalnum())


def _told(available: list[str], columns: Mapping[str, str], source: str) -> dict[str, str]:
    for role, column in columns.items():
        choose("column role", role, SYNONYMS)
        if column not in available:
            try:
                choose(f"column in {source}", column, available)
            except UserError as error:
                raise UserError(f"{str(error).rstrip('.')} (asked for as {role}).") from None
    return dict(columns)


def _find(role: str, available: list[str], taken: set[str]) -> str | None:
    """The first synonym present; two spellings of one name are refused because either could be meant."""
    for synonym in SYNONYMS[role]:
        found = [name for name in available if _plain(name) == synonym and name not in taken]
        if len(found) > 1:
            both = " and ".join(map(repr, found))
            raise UserError(
                f"Columns {both} could both be the {role}; say which with columns={{{role!r}: {found[0]!r}}}."
            )
        if found:
            return found[0]
    return None


def _mapping(kind: str, available: list[str], told: dict[str, str]) -> dict[str, str] | None:
    roles = NEEDED[kind] + OPTIONAL[kind]
    mapping = {role: told[role] for role in roles if role in told}
    for role in roles:
        if role in mapping:
            continue
        found = _find(role, available, set(mapping.values()))
        if found is None and kind == "classification" and role == "text":
            found = _find("prompt", available, set(mapping.values()))  # question + category
        if found is not None:
            mapping[role] = found
    return mapping if all(role in mapping for role in NEEDED[kind]) else None


def choose_columns(
    available: list[str], source: str, *, kind: str | None = None, columns: Mapping[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    """Decide the kind of examples and the column of each role.

    Args:
        available: column names of the table.
        source: what messages call it.
        kind: one of `KINDS`, or None to guess.
        columns: role → column, for the roles that the user names; the rest is guessed.

    Returns:
        The kind, and role → column.

    Raises:
        UserError: unknown kind, role or column, two candidates for one role, or no columns that make a kind.
    """
    told = _told(available, columns or {}, source)
    if kind is not None:
        kinds = [choose("kind of examples", kind, KINDS)]
    else:
        kinds = [k for k in NEEDED if all(role in NEEDED[k] + OPTIONAL[k] for role in told)]
        if not kinds:
            raise UserError(f"The roles {', '.join(told)} belong to different kinds; name the roles of one.")
    unused = [role for role in told if all(role not in NEEDED[k] + OPTIONAL[k] for k in kinds)]
    if unused:
        raise UserError(f"{kinds[0]} examples have no role {unused[0]!r}; leave it out or choose another kind.")
    for candidate in kinds:
        mapping = _mapping(candidate, available, told)
        if mapping is not None:
            return candidate, mapping
    need = " or ".join(" + ".join(NEEDED[k]) for k in kinds)
    missing = next(role for role in NEEDED[kinds[-1]] if role not in told)
    raise UserError(
        f"{source} has the columns {', '.join(map(repr, available))}, from which {need} cannot be guessed; rename a "
        f"column or say which to use, for example columns={{{missing!r}: {available[0]!r}}} "
        f"(--column {missing}={available[0]})."
    )
