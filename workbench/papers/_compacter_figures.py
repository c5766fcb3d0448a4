"""The picture of Compacter's idea: a weight matrix put together from Kronecker products."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workbench.errors import UserError
from workbench.figures import style

SCALE = [[0, "#2166AC"], [0.5, "#F7F7F7"], [1, "#B2182B"]]


def pieces(n: int = 2, size: int = 12, width: int = 6, seed: int = 0) -> go.Figure:
    """The n products C_m ⊗ (s_m t_mᵀ) and their sum.

    Args:
        n: number of products; must divide both sizes.
        size: rows, the layer's size.
        width: columns, the bottleneck.
        seed: of the factors.
    """
    if n < 1 or size % n or width % n:
        raise UserError(f"n={n} does not divide {size} and {width}; use 1, 2, 3 or 6.")
    random = np.random.default_rng(seed)
    rule, s = random.normal(size=(n, n, n)), random.normal(size=(n, size // n, 1))
    t = random.normal(size=(n, 1, width // n))
    products = [np.kron(rule[m], s[m] @ t[m]) for m in range(n)]
    shown = [(f"product {m}", product) for m, product in enumerate(products[:3], start=1)]
    shown.append((f"sum of {n}", sum(products)))
    fig, top = go.Figure(), float(np.abs(sum(products)).max())
    for place, (name, matrix) in enumerate(shown):
        fig.add_heatmap(
            z=matrix / top, x=[place * (width + 2) + column for column in range(width)], zmin=-1, zmax=1, zmid=0,
            showscale=False, name=name, colorscale=SCALE, xgap=1, ygap=1, hovertemplate=f"{name}<br>%{{z:.2f}}<extra></extra>",
        )  # fmt: skip
    middles = [place * (width + 2) + (width - 1) / 2 for place in range(len(shown))]
    fig.update_xaxes(
        type="linear", tickmode="array", tickvals=middles, ticktext=[name for name, _ in shown], showgrid=False
    )
    fig.update_yaxes(type="linear", showticklabels=False, ticks="", showgrid=False)
    trained = n**3 + n * (size // n + width // n)
    rank = int(np.linalg.matrix_rank(sum(products)))
    return style.finish(
        fig, title="A matrix put together from Kronecker products", left=24,
        alt=f"{n} products of a {n} × {n} matrix with a thin one; their sum has {size * width} entries and rank {rank}.",
        caption=f"{size} × {width}: {size * width} entries from {trained} numbers, {n**3} of them shared by the whole model. "
        f"Rank of the sum: {rank}. {'Three of the products are shown.' if n > 3 else ''}",
    )  # fmt: skip
