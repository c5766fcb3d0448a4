"""The pieces of a report as HTML: figure, table, samples, raw data, footer. Every text is escaped here."""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style, table
from workbench.figures.palette import DARK_OF, Look


def paragraphs(text: str, css: str = "") -> str:
    """Plain text as paragraphs; an empty line starts a new one, text between backticks is set as code."""
    attribute = f' class="{css}"' if css else ""
    blocks = [b.strip() for b in re.split(r"\n\s*\n", text) if b.strip()]
    return "".join(f"<p{attribute}>{coded(b)}</p>" for b in blocks)


def coded(text: str) -> str:
    """Escaped text with `backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def mark(look: Look) -> str:
    """The method's marker as a small inline drawing, in its own colours for light and dark."""
    colors = {"fill": look.fill, "stroke": look.stroke}
    dark = {f"{k}-dark": DARK_OF.get(v.upper(), v) for k, v in colors.items()}
    variables = "".join(f"--{k}:{v};" for k, v in {**colors, **dark}.items())
    shape = '<circle r="6"/>' if look.marker == "circle" else f'<polygon points="{_outline(look.marker)}"/>'
    return f'<svg class="mark" viewBox="-8 -8 16 16" aria-hidden="true" style="{variables}">{shape}</svg>'


def _outline(marker: str) -> str:
    """Corners of plotly's marker of that name, on a circle of radius 7."""
    if marker in ("cross", "x"):
        arm = [
            (-2, -7),
            (2, -7),
            (2, -2),
            (7, -2),
            (7, 2),
            (2, 2),
            (2, 7),
            (-2, 7),
            (-2, 2),
            (-7, 2),
            (-7, -2),
            (-2, -2),
        ]
        turn = math.pi / 4 if marker == "x" else 0.0
        corners = [(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)) for x, y in arm]
    else:
        sides, start = {
            "square": (4, 45), "diamond": (4, 90), "triangle-up": (3, 90), "triangle-down": (3, -90), "pentagon": (5, 90),
            "hexagon": (6, 90), "star": (10, 90),
        }[marker]  # fmt: skip
        corners = []
        for i in range(sides):
            r = 3.2 if marker == "star" and i % 2 else 7.5
            angle = math.radians(start + 360 * i / sides)
            corners.append((r * math.cos(angle), -r * math.sin(angle)))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def figure(fig: go.Figure, name: str, rows: pd.DataFrame | None) -> str:
    """A figure with its title and caption as text, its description for screen readers, and its rows."""
    style.check(fig)
    picture, title, caption = style.bare(fig)
    background = style.LIGHT["raised"]
    picture.update_layout(paper_bgcolor=background, plot_bgcolor=background)
    data = picture.to_json()  # plotly writes < as \u003c, so a name cannot end the script element
    alt = escape(style.alt(fig), quote=True)
    return (
        f'<figure><h3 id="{name}-title">{escape(title)}</h3>'
        f'<div class="plot" role="img" aria-label="{alt}" data-figure="{name}" style="height:{picture.layout.height}px"></div>'
        f"<noscript><p>{alt}</p></noscript>"
        f"<figcaption>{escape(caption)}</figcaption>"
        f"{raw(rows, name) if rows is not None else ''}"
        f'<script type="application/json" id="{name}">{data}</script></figure>'
    )


def result_table(rows: pd.DataFrame, name: str, label: str) -> str:
    """Rows as a table with headings for screen readers; cells tied with the best are shaded and carry a sign."""
    columns = table.columns(rows)
    if not columns or not columns[0].cells:
        return paragraphs("No rows yet: this table fills when the comparison has run.", "note")
    head = "".join(
        f'<th scope="col"{_words(c)}>{escape(c.title) or "Variant"}'
        + (f"<small>{escape(c.unit)}</small>" if c.unit else "")
        + "</th>"
        for c in columns
    )
    body = "".join(
        f"<tr>{''.join(_cell(c, i, j) for j, c in enumerate(columns))}</tr>" for i in range(len(columns[0].cells))
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label, quote=True)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{paragraphs(table.note(rows), 'note')}{raw(rows, name)}"
    )


def _words(column: table.Column) -> str:
    return "" if column.numeric else ' class="words"'


def _cell(column: table.Column, i: int, j: int) -> str:
    text = escape(column.cells[i])
    if j == 0:
        drawn = mark(style.look(column.cells[i])) if column.key == "name" else ""
        return f'<th scope="row" class="words">{drawn}{text}</th>'
    if any(column.tied):
        return f'<td class="{"tied" if column.tied[i] else "spaced"}">{text}</td>'
    return f"<td{_words(column)}>{text}</td>"


def raw(rows: pd.DataFrame, name: str) -> str:
    """The rows themselves, folded, with a CSV download that needs no server."""
    text = rows.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    link = "data:text/csv;charset=utf-8," + urllib.parse.quote(text)
    count = f"{len(rows)} row{'s' * (len(rows) != 1)}"
    return (
        f'<details><summary>Data ({count})</summary><a href="{link}" download="{escape(name)}.csv">Download as CSV</a>'
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def samples(found: Iterable[Mapping[str, Any]]) -> str:
    """Continuations of the same prompt side by side; the prompt is set pale, the model's own words plain."""
    blocks = []
    for sample in found:
        prompt = str(sample["prompt"])
        cards = "".join(
            f'<article class="sample"><h4>{mark(style.look(name))}{escape(name)}</h4>'
            f"<p><b>{escape(prompt)}</b>{escape(str(text))}</p></article>"
            for name, text in sample["texts"].items()
        )
        blocks.append(f'<p class="prompt"><span>Prompt:</span> {escape(prompt)}</p><div class="samples">{cards}</div>')
    return "".join(blocks)


def definition_list(items: Mapping[str, Any], css: str = "") -> str:
    """Name–value pairs; the value of a key called command is set as code."""
    rows = ""
    for key, value in items.items():
        shown = f"<code>{escape(str(value))}</code>" if key.lower() == "command" else coded(str(value))
        pair = f"<dt>{escape(key[:1].upper() + key[1:])}</dt><dd>{shown}</dd>"
        rows += f"<div>{pair}</div>" if css else pair
    return f'<dl class="{css}">{rows}</dl>' if css else f"<dl>{rows}</dl>"
