"""Pictures of the step law: the loss valley of one cell, the verdict on held-out cells, a planned setting beside the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import UserError
from workbench.figures import _frames, style
from workbench.figures._switch import log_ticks
from workbench.figures.formats import number
from workbench.scaling.hyperparameters import RULES, plateau

if TYPE_CHECKING:
    from workbench.scaling.hyperparameters import HyperparameterLaw

VIRIDIS = [
    "#FDE725",
    "#7AD151",
    "#22A884",
    "#2A788E",
    "#414487",
    "#440154",
]  # light is low: the floor of the valley is bright
STEEP = 6.0  # percent above the best at which the colour stops
REACH = 4.0  # doublings above the largest batch of the grid that the picture of a valley may show
RATE, BATCH = "Learning rate (log scale)", "Batch (tokens per step, log scale)"
ARMS = {  # arm: (colour, marker, words)
    "step law": ("accent", "circle", "step law"),
    "best single": ("muted", "diamond", "one setting for all"),
    "DeepSeek form": ("text", "square", "power of compute"),
}


def valley(cell: pd.DataFrame, law: HyperparameterLaw | None = None, within: float = 0.005) -> go.Figure:
    """The loss over learning rate and batch in one cell, its plateau, and where the rules would have gone.

    Args:
        cell: columns n, d, lr, batch_tokens, loss: the settings of one (N, D).
        law: fitted without this cell, drawn as a star with its 95 % interval.
        within: height of the plateau's contour, as a share of the loss.
    """
    n, d, best = float(cell["n"].iloc[0]), float(cell["d"].iloc[0]), cell.loc[cell["loss"].idxmin()]
    excess = (100 * (cell["loss"] / best["loss"] - 1)).to_numpy(float)
    x, y = np.log2(cell["lr"].to_numpy(float)), np.log2(cell["batch_tokens"].to_numpy(float))
    fig = go.Figure()
    grid = pd.DataFrame({"x": x, "y": y, "z": excess}).pivot(index="y", columns="x", values="z")
    fig.add_heatmap(
        x=list(grid.columns), y=list(grid.index), z=[_frames.plain(row) for row in grid.clip(upper=STEEP).to_numpy()],
        zmin=0, zmax=STEEP, showscale=False, colorscale=[[i / 5, color] for i, color in enumerate(VIRIDIS)], xgap=2, ygap=2,
        customdata=grid.to_numpy().round(3).tolist(), name="loss", opacity=0.85,
        hovertemplate="log2 rate %{x:.1f}, log2 batch %{y:.0f}<br>%{customdata} % above the best<extra></extra>",
    )  # fmt: skip
    for part, color in ((excess < 0.55 * STEEP, "#1D2126"), (excess >= 0.55 * STEEP, "#FFFFFF")):
        fig.add_scatter(
            x=_frames.plain(x[part]), y=_frames.plain(y[part] - 0.28), mode="text", showlegend=False, hoverinfo="skip",
            text=[f"{value:.1f}" if value < 99.5 else "∞" for value in excess[part]], name="percent",
            textfont={"size": 11, "color": color},
        )  # fmt: skip
    dots, outside, top = _rules(n, d, (x.min() - 0.75, x.max() + 0.75), (y.min() - 0.5, y.max() + REACH))
    span = [x.min() - 0.75, x.max() + 0.75], [y.min() - 0.5, max(y.max(), top) + 0.5]
    told = _contour(fig, cell, within, span)
    if law is not None:
        _star(fig, law, n, d, span)
    _axes(fig, sorted(set(x)), list(np.arange(y.min(), span[1][1])))
    fig.update_xaxes(range=span[0])
    fig.update_yaxes(range=span[1])
    for name, at, marker in dots:
        fig.add_scatter(
            x=[at[0]], y=[at[1]], mode="markers", name=name, showlegend=True,
            marker={"symbol": marker, "size": 12, "color": style.LIGHT["bad"], "line": {"width": 2, "color": "#FFFFFF"}},
            hovertemplate=f"{name}<br>rate {2 ** at[0]:.3g}<br>batch {2 ** at[1]:.0f}<extra></extra>",
        )  # fmt: skip
    fig.update_layout(hovermode="closest", showlegend=True, legend={"title": {"text": ""}})
    return style.finish(
        fig, title=f"The loss valley of {short(n)} parameters on {short(d)} tokens", left=66, plot=330,
        top=style.TOP + 48,
        alt=f"Lowest loss {best['loss']:.3f} nats at rate {best['lr']:.2g} and batch {best['batch_tokens']:.0f}; {told}.",
        caption=f"Numbers: percent above the lowest loss, {best['loss']:.3f} nats; one run each. Line: {told}."
        + (" Star: law fitted to the other cells, with its 95 % interval." if law is not None else "")
        + (" Red: rules published for models thousands of times larger." if dots else "")
        + outside,
    )  # fmt: skip


def _contour(fig: go.Figure, cell: pd.DataFrame, within: float, span: tuple[list[float], list[float]]) -> str:
    """Draw the plateau's edge where it lies inside the picture; says what it is."""
    try:
        found = plateau(cell, within)
    except UserError:
        return "too few runs near the best for a plateau"
    if not found.convex:
        return "no plateau, the fitted quadratic has no minimum"
    edge = np.log2(found.contour)
    inside = np.all([(edge[:, i] >= span[i][0]) & (edge[:, i] <= span[i][1]) for i in (0, 1)], axis=0)
    fig.add_scatter(
        x=_frames.plain(np.where(inside, edge[:, 0], np.nan)), y=_frames.plain(np.where(inside, edge[:, 1], np.nan)),
        mode="lines", name=f"+{100 * within:g} %", showlegend=False, line={"color": style.LIGHT["text"], "width": 2},
        hoverinfo="skip",
    )  # fmt: skip
    low, high = found.contour[:, 0].min(), found.contour[:, 0].max()
    return f"the plateau of +{100 * within:g} % spans rates a factor {high / low:.1f} apart"


