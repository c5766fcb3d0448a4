"""The one style of every figure: template, margins, captions, alt text, axes, dark theme, and the check of what is allowed.

A figure function builds traces with colours from `palette` and ends with `finish`. The result is the light figure;
`theme(fig, dark=True)` gives the dark one by exchanging colours, so data and layout cannot drift apart. `bare` takes
title and caption out for pages that set them as text (the report, the app), where they wrap to the width of a phone.
Heights are fixed and widths are free: vertical distances in pixels are therefore exact in every caller.
"""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from workbench.figures import _allow
from workbench.figures._template import TEMPLATE
from workbench.figures.axes import AXES, Axis, axis
from workbench.figures.formats import SEPARATORS
from workbench.figures.palette import (
    BITS,
    COLORS,
    DARK,
    DARK_OF,
    DASHES,
    LIGHT,
    MARKERS,
    METHODS,
    PATTERNS,
    Look,
    alpha,
    look,
    readable,
)

__all__ = [
    "AXES",
    "BITS",
    "COLORS",
    "CONFIG",
    "DARK",
    "DASHES",
    "LIGHT",
    "MARKERS",
    "METHODS",
    "PATTERNS",
    "Axis",
    "Look",
    "alpha",
    "alt",
    "axis",
    "bare",
    "caption",
    "check",
    "empty",
    "finish",
    "look",
    "readable",
    "theme",
    "use_in_notebook",
]

PLOT = 250  # pixels between the axes; the same for all figures of a page, so neighbours line up
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 16, 58  # margins without title and caption
LINE = 15  # pixels of one caption line
WRAP = 58  # characters of a caption line that fit a 390-pixel phone

# One renderer configuration for every caller. plotly.js 4 offers "Share chart", an upload to Plotly Cloud, unless told not to.
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
    "toImageButtonOptions": {"format": "svg", "filename": "workbench"},
}


def finish(
    fig: go.Figure,
    *,
    title: str,
    alt: str,
    caption: str = "",
    left: int = LEFT,
    right: int = RIGHT,
    top: int = TOP,
    bottom: int = BOTTOM,
    buttons: int = 0,
    plot: int = PLOT,
) -> go.Figure:
    """Give a figure the house style: every figure function ends here.

    Args:
        fig: traces, axis titles, types and ranges are set already.
        title: what is shown, in words a newcomer knows.
        alt: one sentence with the finding, for those who cannot see the picture.
        caption: what the marks mean, the interval and n; stands under the plot.
        left: pixels for tick labels and the vertical title.
        right: pixels for direct labels at the right edge.
        top: pixels above the plot, without the title (a legend needs 24 a line).
        bottom: pixels for tick labels and axis title, without the caption.
        buttons: pixels of a row of buttons (what `_switch.add` returned), added to `top`; left out in print.
        plot: height in pixels between the axes; the figure grows with its title, caption and margins.

    Returns:
        The same figure.
    """
    head = textwrap.wrap(title, 44)
    room = 22 * len(head) + 10 if head else 0
    top += buttons
    fig.update_layout(
        template=TEMPLATE,
        autosize=True,
        height=plot + top + room + bottom,
        separators=SEPARATORS,
        uirevision="workbench",
        dragmode="zoom",
        margin={"l": left, "r": right, "t": top + room, "b": bottom, "pad": 0, "autoexpand": False},
        meta={"alt": alt, "title": title, "caption": "", "dark": False, "bottom": bottom, "buttons": buttons},
        title={
            "text": "<br>".join(head),
            "font": {"size": 16, "color": LIGHT["text"]},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 12},
        },
    )
    return _write_caption(fig, caption) if caption else fig


def caption(fig: go.Figure, text: str) -> go.Figure:
    """Set the caption line under the plot (replacing an earlier one) and make room for it; returns the same figure."""
    return _write_caption(fig, text)


def _write_caption(fig: go.Figure, text: str) -> go.Figure:
    lines = textwrap.wrap(text, WRAP)
    margin, base = fig.layout.margin, (fig.layout.meta or {}).get("bottom", BOTTOM)
    fig.layout.annotations = [a for a in fig.layout.annotations if a.name != "caption"]
    before = margin.b
    fig.layout.margin.b = base + LINE * len(lines) + (8 if lines else 0)
    if fig.layout.height is not None and before is not None:
        fig.layout.height += fig.layout.margin.b - before
    fig.layout.meta = {**(fig.layout.meta or {}), "caption": text}
    if lines:
        fig.add_annotation(
            name="caption",
            text="<br>".join(lines),
            xref="paper",
            yref="paper",
            x=0,
            y=0,
            xanchor="left",
            yanchor="top",
            xshift=12 - (margin.l or LEFT),
            yshift=4 - base,
            showarrow=False,
            align="left",
            font={"size": 12, "color": LIGHT["muted"]},
        )
    return fig


