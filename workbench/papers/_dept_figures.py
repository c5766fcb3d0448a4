"""The picture of DePT's idea: one budget, split between prompt tokens and a low-rank change of the embeddings."""

from __future__ import annotations

import plotly.graph_objects as go

from workbench.figures import style


def split(m: int = 40, l: int = 100, d: int = 768, s: int = 256) -> go.Figure:  # noqa: E741 (the paper's letters)
    """Length of the input, and what the numbers are spent on, for prompt tuning and for DePT.

    Args:
        m: DePT's prompt tokens, below l.
        l: tokens of the plain prompt.
        d: size of an embedding.
        s: longest text.
    """
    from workbench.adapters.dept import equal_budget

    r = equal_budget(l, m, d, s)
    rows = {"prompt tuning": (l, l * d, 0), "DePT": (m, m * d, r * (s + d))}
    fig = go.Figure()
    names = list(rows)
    for part, color, values in (
        ("prompt", style.look("prompt").fill, [rows[name][0] for name in names]),
        ("text", style.LIGHT["line"], [s, s]),
    ):
        fig.add_bar(
            x=values, y=names, name=part, orientation="h", marker={"color": color, "line": {"width": 0}},
            hovertemplate=f"{part}: %{{x}} tokens<extra></extra>",
        )  # fmt: skip
    fig.update_layout(barmode="stack", bargap=0.5)
    fig.update_xaxes(type="linear", title_text="Tokens that every layer attends to")
    fig.update_yaxes(type="category")
    saved = 1 - ((m + s) / (l + s)) ** 2
    return style.finish(
        fig, title="One budget, two ways to spend it", left=110, plot=140, top=style.TOP + 24,
        alt=f"DePT reads {m + s} tokens instead of {l + s}: {100 * saved:.0f} percent fewer pairs to attend to.",
        caption=f"Prompt tuning: {l} × {d} = {l * d:,} numbers. DePT: {m} × {d} + {r} × ({s} + {d}) = "
        f"{m * d + r * (s + d):,}. Pairs of tokens: {100 * saved:.0f} percent fewer.".replace(",", "\u2009"),
    )  # fmt: skip
