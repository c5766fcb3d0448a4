"""The catalogue: every `<slug>.py` beside this file that assigns a literal CARD is a page.

Cards are read with `ast`, so listing 73 papers imports none of them. A slug's dashes are underscores in its file name.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import UserError, choose
from workbench.papers import badge

FIELDS = {
    "slug": str, "title": str, "authors": str, "year": int, "arxiv": str, "family": str, "blocks": list, "lesson": str,
    "claim": str, "metric": str, "threshold": str, "published": list, "cpu_minutes": (int, float),
}  # fmt: skip


def module_name(slug: str) -> str:
    """File and module name of a slug: `code-personalization` lives in `code_personalization.py`."""
    return slug.replace("-", "_")


def read_card(path: Path) -> dict[str, Any] | None:
    """The literal CARD of one file, or None when the file has none.

    Args:
        path: a Python file; it is parsed, never run.

    Raises:
        UserError: when CARD is there but is not a literal, lacks a field or has one of the wrong type.
    """
    source = path.read_text(encoding="utf-8")
    if not re.search(r"^CARD\b", source, re.MULTILINE):
        return None
    for node in ast.parse(source, filename=path.name).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CARD" for t in node.targets):
            break
    else:
        return None
    try:
        card = ast.literal_eval(node.value)
    except ValueError as error:
        raise UserError(f"{path.name}: CARD must be a literal (line {node.lineno}); write its values out.") from error
    problems = [f"`{name}` is missing" for name in FIELDS if name not in card]
    problems += [
        f"`{name}` is {value!r}, expected {kind}" for name, kind in FIELDS.items()
        if (value := card.get(name)) is not None and not isinstance(value, kind)
    ]  # fmt: skip
    if problems:
        raise UserError(f"{path.name}: CARD is incomplete: {'; '.join(problems)}.")
    if module_name(card["slug"]) != path.stem:
        raise UserError(f"{path.name}: CARD says slug {card['slug']!r}; name the file {module_name(card['slug'])}.py.")
    return card


def find_pages(folder: Path | None = None) -> list[dict[str, Any]]:
    """All cards in order of slug (no page is imported).

    Args:
        folder: where to look; by default the folder of this package.
    """
    folder = folder or Path(__file__).parent
    cards = (read_card(path) for path in sorted(folder.glob("*.py")))
    return sorted((card for card in cards if card), key=lambda card: card["slug"])


def load_card(slug: str) -> dict[str, Any]:
    """The card of one paper.

    Raises:
        UserError: when no page has this slug, with the nearest slugs.
    """
    cards = {card["slug"]: card for card in find_pages()}
    return cards[choose("paper", slug, cards)]


def load_page(slug: str) -> ModuleType:
    """Import the page of one paper (and with it the blocks it shows): `.CARD`, `.experiment`, `.margin`, `.figure`."""
    return importlib.import_module(f"workbench.papers.{module_name(load_card(slug)['slug'])}")


def entry(card: dict[str, Any]) -> dict[str, Any]:
    """What `workbench papers --json` says of one paper."""
    keys = ("slug", "title", "family", "claim", "lesson", "blocks", "arxiv", "year")
    return {**{key: card[key] for key in keys}, "status": badge.status_of(card)}


def search(query: str = "") -> list[dict[str, Any]]:
    """Entries that hold every word of the query in slug, title, authors, arXiv id, year, family, claim, lesson, blocks.

    Args:
        query: words in any case; empty lists everything. A query that is a slug gives that paper alone.
    """
    cards = find_pages()
    exact = [card for card in cards if card["slug"] == query.strip().lower()]
    words = query.lower().split()
    keys = ("slug", "title", "authors", "arxiv", "family", "claim", "lesson", "blocks", "year")

    def text(card: dict[str, Any]) -> str:
        return " ".join(str(card[key]) for key in keys).lower()

    return [entry(card) for card in exact or cards if exact or all(word in text(card) for word in words)]
