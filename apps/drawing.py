"""A figure on a page: the plot, its caption and alt text, and "open as notebook cell" with the data behind it.

Gradio's own plot component builds a plot anew whenever its value changes, which loses a reader's zoom, and it draws with
another plotly.js than notebooks do. Here one `gr.HTML` hands the figure's JSON to `workbench.figure` in static/app.js, which
calls `Plotly.react` of the plotly.js that plotly.py ships: zoom stays (`uirevision`), light and dark are exchanged in the
browser, and app, notebook and report draw with one library.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style

ROWS = 5_000  # rows of data a figure carries for its CSV
TEMPLATE = """<figure class="wb-fig"><h3></h3><div class="wb-plot" role="img"></div><p class="wb-caption"></p>
<details hidden><summary>Notebook cell and data</summary><pre class="wb-code"><code></code></pre>
<button type="button" class="wb-button wb-copy">Copy the cell</button>
<button type="button" class="wb-button wb-csv">Download data (CSV)</button>
<button type="button" class="wb-button wb-html">Download figure (HTML)</button></details></figure>"""


def payload(fig: go.Figure, *, name: str, cell: str = "", rows: pd.DataFrame | None = None) -> str:
    """A figure as the component takes it.

    Args:
        fig: a light figure of `workbench.figures`.
        name: file name of downloads, without its ending.
        cell: the few lines that redraw it in a notebook; a test runs them.
        rows: the data behind it; left out, what its traces hold.
    """
    picture, title, caption = style.bare(fig)
    plain = json.loads(picture.to_json())
    rows = drawn(fig) if rows is None else rows
    csv = "" if rows.empty else rows.head(ROWS).to_csv(index=False)
    return json.dumps(
        {
            "data": plain["data"], "layout": plain["layout"], "title": title, "caption": caption,
            "alt": style.alt(fig) or title, "name": name, "cell": cell, "csv": csv,
        }
    )  # fmt: skip


def drawn(fig: go.Figure) -> pd.DataFrame:
    """The numbers in a figure's traces: trace, x, y, z, and value where a trace is a grid."""
    parts = []
    for trace in fig.data:
        if trace.type in ("heatmap", "contour"):
            values = np.asarray(trace.z, dtype=float)
            x = np.arange(values.shape[1]) if trace.x is None else np.asarray(trace.x)
            y = np.arange(values.shape[0]) if trace.y is None else np.asarray(trace.y)
            held = {"x": np.tile(x, len(y)), "y": np.repeat(y, len(x)), "value": values.ravel()}
        else:
            held = {axis: list(trace[axis]) for axis in "xyz" if axis in trace and trace[axis] is not None}
        parts.append(pd.DataFrame(held).assign(trace=trace.name or trace.type))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def component(fig: go.Figure | None = None, *, name: str = "figure", **options: Any) -> gr.HTML:
    """A place for a figure; give events `payload(…)` as its value."""
    return gr.HTML(
        None if fig is None else payload(fig, name=name), html_template=TEMPLATE, apply_default_css=False,
        js_on_load="workbench.figure(element, props, watch)", **options,
    )  # fmt: skip
