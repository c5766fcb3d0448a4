"""One self-contained `report.html`: figures, tables, samples and how it was made, readable offline, on a phone and on paper.

The page carries plotly.js once, its figures as JSON and nothing that is fetched: a content-security policy in the page
forbids every request. Colours follow the reader's light or dark setting; printing (A4) is always light.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workbench.figures import style
from workbench.figures.palette import DARK_OF
from workbench.figures.table import frame
from workbench.report import _parts

PRINT_WIDTH = 660  # CSS pixels: an A4 page less its margins and the figure's frame
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

__all__ = ["Section", "build_report"]


@dataclasses.dataclass
class Section:
    """One section of a report; every field but the heading may stay empty.

    Args:
        heading: a few words.
        text: plain text; an empty line starts a paragraph, backticks set code.
        figure: one figure or several from `workbench.figures`; two stand side by side on a wide screen.
        data: the rows behind the figure or figures, offered as CSV under the first one.
        table: rows (frame or mappings) as `workbench.figures.table.columns` reads them.
        samples: mappings with `prompt` and `texts` (variant → continuation).
        note: small print under the section.
    """

    heading: str
    text: str = ""
    figure: go.Figure | Sequence[go.Figure] | None = None
    data: pd.DataFrame | Sequence[Mapping[str, Any]] | None = None
    table: pd.DataFrame | Sequence[Mapping[str, Any]] | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    note: str = ""


def build_report(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    facts: Mapping[str, Any] | None = None,
    footer: Mapping[str, Any] | None = None,
) -> str:
    """Build the page.

    Args:
        title: what was done, a few words.
        sections: in reading order.
        lead: one or two sentences with the finding, under the title.
        facts: up to six numbers with their names, set large under the lead.
        footer: how it was made: machine, versions, seed, date, and the command (key `command`).

    Returns:
        The whole HTML document; write it with encoding utf-8.

    Raises:
        ValueError: a figure holds something that not every plotly.js in use can draw (see `style.check`).
    """
    body = "".join(_section(section, i) for i, section in enumerate(sections, 1))
    drawn = 'class="plot"' in body
    scripts = ""
    if drawn:
        shared = json.dumps({"pairs": DARK_OF, "config": style.CONFIG}).replace("<", "\\u003c")
        page_js = _file("report.js").replace("/*PRINT_WIDTH*/", str(PRINT_WIDTH))
        scripts = (
            f"<script>{get_plotlyjs()}</script>\n"
            f'<script type="application/json" id="style">{shared}</script>\n<script>{page_js}</script>'
        )
    css = _file("report.css").replace("/*LIGHT*/", _tokens(style.LIGHT)).replace("/*DARK*/", _tokens(style.DARK))
    made = f"<footer><div><h2>How this was made</h2>{_parts.definition_list(footer)}</div></footer>" if footer else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<header>
<p class="eyebrow">Workbench report</p>
<h1>{escape(title)}</h1>
<button type="button" class="switch" hidden>Dark</button>
{_parts.paragraphs(lead, "lead")}
{_parts.definition_list(facts, "facts") if facts else ""}
</header>
<main>
{body}
</main>
{made}
{scripts}
</body>
</html>
"""


def _section(section: Section, number: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-") or "section"
    name = f"{number}-{slug}"
    figures = [section.figure] if isinstance(section.figure, go.Figure) else list(section.figure or ())
    rows = None if section.data is None else frame(section.data)
    drawn = "".join(_parts.figure(f, f"{name}-figure-{i}", rows if i == 1 else None) for i, f in enumerate(figures, 1))
    parts = [
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(section.heading)}</h2>',
        _parts.paragraphs(section.text),
        f'<div class="figures{" pair" if len(figures) > 1 else ""}">{drawn}</div>' if drawn else "",
        "" if section.table is None else _parts.result_table(frame(section.table), f"{name}-table", section.heading),
        _parts.samples(section.samples),
        _parts.paragraphs(section.note, "note"),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _tokens(tokens: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in tokens.items())


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
