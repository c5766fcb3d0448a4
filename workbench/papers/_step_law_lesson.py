"""What lesson 12 shows beside the page `step-law`: the budget's valley, the whole life of a model, tied constants, one plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import UserError
from workbench.figures import _frames, style
from workbench.figures._switch import log_ticks
from workbench.figures.formats import number
from workbench.papers._step_law_figures import short
from workbench.scaling import planner


def chinchilla_law() -> Any:
    """The law fitted to the 240 published points that ship here (the five highest losses left out, as published)."""
    from workbench.paths import assets
    from workbench.scaling import ScalingLaw

    points = pd.read_csv(assets() / "scaling" / "chinchilla.csv")
    return ScalingLaw("chinchilla").fit(points[points["loss"] < points["loss"].nlargest(5).min()])


def _loss(law: Any, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return law.predict(pd.DataFrame({"N": n, "D": d}))


def _log(fig: go.Figure, which: str, title: str, low: float, high: float) -> None:
    ticks, texts = log_ticks(low, high)
    if high > 1e13:  # FLOP: whole powers of ten
        powers = np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
        ticks, texts = [float(10**p) for p in powers], [f"10<sup>{p:.0f}</sup>" for p in powers]
    elif high >= 1000:
        ticks, texts = ticks[:: -(-len(ticks) // 5)], [short(tick) for tick in ticks[:: -(-len(ticks) // 5)]]
    axis = {"type": "log", "range": [np.log10(low), np.log10(high)], "tickmode": "array", "tickvals": ticks, "ticktext": texts,
            "title": {"text": title}}  # fmt: skip
    fig.update_layout({f"{which}axis": axis})


def budget(law: Any, flops: float, bootstrap: Any) -> go.Figure:
    """Expected loss over model size at a fixed training budget: too small a model, or too few tokens.

    Args:
        law: fitted, of N and D.
        flops: training budget.
        bootstrap: of the law, for the interval of the best size.
    """
    best, tokens, lowest = (float(v[0]) for v in planner.compute_optimal(law, flops))
    sizes, _, _ = planner.compute_optimal(law, flops, bootstrap.samples)
    low, high = np.quantile(sizes, [0.025, 0.975])
    n = best * np.geomspace(1 / 30, 30, 121)
    fig = go.Figure()
    fig.add_shape(
        type="rect", xref="x", x0=low, x1=high, yref="paper", y0=0, y1=1, layer="below",
        fillcolor=style.alpha(style.LIGHT["accent"], 0.12), line={"width": 0, "color": style.LIGHT["accent"]},
    )  # fmt: skip
    losses = []
    for factor, color, width in ((0.1, "muted", 1.5), (1.0, "accent", 3), (10.0, "muted", 1.5)):
        loss = _loss(law, n, factor * flops / 6 / n)
        losses += [float(loss.min()), float(loss[len(n) // 2])]
        fig.add_scatter(
            x=_frames.plain(n), y=_frames.plain(loss), mode="lines", name=f"{factor * flops:.1e} FLOP", showlegend=False,
            line={"color": style.LIGHT[color], "width": width}, hovertemplate="N %{x:.3g}<br>loss %{y:.3f}<extra></extra>",
        )  # fmt: skip
        fig.add_annotation(
            name="label", text="your budget" if factor == 1 else f"{factor:g} ×", x=float(np.log10(n[loss.argmin()])),
            y=float(np.log10(loss.min())), yanchor="top", yshift=-10, showarrow=False,
            font={"size": 12, "color": style.LIGHT[color]},
        )  # fmt: skip
    fig.add_scatter(
        x=[best], y=[lowest], mode="markers", name="best", showlegend=False,
        marker={"symbol": "star", "size": 16, "color": style.LIGHT["accent"], "line": {"width": 1.5, "color": "#FFFFFF"}},
        hovertemplate=f"{number(best)} parameters, {number(tokens)} tokens<br>loss {lowest:.3f}<extra></extra>",
    )  # fmt: skip
    edge = _loss(law, n[:1], flops / 60 / n[:1])[0]
    _log(fig, "x", "Model size (parameters, log scale)", n[0], n[-1])
    _log(fig, "y", "Expected loss (nats per token, log scale)", min(losses) * 0.96, edge * 1.02)
    fig.update_layout(hovermode="closest")
    words = f"{number(best)} parameters ({number(low)} to {number(high)}) on {number(tokens)} tokens"
    beyond = _beyond(law, best, tokens)
    return style.finish(
        fig, title="One budget, many sizes", left=70, alt=f"Best for {flops:.1e} FLOP: {words}, loss {lowest:.3f} nats.",
        caption=f"Star: {words}, {tokens / best:.0f} tokens per parameter, loss {lowest:.3f}. Shaded: 95 % interval of the "
        f"best size. Grey: a tenth and ten times the budget.{beyond}",
    )  # fmt: skip


def _beyond(law: Any, n: float, d: float) -> str:
    from workbench.scaling.holdout import decades_beyond

    far = float(decades_beyond(law, pd.DataFrame({"N": [n], "D": [d]}))[0])
    return f" The star lies {far:.1f} decades beyond the fitted runs." if far > 0.05 else ""


def whole_life(law: Any, flops: float, served: float) -> go.Figure:
    """Compute of training and serving at one loss, over model size; the cheapest size for the whole life is marked.

    Args:
        law: fitted, of N and D.
        flops: training budget whose best loss all sizes here reach.
        served: tokens the model will read or write in its life.
    """
    best, tokens, loss = (float(v[0]) for v in planner.compute_optimal(law, flops))
    line = planner.iso_loss(law, loss, points=4000)
    n, d = line["N"].to_numpy(float), line["D"].to_numpy(float)
    small, long = planner.inference_aware(law, loss, served)
    kept = (n > min(best / 8, small * 0.9)) & (n < best * 4) & (d < max(300 * tokens, 3 * long))
    n, d = n[kept], d[kept]
    parts = {"training": 6 * n * d, "serving": 2 * n * served, "both": 6 * n * d + 2 * n * served}
    saved = 1 - (6 * small * long + 2 * small * served) / (flops + 2 * best * served)
    fig = go.Figure()
    lines = {"training": ("muted", "dash"), "serving": ("muted", "dot"), "both": ("accent", "solid")}
    for name, (color, dash) in lines.items():
        if name == "serving" and not served:
            continue
        fig.add_scatter(
            x=_frames.plain(n[::8]), y=_frames.plain(parts[name][::8]), mode="lines", name=name, showlegend=False,
            line={"color": style.LIGHT[color], "width": 3 if name == "both" else 1.8, "dash": dash},
            hovertemplate=f"{name}<br>N %{{x:.3g}}<br>%{{y:.3g}} FLOP<extra></extra>",
        )  # fmt: skip
    for name, symbol, x, y in (
        ("cheapest to train", "circle", best, flops + 2 * best * served),
        ("cheapest in all", "star", small, 6 * small * long + 2 * small * served),
    ):
        fig.add_scatter(
            x=[x], y=[y], mode="markers", name=name, showlegend=False,
            marker={"symbol": symbol, "size": 15, "color": style.LIGHT["text" if symbol == "circle" else "accent"],
                    "line": {"width": 1.5, "color": "#FFFFFF"}},
            hovertemplate=f"{name}<br>{number(x)} parameters<extra></extra>",
        )  # fmt: skip
    top = parts["both"].min() * 30
    low = max(min(parts["training"].min(), parts["serving"].min() if served else np.inf), parts["both"].min() / 100)
    _log(fig, "x", "Model size (parameters, log scale)", n.min(), n.max())
    _log(fig, "y", "Compute at equal loss (FLOP, log scale)", low / 1.5, top)
    _name_lines(fig, {name: float(parts[name][-1]) for name in lines if name != "serving" or served}, low / 1.5, top)
    fig.update_layout(hovermode="closest", showlegend=False)
    words = f"{number(small)} parameters on {number(long)} tokens, {number(long / small)} per parameter"
    return style.finish(
        fig, title="The whole life of a model", left=74, right=64,
        alt=f"For {number(served)} served tokens the cheapest model has {words}; it saves {saved:.0%}.",
        caption=f"Every size here reaches a loss of {loss:.3f} nats. Star: cheapest in all, {words}; over its life it needs "
        f"{saved:.0%} less compute than the dot, the size that is cheapest to train ({number(best)} on {number(tokens)}).",
    )  # fmt: skip


def _name_lines(fig: go.Figure, ends: dict[str, float], low: float, high: float) -> None:
    """Names of lines at the right edge of the plot, next to where each ends, and apart from each other."""
    pixels = [np.log10(end / low) / np.log10(high / low) * style.PLOT for end in ends.values()]
    for name, own, moved in zip(ends, pixels, _frames.apart(pixels, 15), strict=True):
        color = style.LIGHT["accent" if name == "both" else "muted"]
        fig.add_annotation(
            name="label", text=name, xref="paper", x=1, xanchor="left", xshift=4, y=float(np.log10(ends[name])),
            yshift=moved - own, showarrow=False, font={"size": 12, "color": color},
        )  # fmt: skip


def tied(law: Any, name: str = "B") -> go.Figure:
    """Constant against exponent over the bootstrap: neither is known, their combination is.

    Args:
        law: a fitted `HyperparameterLaw`.
        name: "B" (constant and exponent of D in the batch) or "lr" (constant and exponent of N in the rate).
    """
    pairs = {"B": ("B", "B_D", "batch", "D"), "lr": ("lr", "lr_N", "rate", "N")}
    if name not in pairs:
        raise UserError(f"Pairs are drawn for B and lr, not {name!r}.")
    constant, slope, words, axis = pairs[name]
    names = list(law.parameters_)
    x, y = law.draws_[:, names.index(slope)], np.exp(law.draws_[:, names.index(constant)])
    fig = go.Figure()
    fig.add_scatter(
        x=_frames.plain(x[:400]), y=_frames.plain(y[:400]), mode="markers", showlegend=False, name="resample",
        marker={"size": 5, "color": style.alpha(style.LIGHT["accent"], 0.5), "line": {"width": 0}},
        hovertemplate="exponent %{x:.2f}<br>constant %{y:.3g}<extra></extra>",
    )  # fmt: skip
    fig.add_scatter(
        x=[law.parameters_[slope]], y=[float(np.exp(law.parameters_[constant]))], mode="markers", showlegend=False, name="fit",
        marker={"symbol": "star", "size": 15, "color": style.LIGHT["text"], "line": {"width": 1, "color": "#FFFFFF"}},
        hovertemplate="all cells<extra></extra>",
    )  # fmt: skip
    correlation = float(np.corrcoef(x, np.log(y))[0, 1])
    fig.update_xaxes(type="linear", tickmode="auto", title_text=f"Exponent of {axis} in the {words} (no unit)")
    _log(fig, "y", "Constant (own units, log scale)", float(y.min()) / 1.3, float(y.max()) * 1.3)
    return style.finish(
        fig, title=f"Constant and exponent of the {words} are one number", left=74,
        alt=f"Over resampled cells the exponent lies between {np.quantile(x, 0.025):.2f} and {np.quantile(x, 0.975):.2f}; its "
        f"correlation with the logarithm of the constant is {correlation:.2f}.",
        caption="One dot for each of 400 resamples of whole cells; star: all cells. Correlation of the exponent with the "
        f"log of the constant: {correlation:.2f}.",
    )  # fmt: skip


def told(plan: Any) -> pd.DataFrame:
    """A plan as a small table of words and numbers with their 95 % intervals."""
    rows = [
        ("parameters", plan.params), ("tokens", plan.tokens), ("tokens per parameter", plan.ratio),
        ("expected loss, nats", plan.loss), ("learning rate (step law)", plan.lr),
        ("batch, tokens (step law)", plan.batch_tokens),
        ("training FLOP", (plan.flops, np.nan, np.nan)), ("training and serving FLOP", (plan.total_flops, np.nan, np.nan)),
    ]  # fmt: skip
    table = [
        {"what": what, "value": f"{value:.3g}", "95 %": "" if np.isnan(low) else f"{low:.3g} to {high:.3g}"}
        for what, (value, low, high) in rows
    ]
    return pd.DataFrame(table).set_index("what")
