"""What a figure may contain: only what plotly.js 3.3.1 (Gradio 6.31) and 4.1.1 (plotly.py 7.1, JupyterLab) draw alike.

`allowed_options.txt` (made by tests/figures/make_allowed_options.py) holds every option name that the two libraries' own
schemas share for the trace types below and for a layout without maps, polar, ternary and Smith charts. plotly.py has
already checked each name against its place in the newer schema, so a name on the list at a place that plotly.py accepts
exists in both; the single exception found by comparing the schemas place by place is `ONLY_NEWER`. Four habits close what
schemas do not say: explicit axis types (guessing differs), no synchronised ticks, colours in plain notation, nothing fetched.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSIONS = ("3.3.1", "4.1.1")  # of Gradio 6.31, of plotly.py 7.1
TRACES = frozenset(
    ["scatter", "bar", "heatmap", "contour", "histogram", "box", "violin", "scatter3d", "surface", "mesh3d", "image"]
)
ONLY_NEWER = frozenset(
    {"scatter.marker.line.dash"}
)  # exists in 4.1.1, not in 3.3.1, under a name that both know elsewhere
_COLOR_KEYS = re.compile(r"color$")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}|rgba?\(\s*\d+(\s*,\s*[\d.]+){2,3}\s*\)")
_AXIS = re.compile(r"[xy]axis\d*$")
# Values under these keys are data or free text, not options.
_DATA = frozenset({"meta", "customdata", "x", "y", "z", "text", "hovertext", "ids", "args", "args2"})


@functools.cache
def options() -> frozenset[str]:
    """Every option name that both versions know."""
    return frozenset((Path(__file__).parent / "allowed_options.txt").read_text(encoding="utf-8").split())


def problems(figure: dict[str, Any]) -> list[str]:
    """One sentence for each thing in a figure (as plain JSON data) that the two versions would not draw alike."""
    found = list(_walk(figure.get("layout", {}), "layout"))
    for i, trace in enumerate(figure.get("data", [])):
        kind = trace.get("type", "scatter")
        if kind not in TRACES:
            found.append(f"data[{i}] is a {kind!r} trace; use one of: {', '.join(sorted(TRACES))}.")
            continue
        found += _walk({k: v for k, v in trace.items() if k != "type"}, kind)
    layout = figure.get("layout", {})
    if not layout.get("uirevision"):
        found.append("layout.uirevision is not set, so a redraw would lose the reader's zoom; end with style.finish().")
    if not (layout.get("meta") or {}).get("alt"):
        found.append("layout.meta['alt'] is missing: give style.finish() one sentence with the finding.")
    for name, axis in layout.items():
        if _AXIS.match(name) and isinstance(axis, dict):
            if not axis.get("type"):
                found.append(f"layout.{name}.type is not set; say linear, log or category.")
            if axis.get("overlaying") and axis.get("tickmode") not in ("auto", "linear", "array"):
                found.append(f"layout.{name} overlays another axis, so it needs an explicit tickmode.")
    return found


def _walk(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, list):
        for value in node:
            if isinstance(value, dict):
                yield from _walk(value, path)
        return
    for key, value in node.items():
        here = f"{path}.{key}"
        if key == "template":
            yield from _template(value)
            continue
        if key not in options() or here in ONLY_NEWER:
            yield f"{here} is not an option of both plotly.js 3.3.1 and 4.1.1."
        elif key == "tickmode" and value == "sync":
            yield f"{here} is 'sync', which the two versions place differently; set the ticks."
        elif isinstance(value, str) and _COLOR_KEYS.search(key) and not _COLOR.fullmatch(value):
            yield f"{here} is {value!r}; write colours as #rrggbb or rgba(r, g, b, a)."
        elif key == "source" and isinstance(value, str) and not value.startswith("data:"):
            yield f"{here} points outside the figure; embed the picture as a data URI."
        elif key not in _DATA and isinstance(value, dict | list):
            yield from _walk(value, here)


def _template(template: dict[str, Any]) -> Iterator[str]:
    yield from _walk(template.get("layout", {}), "template.layout")
    if template.get("data"):
        yield "template.data is not empty: set trace options on the traces."