def _rules(
    n: float, d: float, x: tuple[float, float], y: tuple[float, float]
) -> tuple[list[tuple[str, tuple[float, float], str]], str, float]:
    """Published rules that name a point inside the ranges (log₂), a sentence about the others, and the highest batch (log₂)."""
    inside, outside = [], []
    marks = iter(style.MARKERS)
    for name, rule in RULES.items():
        setting = rule(n, d)
        if rule.own_units or setting.batch_tokens is None:
            continue
        at = (float(np.log2(setting.lr)), float(np.log2(setting.batch_tokens)))
        if x[0] <= at[0] <= x[1] and y[0] <= at[1] <= y[1]:
            inside.append((name, at, next(marks)))
        else:
            outside.append(f"{name} (rate {setting.lr:.2g}, batch {setting.batch_tokens:.0f})")
    top = max((at[1] for _, at, _ in inside), default=y[0])
    return inside, f" Outside the picture: {', '.join(outside)}." if outside else "", top


def _star(fig: go.Figure, law: HyperparameterLaw, n: float, d: float, span: tuple[list[float], list[float]]) -> None:
    """The fitted law's setting with its interval, cut at the picture's edge."""
    told = law.predict(n, d)
    (x, x0, x1), (y, y0, y1) = (np.log2(told[name]) for name in ("lr", "batch_tokens"))
    x0, x1, y0, y1 = max(x0, span[0][0]), min(x1, span[0][1]), max(y0, span[1][0]), min(y1, span[1][1])
    fig.add_scatter(
        x=[x], y=[y], mode="markers", name="fitted here", showlegend=True,
        marker={"symbol": "star", "size": 16, "color": style.LIGHT["accent"], "line": {"width": 1.5, "color": "#FFFFFF"}},
        error_x={"type": "data", "symmetric": False, "array": [max(x1 - x, 0)], "arrayminus": [max(x - x0, 0)],
                 "color": style.LIGHT["accent"], "thickness": 2},
        error_y={"type": "data", "symmetric": False, "array": [max(y1 - y, 0)], "arrayminus": [max(y - y0, 0)],
                 "color": style.LIGHT["accent"], "thickness": 2},
        hovertemplate=f"fitted here<br>rate {told['lr'][0]:.3g}<br>batch {told['batch_tokens'][0]:.0f}<extra></extra>",
    )  # fmt: skip


def _axes(fig: go.Figure, x: list[float], y: list[float]) -> None:
    """Linear axes over log₂ values, with the values themselves at the ticks."""
    fig.update_xaxes(type="linear", tickmode="array", tickvals=x, ticktext=[f"{2**v:.2g}" for v in x], title_text=RATE)
    fig.update_yaxes(type="linear", tickmode="array", tickvals=y, ticktext=[f"{2**v:.0f}" for v in y], title_text=BATCH)
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showgrid=False)


