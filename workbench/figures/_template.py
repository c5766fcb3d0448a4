"""The house template of plotly layouts: every tick, font and colour is set, so that no plotly.js default decides a look.

It holds no trace options, weighs about 1 kB, and replaces plotly.py's own (6 kB in every figure).
"""

from __future__ import annotations

import plotly.graph_objects as go

from workbench.figures.palette import COLORS, LIGHT, readable

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _template() -> go.layout.Template:
    line = {"gridcolor": LIGHT["line"], "linecolor": LIGHT["muted"], "tickcolor": LIGHT["muted"], "linewidth": 1}
    ticks = {"showline": True, "showgrid": True, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickwidth": 1}
    text = {"tickfont": {"color": LIGHT["muted"], "size": 12}, "automargin": False, "tickangle": 0}
    both = {
        **line,
        **ticks,
        **text,
        "tickmode": "auto",
        "nticks": 6,
        "exponentformat": "none",
        "separatethousands": True,
    }
    both["title"] = {"font": {"color": LIGHT["text"], "size": 13}, "standoff": 8}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": LIGHT["text"]},
            "paper_bgcolor": LIGHT["ground"],
            "plot_bgcolor": LIGHT["ground"],
            "colorway": [readable(c, LIGHT["ground"]) for c in COLORS.values()],
            "xaxis": both,
            "yaxis": both,
            "hoverlabel": {
                "bgcolor": LIGHT["raised"],
                "bordercolor": LIGHT["muted"],
                "font": {"family": FONT, "size": 13, "color": LIGHT["text"]},
                "align": "left",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "bgcolor": "rgba(0, 0, 0, 0)",
                "font": {"size": 12, "color": LIGHT["text"]},
            },
            "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": LIGHT["muted"], "activecolor": LIGHT["accent"]},
        }
    )


TEMPLATE = _template()
