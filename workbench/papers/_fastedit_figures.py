"""Pictures of the page `fastedit`: quality against cost, what η trades, the band of noise steps, and strips of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style

if TYPE_CHECKING:
    import torch

LOOKS = {  # arm: whose look it takes; blue trains an adapter, black all weights, grey nothing
    "FastEdit": "lora", "FastEdit, any t": "dora", "FastEdit, reverse t": "pissa", "Imagic": "full",
    "Imagic, equal time": "last-n", "SDEdit": "none", "variation": "base",
}  # fmt: skip
SHORT = {"Imagic, equal time": "Imagic, short"}  # fits a phone


def half_interval(values: pd.Series) -> float:
    """Half width of the 95 % Student interval of the mean; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def interval_words(seeds: int) -> str:
    """What the bars of a figure mean."""
    return f"Bars: 95 % interval over {seeds} seeds." if seeds > 1 else "One seed, no interval."


def quality_against_cost(best: pd.DataFrame) -> go.Figure:
    """Harmonic mean of changed and kept against the cost of one edit; the shaded corner is what the claim asks for.

    Args:
        best: columns seed, arm, harmonic, target, kept and work, or seconds; every arm at its best knob.
    """
    cost = "seconds" if "seconds" in best else "work"
    unit = "seconds" if cost == "seconds" else "billions of multiply-adds"
    fig = go.Figure()
    mean = best.groupby("arm", sort=False)[["harmonic", cost]].mean()
    slow, high = mean.loc["Imagic", cost], mean.loc["Imagic", "harmonic"]
    left = mean[cost].min() / 2.2
    fig.add_shape(
        type="rect", x0=left, x1=slow / 4, y0=high - 3, y1=101, layer="below", line={"width": 0},
        fillcolor=style.alpha(style.LIGHT["good"], 0.12),
    )  # fmt: skip
    labels = _spread({arm: (np.log10(row[cost]), row["harmonic"]) for arm, row in mean.iterrows()}, 4.5)
    for arm, own in best.groupby("arm", sort=False):
        look = style.look(LOOKS[arm])
        x, y = own[cost].mean(), own["harmonic"].mean()
        bars = {"type": "data", "array": [half_interval(own["harmonic"])], "thickness": 1.5, "width": 4}
        fig.add_scatter(
            x=[x], y=[y], name=arm, showlegend=False, mode="markers", error_y={**bars, "color": look.stroke},
            marker={"symbol": look.marker, "size": 12, "color": look.fill, "line": {"color": look.stroke, "width": 1.5}},
            hovertemplate=f"{arm}<br>%{{y:.1f}} points<br>%{{x:.3g}} {unit}<extra></extra>",
        )  # fmt: skip
        end = x > np.sqrt(left * slow * 1.6)
        fig.add_annotation(
            text=SHORT.get(arm, arm), x=np.log10(x), y=labels[arm], xanchor="right" if end else "left",
            xshift=-11 if end else 11, showarrow=False, font={"size": 12, "color": look.ink},
        )  # fmt: skip
    fig.add_annotation(
        text="what the claim asks for", x=np.log10(left), y=101, xanchor="left", yanchor="top", xshift=4, showarrow=False,
        font={"size": 12, "color": style.LIGHT["good"]},
    )  # fmt: skip
    low = min(mean["harmonic"].min() - 8, high - 12)
    fig.update_xaxes(
        type="log", title_text=f"Cost of one edit ({unit}, log scale)", range=[np.log10(left), np.log10(slow * 1.6)]
    )
    fig.update_yaxes(type="linear", title_text="Changed and kept (harmonic mean, percent)", range=[low, 101])
    seeds, ours = best["seed"].nunique(), mean.loc["FastEdit"]
    return style.finish(
        fig, title="Good edits, and what they cost", plot=320,
        alt=f"FastEdit reaches {ours['harmonic']:.0f} points at {ours[cost] / slow:.0%} of Imagic's cost; Imagic {high:.0f}.",
        caption="Each method at its best setting. Blue trains an adapter, black all weights, grey nothing. "
        + interval_words(seeds),
    )  # fmt: skip


def _spread(points: dict[str, tuple[float, float]], gap: float) -> dict[str, float]:
    """Heights of labels: that of their mark, but `gap` points above any label below it within half a decade."""
    placed: dict[str, float] = {}
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        below = [height for other, height in placed.items() if abs(points[other][0] - x) < 0.5]
        placed[name] = max([y, *(height + gap for height in below)])
    return placed