def short(value: float) -> str:
    """A count in few letters: 300 k, 2 M, 50 B; powers of ten from a trillion up."""
    if value >= 1e12:
        power = np.floor(np.log10(value))
        return f"{value / 10**power:.3g}·10<sup>{power:.0f}</sup>"
    unit, name = next(
        ((unit, name) for unit, name in ((1e9, "\u00a0B"), (1e6, "\u00a0M"), (1e3, "\u00a0k")) if value >= unit),
        (1, ""),
    )
    return f"{value / unit:.3g}{name}"


def verdict(rows: pd.DataFrame, target: float) -> go.Figure:
    """Excess loss on the held-out cells by arm, a dot for each seed, and the mean over cells on top.

    Args:
        rows: columns seed, n, d, arm, excess (percent over the grid's best).
        target: percent that the mean has to stay below.
    """
    fig = go.Figure()
    cells = sorted(set(zip(rows["n"], rows["d"], strict=True)), reverse=True)
    texts = [f"{short(n)} · {short(d)}" for n, d in cells] + ["mean"]
    step = 0.24
    means = {}
    for index, (arm, (color, marker, words)) in enumerate(ARMS.items()):
        own = rows[rows["arm"] == arm]
        shift = (1 - index) * step
        fig.add_scatter(
            x=_frames.plain(own["excess"]), mode="markers", name=words, showlegend=True, legendgroup=arm,
            y=[cells.index(place) + shift for place in zip(own["n"], own["d"], strict=True)],
            marker={"symbol": marker, "size": 8, "color": style.alpha(style.LIGHT[color], 0.75), "line": {"width": 0}},
            hovertext=[f"{words}, seed {r.seed}<br>rate {r.lr:.3g}, batch {r.batch_tokens:.0f}<br>{r.excess:+.2f} %"
                       for r in own.itertuples()],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
        seeds = own.groupby("seed")["excess"].mean()
        means[arm] = float(seeds.mean())
        half = 0.0
        if len(seeds) > 1:
            from scipy.stats import t

            half = float(t.ppf(0.975, len(seeds) - 1) * seeds.std() / len(seeds) ** 0.5)
        fig.add_scatter(
            x=[means[arm]], y=[len(cells) + shift], mode="markers", showlegend=False, legendgroup=arm, name=words,
            marker={"symbol": marker, "size": 13, "color": style.LIGHT[color], "line": {"width": 0}},
            error_x={"type": "data", "array": [half], "color": style.LIGHT[color], "thickness": 2, "width": 5},
            hovertemplate=f"{words}: mean {means[arm]:+.2f} %<extra></extra>",
        )  # fmt: skip
    low, high = _frames.spread([*rows["excess"], 0.0, 1.3 * target], pad=0.08)
    fig.add_vline(x=0, line={"color": style.LIGHT["muted"], "width": 1})
    fig.add_vline(x=target, line={"color": style.LIGHT["caution"], "width": 2, "dash": "dash"})
    fig.add_annotation(
        name="label", text=f"{target:g} %", x=target, y=len(cells) + 0.5, yanchor="bottom", xanchor="left", xshift=3,
        showarrow=False, font={"size": 12, "color": style.LIGHT["caution"]},
    )  # fmt: skip
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(texts))), ticktext=texts, showgrid=False)
    fig.update_yaxes(range=[-0.6, len(cells) + 0.9])
    fig.update_xaxes(type="linear", range=[low, high], tickmode="auto", title_text="Loss over the grid's best (%)")
    fig.update_layout(hovermode="closest", showlegend=True)
    told = ", ".join(f"{words} {means[arm]:+.2f} %" for arm, (_, _, words) in ARMS.items())
    seeds = rows["seed"].nunique()
    bars = f"bars: 95 % interval over {seeds} seeds" if seeds > 1 else "one seed, no interval"
    return style.finish(
        fig, title="What a setting costs on cells it was not fitted to", left=120, plot=44 * len(texts) + 20,
        top=style.TOP + 72,
        alt=f"Mean loss over the grid's best: {told}.",
        caption=f"Rows: parameters · tokens of the cell left out. One dot for each seed; {bars}. Mean: {told}. Dashed: the "
        f"claim's limit.",
    )  # fmt: skip