def empty(fig: go.Figure, text: str) -> None:
    """Write into an empty plot what will appear there and how to get it."""
    fig.update_xaxes(range=[0, 1], showticklabels=False, ticks="")
    fig.update_yaxes(range=[0, 1], showticklabels=False, ticks="")
    fig.add_annotation(
        name="empty",
        text="<br>".join(textwrap.wrap(text, 38)),
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.5,
        showarrow=False,
        align="center",
        font={"size": 14, "color": LIGHT["muted"]},
    )


def alt(fig: go.Figure) -> str:
    """The figure's one-sentence description with its finding."""
    return (fig.layout.meta or {}).get("alt", "")


def bare(fig: go.Figure) -> tuple[go.Figure, str, str]:
    """Split a figure into (the same picture without title and caption, title, caption) for pages that set them as text."""
    meta = fig.layout.meta or {}
    new = go.Figure(fig)
    head = len(textwrap.wrap(meta.get("title", ""), 44))
    new.layout.annotations = [a for a in new.layout.annotations if a.name != "caption"]
    room = 22 * head + 10 if head else 0
    base = meta.get("bottom", BOTTOM)
    lost = room + (new.layout.margin.b - base)
    new.update_layout(height=new.layout.height - lost, title={"text": ""})
    new.layout.margin.t -= room
    new.layout.margin.b = base
    return new, meta.get("title", ""), meta.get("caption", "")


_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_RGBA = re.compile(r"rgba\((\d+), (\d+), (\d+), ([\d.]+)\)")


def _darker(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _darker(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_darker(v) for v in value]
    if not isinstance(value, str):
        return value
    if _HEX.fullmatch(value):
        return DARK_OF.get(value.upper(), value)
    part = _RGBA.fullmatch(value)
    if part:
        found = DARK_OF.get("#{:02X}{:02X}{:02X}".format(*map(int, part.groups()[:3])))
        return alpha(found, float(part[4])) if found else value
    return value


def theme(fig: go.Figure, dark: bool = False, *, present: bool = False) -> go.Figure:
    """The figure for a light or dark page, as a new figure; `present` enlarges text for a projector.

    Args:
        fig: a light figure, as the figure functions return it.
        dark: exchange every colour of the style for its dark partner.
        present: letters half as large again (all at least 18 pixels) for reading from ten metres.

    Raises:
        ValueError: when a figure that is dark already is asked to be light; keep the light one.
    """
    meta = fig.layout.meta or {}
    if meta.get("dark") and not dark:
        raise ValueError(
            "This figure is dark already and cannot be turned back; call the figure function again for a light one."
        )
    data = fig.to_plotly_json()
    if dark and not meta.get("dark"):
        data = {"data": _darker(data["data"]), "layout": _darker(data["layout"])}
        data["layout"]["meta"] = {**meta, "dark": True}
    if present:
        data["layout"] = _larger(data["layout"])
        margin = data["layout"]["margin"]
        data["layout"]["height"] += (
            margin["t"] + margin["b"]
        ) // 3  # the margins grew by half, the plot keeps its height
    return go.Figure(data)


def _larger(node: Any, key: str = "") -> Any:
    """Letters half as large again, and with them every distance that makes room for letters."""
    if isinstance(node, list | tuple):
        return [_larger(v, key) for v in node]
    if not isinstance(node, dict):
        return node
    grown = {}
    for name, value in node.items():
        room = key in ("margin", "pad") or name in ("xshift", "yshift") or (name == "size" and key.endswith("font"))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        grown[name] = round(value * 1.5) if room and number else _larger(value, name)
    return grown


def check(fig: go.Figure) -> None:
    """Refuse a figure that plotly.js 3.3.1 and 4.1.1 would not draw alike.

    Raises:
        ValueError: with one sentence for each finding.
    """
    found = _allow.problems(json.loads(fig.to_json()))
    if found:
        raise ValueError(" ".join(found))


def use_in_notebook() -> None:
    """Switch off "Share chart" and the logo for every figure that this notebook draws."""
    for name in ("plotly_mimetype", "notebook", "notebook_connected", "jupyterlab", "vscode", "colab", "browser"):
        if name in pio.renderers:
            pio.renderers[name].config = {**(pio.renderers[name].config or {}), **CONFIG}
