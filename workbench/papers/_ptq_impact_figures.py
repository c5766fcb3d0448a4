"""The pictures of the page `ptq-impact`: distance per token and difference per text against temperature, and the dice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words

LOOKS = {  # format: variant whose look it has (colour from the bits, marker from the quantizer)
    "int8": "rtn-8", "nf4": "nf4", "nf4-dq": "nf4", "fp4": "fp-4", "fp4-dq": "fp-4", "int4": "rtn-4",
    "rtn-4": "gptq-4", "int3": "rtn-3",
}  # fmt: skip
SHOWN = ("int8", "nf4", "int4", "int3")
NUDGE = {"int4": 7, "fp4": 9, "fp4-dq": -5, "nf4-dq": 5, "nf4": -9, "rtn-4": 9}  # pixels: labels would cover each other
MUTED = {"size": 12, "color": style.LIGHT["muted"]}


def _contexts(rows: pd.DataFrame, top_k: int = 0) -> pd.DataFrame:
    own = rows[rows["part"] == "contexts"]
    return own[own["top_k"] == top_k]


def _temperatures(fig: go.Figure, values: Sequence[float]) -> None:
    fig.update_xaxes(
        type="log", title_text="Temperature (log scale)", tickmode="array", tickvals=list(values),
        ticktext=[f"{value:g}" for value in values], range=[math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.22],
    )  # fmt: skip


def _label(fig: go.Figure, name: str, x: float, y: float, color: str) -> None:
    fig.add_annotation(
        text=name, x=math.log10(x), y=math.log10(y), xanchor="left", xshift=8, showarrow=False,
        yshift=NUDGE.get(name, 0),
        font={"size": 13, "color": color},
    )  # fmt: skip


def verdict(rows: pd.DataFrame, formats: Sequence[str] = SHOWN, top_k: int = 0) -> go.Figure:
    """Mean KL against temperature: measured as marks, the closed form as lines.

    Args:
        rows: of one or more seeds, as the page's `experiment` makes them.
        formats: which ones are drawn.
        top_k: 0 keeps all tokens.
    """
    table = _contexts(rows, top_k)
    fig, told = go.Figure(), []
    for name in formats:
        own = table[table["model"] == name].groupby("temperature")
        kl, predicted, look = own["kl"].mean(), own["predicted"].mean(), style.look(LOOKS[name])
        fig.add_scatter(
            x=predicted.index.tolist(), y=predicted.tolist(), mode="lines", name=f"{name}, closed form", showlegend=False,
            line={"color": look.stroke, "width": 1.5, "dash": "dot"}, hoverinfo="skip",
        )  # fmt: skip
        fig.add_scatter(
            x=kl.index.tolist(), y=kl.tolist(), mode="markers", name=name, showlegend=False,
            error_y={"type": "data", "array": [half_interval(values) for _, values in own["kl"]], "color": look.stroke,
                     "thickness": 1.5, "width": 3},
            marker={"symbol": look.marker, "size": 10, "color": look.fill, "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{name} at temperature %{{x}}<br>%{{y:.3g}} nats<extra></extra>",
        )  # fmt: skip
        _label(fig, name, kl.index[-1], kl.iloc[-1], look.ink)
        told.append(f"{name} {kl.iloc[0]:.2g} to {kl.iloc[-1]:.2g}")
    _temperatures(fig, sorted(table["temperature"].unique()))
    fig.update_yaxes(type="log", title_text="Mean KL (nats per token, log scale)", exponentformat="power")
    kept = "all tokens" if not top_k else f"the {top_k} most likely tokens"
    return style.finish(
        fig, title="How far rounding moves the next-token distribution",
        alt=f"KL from the lowest to the highest temperature: {'; '.join(told)} nats.",
        caption=f"Marks: measured on {int(table['contexts'].iloc[0]) if len(table) else 0} held-out contexts, {kept}. "
        "Dotted: variance of the logits' change over twice the squared temperature. "
        f"{interval_words(table['seed'].nunique())}",
    )  # fmt: skip


def variation(rows: pd.DataFrame, formats: Sequence[str] = SHOWN) -> go.Figure:
    """Mean total variation against temperature.

    Args:
        rows: as for `verdict`.
        formats: which ones are drawn.
    """
    table = _contexts(rows)
    fig, told = go.Figure(), []
    for name in formats:
        own = table[table["model"] == name].groupby("temperature")["tv"].mean()
        look = style.look(LOOKS[name])
        fig.add_scatter(
            x=own.index.tolist(), y=own.tolist(), mode="lines+markers", name=name, showlegend=False,
            line={"color": look.stroke, "width": 2},
            marker={"symbol": look.marker, "size": 9, "color": look.fill, "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{name} at temperature %{{x}}<br>%{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        _label(fig, name, own.index[-1], own.iloc[-1], look.ink)
        told.append(f"{name} {own.max() / own.min():.2f}")
    _temperatures(fig, sorted(table["temperature"].unique()))
    fig.update_yaxes(type="log", title_text="Total variation (0 … 1, log scale)")
    return style.finish(
        fig, title="The largest difference in probability",
        alt=f"Largest over smallest total variation over all temperatures: {', '.join(told)}.",
        caption="Mean over the same contexts as for the KL, and over all seeds. The claim allows a factor of two from one end "
        "to the other.",
    )  # fmt: skip


def texts(rows: pd.DataFrame, formats: Sequence[str] = ("int8", "nf4", "fp4", "int4", "int3")) -> go.Figure:
    """How much more surprising the written texts are than the original's, against temperature.

    Args:
        rows: as for `verdict`.
        formats: which ones are drawn.
    """
    table = rows[rows["part"] == "texts"]
    warm = sorted(table["temperature"].unique())
    fig, told = go.Figure(), []
    fig.add_hline(y=0, line={"color": style.LIGHT["muted"], "width": 1})
    seeds = max(1, table["seed"].nunique())
    for index, name in enumerate(formats):
        own = table[table["model"] == name].groupby("temperature")
        gap, look = own["gap"].mean(), style.look(LOOKS[name])
        half = 1.96 * own["se"].apply(lambda values: math.sqrt((values**2).sum()) / len(values))
        fig.add_scatter(
            x=[warm.index(at) + 0.12 * (index - (len(formats) - 1) / 2) for at in gap.index], y=gap.tolist(), mode="markers",
            name=name, error_y={"type": "data", "array": half.tolist(), "color": look.stroke, "thickness": 1.5, "width": 3},
            marker={"symbol": look.marker, "size": 9, "color": look.fill, "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{name}<br>%{{y:+.3f}} nats per token<extra></extra>",
        )  # fmt: skip
        told.append(f"{name} {gap.min():+.2f} to {gap.max():+.2f}")
    fig.update_xaxes(type="linear", title_text="Temperature", tickmode="array", tickvals=list(range(len(warm))),
                     ticktext=[f"{at:g}" for at in warm], range=[-0.5, max(1, len(warm)) - 0.5])  # fmt: skip
    fig.update_yaxes(type="linear", title_text="Extra surprise (nats per token)")
    return style.finish(
        fig, title="Texts written with the same dice", top=style.TOP + 48,
        alt=f"Surprise beyond the original's texts over all temperatures: {', '.join(told)} nats per token.",
        caption="0: as likely to the original model as its own texts. Bars: 95 % interval, paired by prompt, "
        f"{int(table['prompts'].iloc[0]) * seeds if len(table) else 0} prompts.",
    )  # fmt: skip


def dice(rows: pd.DataFrame, name: str = "nf4") -> go.Figure:
    """Standard error of the difference between two models' texts: shared dice against dice of their own.

    Args:
        rows: as for `verdict`.
        name: the format.
    """
    own = rows[(rows["part"] == "texts") & (rows["model"] == name)].groupby("temperature")[["se", "se_own"]].mean()
    fig, accent, muted = go.Figure(), style.LIGHT["accent"], style.LIGHT["muted"]
    for column, words, color in (("se_own", "dice of their own", muted), ("se", "shared dice", accent)):
        fig.add_bar(
            x=[f"{at:g}" for at in own.index], y=own[column].tolist(), name=words,
            marker={"color": color, "line": {"width": 0}}, hovertemplate=f"{words}<br>standard error %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    fig.update_layout(barmode="group", bargap=0.35)
    fig.update_xaxes(type="category", title_text="Temperature")
    fig.update_yaxes(type="linear", title_text="Standard error (nats per token)")
    saved = (own["se_own"] / own["se"].clip(lower=1e-12)) ** 2
    ends = ", ".join(f"{times:.1f} times as many prompts at {at:g}" for at, times in saved.items())
    return style.finish(
        fig, title=f"What shared dice are worth, {name}", top=style.TOP + 24,
        alt=f"Without shared dice the same certainty needs: {ends}.",
        caption="Error of the mean difference to the original's texts. Half the error is worth four times the prompts.",
    )  # fmt: skip


def candidates(names: Sequence[str], p: Sequence[float], q: Sequence[float], title: str, words: str) -> go.Figure:
    """Probabilities of the next token before and after rounding, as pairs of bars.

    Args:
        names: the candidates, most likely first.
        p: probabilities of the original.
        q: probabilities after rounding.
        title: what is shown.
        words: the caption.
    """
    fig = go.Figure()
    place = list(range(len(names)))
    for values, label, color in ((p, "original", style.COLORS["base"]), (q, "rounded", style.LIGHT["accent"])):
        fig.add_bar(
            y=place, x=list(values), name=label, orientation="h", marker={"color": color, "line": {"width": 0}},
            hovertemplate=f"{label}: %{{x:.3f}}<extra></extra>",
        )  # fmt: skip
    fig.update_layout(barmode="group", bargap=0.3)
    fig.update_yaxes(
        type="linear", tickmode="array", tickvals=place, ticktext=list(names), autorange="reversed", showgrid=False
    )
    fig.update_xaxes(type="linear", range=[0, 1], title_text="Probability")
    worst = max(range(len(names)), key=lambda i: abs(p[i] - q[i]))
    return style.finish(
        fig, title=title, left=104, plot=34 * len(names), top=style.TOP + 24, caption=words,
        alt=f"The largest change is that of {names[worst]}, from {p[worst]:.2f} to {q[worst]:.2f}.",
    )  # fmt: skip