def setting(law: HyperparameterLaw, n: float, d: float, seen: tuple[float, float, float, float]) -> go.Figure:
    """The setting for a run to be: the fitted law with its interval, and the published rules, in the plane of rate and batch.

    Args:
        law: fitted.
        n: parameters without embeddings.
        d: training tokens.
        seen: smallest and largest N, smallest and largest D of the fitted cells.
    """
    told = law.predict(n, d)
    points = [("fitted here", told["lr"][0], told["batch_tokens"][0])]
    only_rate = []
    for name, rule in RULES.items():
        found = rule(n, d)
        if rule.own_units:
            continue
        if found.batch_tokens is None:
            only_rate.append(f"{name} {found.lr:.2g}")
        else:
            points.append((name, found.lr, found.batch_tokens))
    (lr, lr0, lr1), (batch, batch0, batch1) = told["lr"], told["batch_tokens"]
    xs, ys = [lr0, lr1, *(p[1] for p in points)], [batch0, batch1, *(p[2] for p in points)]
    spans = [_frames.spread(values, log=True, pad=0.12) for values in (xs, ys)]
    fig = go.Figure()
    fig.add_scatter(
        x=_frames.plain([lr0, lr1, lr1, lr0, lr0]), y=_frames.plain([batch0, batch0, batch1, batch1, batch0]), mode="lines",
        fill="toself", fillcolor=style.alpha(style.LIGHT["accent"], 0.12), line={"width": 0, "color": style.LIGHT["accent"]},
        hoverinfo="skip", showlegend=False, name="interval",
    )  # fmt: skip
    shares = [
        tuple((np.log10(v) - low) / (high - low) for v, (low, high) in zip(p[1:], spans, strict=True)) for p in points
    ]
    shifts = _frames.place(shares, [p[0] for p in points], 270, widths=(300, 640, 1080))
    for i, ((name, x, y), shift) in enumerate(zip(points, shifts, strict=True)):
        color = style.LIGHT["accent" if i == 0 else "bad"]
        fig.add_scatter(
            x=[x], y=[y], mode="markers", name=name, showlegend=False,
            marker={"symbol": "star" if i == 0 else style.MARKERS[i - 1], "size": 16 if i == 0 else 11, "color": color,
                    "line": {"width": 1, "color": style.LIGHT["ground"]}},
            hovertemplate=f"{name}<br>rate {x:.3g}<br>batch {number(y)} tokens<extra></extra>",
        )  # fmt: skip
        if shift:
            fig.add_annotation(
                name="label", text=name, x=np.log10(x), y=np.log10(y), xshift=shift[0], yshift=shift[1], showarrow=False,
                font={"size": 12, "color": color},
            )  # fmt: skip
    for which, span, title in (("x", spans[0], RATE), ("y", spans[1], BATCH)):
        ticks, texts = log_ticks(10 ** span[0], 10 ** span[1])
        if which == "y":
            texts = [short(tick) for tick in ticks]
        elif ticks[0] < 1e-4:
            texts = [f"10<sup>{np.log10(tick):.0f}</sup>" for tick in ticks]
        axis = {"type": "log", "range": span, "tickmode": "array", "tickvals": ticks, "ticktext": texts}
        fig.update_layout({f"{which}axis": axis | {"title": {"text": title}}})
    beyond = max(np.log10(seen[0] / n), np.log10(n / seen[1]), np.log10(seen[2] / d), np.log10(d / seen[3]), 0.0)
    where = f"{beyond:.1f} decades beyond the fitted cells" if beyond > 0.05 else "inside the fitted cells"
    told_words = (
        f"rate {lr:.2g} ({lr0:.2g} to {lr1:.2g}), batch {number(batch)} tokens ({number(batch0)} to {number(batch1)})"
    )
    fig.update_layout(hovermode="closest", showlegend=False)
    return style.finish(
        fig, title=f"A setting for {short(n)} parameters on {short(d)} tokens", left=74, plot=270,
        alt=f"Fitted here: {told_words}, {where}.",
        caption=f"Star: {told_words}, {where}; box: 95 % interval over resampled cells. Red: published rules."
        + (f" Rate only: {', '.join(only_rate)}." if only_rate else ""),
    )  # fmt: skip
