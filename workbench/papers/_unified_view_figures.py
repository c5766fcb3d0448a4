"""The picture of the unified view's identity: how much of a query's attention goes to the prefix."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workbench.figures import style


def gate(length: int = 16, lengths: tuple[int, ...] = (16, 128, 1024)) -> go.Figure:
    """λ against the lead of the prefix's logits over the text's, for texts of several lengths.

    Args:
        length: l, keys of the prefix.
        lengths: numbers of text tokens.
    """
    lead, fig = np.linspace(-6, 6, 61), go.Figure()
    middle = {}
    for count, dash in zip(lengths, ("solid", "dash", "dot"), strict=False):
        share = length * np.exp(lead) / (length * np.exp(lead) + count)
        middle[count] = float(share[30])
        fig.add_scatter(
            x=lead.tolist(), y=(100 * share).tolist(), name=f"{count} text tokens", mode="lines",
            line={"color": style.look("prefix").stroke, "width": 2, "dash": dash},
            hovertemplate=f"{count} text tokens, lead %{{x:.1f}}: %{{y:.0f}} percent<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Lead of the prefix's logits over the text's")
    fig.update_yaxes(type="linear", title_text="λ (percent)", range=[-3, 103])
    told = ", ".join(f"{100 * share:.0f} % beside {count} tokens" for count, share in middle.items())
    return style.finish(
        fig, title="Share of attention that goes to the prefix", top=style.TOP + 24 * 2,
        alt=f"With equal logits a prefix of {length} takes {told}.",
        caption=f"A prefix of {length} keys; all keys of one kind have the same logit.",
    )  # fmt: skip
