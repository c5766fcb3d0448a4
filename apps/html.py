"""Small pieces of HTML that pages share. Every value is escaped here, so no page builds markup from a user's text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from workbench.figures import formats


def note(text: str, tone: str = "") -> str:
    """A framed sentence; `tone` is bad, caution, good or nothing. An empty text is an empty string."""
    role = "alert" if tone == "bad" else "status"
    return (
        f'<div class="wb-note {f"wb-{tone}" if tone else ""}" role="{role}"><p>{escape(text)}</p></div>' if text else ""
    )


def empty(text: str) -> str:
    """What will appear here and how to get it."""
    return f'<div class="wb-empty"><p>{escape(text)}</p></div>'


def state(status: str) -> str:
    """A run's status or a paper's badge as a sign and a word."""
    return f'<span class="wb-state wb-{status.replace(" ", "-")}">{escape(status)}</span>'


def bar(share: float, css: str = "wb-progress") -> str:
    """A progress bar, 0 to 1."""
    percent = round(100 * min(1.0, max(0.0, share)), 1)
    return (
        f'<div class="{css}" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><i style="width: {percent}%"></i></div>'
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Names with their values, side by side where there is room."""
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs.items())
    return f'<dl class="wb-facts">{rows}</dl>' if rows else ""


class Raw(str):
    """A cell that is markup already."""


def cell(value: Any) -> str:
    """A table cell's text: numbers in the house format, markup as it is, everything else escaped."""
    if isinstance(value, Raw):
        return value
    if value is None:
        return formats.ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return formats.count(value)
    if isinstance(value, float):
        return formats.number(value)
    return escape(str(value))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    label: str,
    tied: set[tuple[int, int]] = frozenset(),
    selected: int | None = None,
    groups: Mapping[int, str] | None = None,
) -> str:
    """A table that scrolls inside its frame.

    Args:
        columns: headings.
        rows: one sequence of values per row; the first is the row's name.
        label: what the table shows, for screen readers.
        tied: (row, column) of cells that are tied with the best.
        selected: index of the row that is shown elsewhere on the page.
        groups: index of a row → heading above it.
    """
    rows = [list(row) for row in rows]
    numeric = [
        any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]
    head = "".join(
        f'<th scope="col"{" class=wb-n" if numeric[i] else ""}>{escape(c)}</th>' for i, c in enumerate(columns)
    )
    body = []
    for r, row in enumerate(rows):
        if groups and r in groups:
            body.append(
                f'<tr class="wb-group"><th scope="rowgroup" colspan="{len(columns)}">{escape(groups[r])}</th></tr>'
            )
        cells = [f'<th scope="row">{cell(row[0])}</th>']
        for i, value in enumerate(row[1:], 1):
            short = (
                isinstance(value, str) and len(value) < 18 and value[:1].isdigit()
            )  # a number never parts from its unit
            marks = ("wb-n" if numeric[i] else "", "wb-short" if short else "", "wb-tied" if (r, i) in tied else "")
            css = " ".join(filter(None, marks))
            cells.append(f'<td class="{css}">{cell(value)}</td>' if css else f"<td>{cell(value)}</td>")
        body.append(f"<tr{' aria-selected=true' if r == selected else ''}>{''.join(cells)}</tr>")
    return (
        f'<div class="wb-scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table class="wb-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def log(text: str) -> str:
    """The tail of a log."""
    return f'<pre class="wb-log" tabindex="0" aria-label="log">{escape(text)}</pre>' if text else ""


def code(text: str) -> str:
    """Lines of code with a button that copies them."""
    return (
        f'<pre class="wb-code" tabindex="0">{escape(text)}</pre>'
        f'<button type="button" class="wb-button" data-copy="{escape(text)}">Copy</button>'
    )