def trade(mean: pd.DataFrame) -> go.Figure:
    """Share of factors changed as asked against share of factors kept, one line per arm over its knob.

    Args:
        mean: columns seed, arm, knob, target, kept in percent, as `averages` makes them.
    """
    fig = go.Figure()
    table = mean.groupby(["arm", "knob"], sort=False)[["target", "kept"]].mean().reset_index()
    for arm, own in table.groupby("arm", sort=False):
        look = style.look(LOOKS[arm])
        fig.add_scatter(
            x=own["kept"], y=own["target"], name=arm, mode="lines+markers",
            line={"color": look.stroke, "width": 2, "dash": look.dash},
            marker={"symbol": look.marker, "size": 9, "color": look.fill, "line": {"color": look.stroke, "width": 1.5}},
            customdata=own["knob"],
            hovertemplate=f"{arm}<br>knob %{{customdata}}<br>kept %{{x:.0f}} %, changed %{{y:.0f}} %<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Kept as it was (percent of factors)")
    fig.update_yaxes(type="linear", title_text="Changed as asked (percent of factors)", range=[-4, 104])
    lines = len(table["arm"].unique())
    top = table.loc[(table["target"] + table["kept"]).idxmax()]
    return style.finish(
        fig, title="What η trades: change against preservation", plot=320, top=style.TOP + 24 * -(-lines // 2),
        alt=f"Best sum of both: {top['arm']} with {top['target']:.0f} % changed as asked and {top['kept']:.0f} % kept.",
        caption="Along a line η grows (SDEdit: strength); up and to the right is better. "
        f"Mean over {mean['seed'].nunique()} seeds.",
    )  # fmt: skip


def noise_band(band: tuple[int, int], delta: float, picture: torch.Tensor, seed: int = 0, shown: int = 9) -> go.Figure:
    """One picture at several noise steps, those that are trained on framed.

    Args:
        band: first step and one past the last.
        delta: distance of picture and words, for the caption.
        picture: (1, 3, H, W) in −1 … 1.
        seed: of the noise.
        shown: how many steps to show.
    """
    import torch

    from workbench.vision.mini_diffusion import build_scheduler

    scheduler = build_scheduler()
    steps = torch.linspace(50, 950, shown).long()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed)).expand(shown, *picture.shape[1:])
    noisy = scheduler.add_noise(picture.expand(shown, *picture.shape[1:]), noise, steps).clamp(-1, 1)
    inside = [band[0] <= int(t) < band[1] for t in steps]
    fig = strip(noisy, [str(int(t)) for t in steps], title="The noise steps that are trained on", marked=inside)
    words = f"Framed: steps {band[0]} to {band[1]} of 1000, for a distance of picture and words of {delta:.2f}."
    fig.layout.meta = {**fig.layout.meta, "alt": f"A picture growing noisier; {words[:1].lower()}{words[1:]}"}
    return style.caption(fig, f"{words} Left is nearly clean, right nearly noise.")


def strip(
    pictures: torch.Tensor, names: Sequence[str], title: str = "From the picture to the words",
    marked: Sequence[bool] = (), per_row: int = 5, caption: str = "",
) -> go.Figure:  # fmt: skip
    """Small pictures in rows, with a word under each.

    Args:
        pictures: (n, 3, H, W) in −1 … 1.
        names: n words.
        title: of the figure.
        marked: which ones get a frame in the accent colour.
        per_row: pictures in a row, so that a phone shows them.
        caption: under the plot.
    """
    side, gap, below = pictures.shape[-1], 3, 7
    per_row = min(per_row, len(pictures))
    lines = -(-len(pictures) // per_row)
    canvas = np.full((lines * (side + below), per_row * (side + gap) - gap, 3), (251, 250, 247), dtype=np.uint8)
    fig = go.Figure()
    for index, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        top, left = index // per_row * (side + below), index % per_row * (side + gap)
        values = ((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        canvas[top : top + side, left : left + side] = values
        fig.add_annotation(
            text=name, x=left + side / 2 - 0.5, y=top + side, yanchor="top", showarrow=False,
            font={"size": 12, "color": style.LIGHT["text"]},
        )  # fmt: skip
        if index < len(marked) and marked[index]:
            fig.add_shape(
                type="rect", x0=left - 0.5, x1=left + side - 0.5, y0=top - 0.5, y1=top + side - 0.5,
                line={"color": style.LIGHT["accent"], "width": 3},
            )  # fmt: skip
    fig.add_image(z=canvas, hoverinfo="skip")
    hidden = {
        "showticklabels": False,
        "ticks": "",
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "type": "linear",
    }
    fig.update_xaxes(**hidden, range=[-1, canvas.shape[1]], constrain="domain")
    fig.update_yaxes(**hidden, range=[canvas.shape[0], -1], scaleanchor="x", constrain="domain")
    return style.finish(
        fig, title=title, left=12, right=12, bottom=14, plot=round(400 / per_row + 22) * lines,
        alt=f"{len(names)} pictures: {', '.join(names)}."[:390], caption=caption,
    )  # fmt: skip
