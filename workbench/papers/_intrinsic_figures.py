"""Pictures of the two pages about intrinsic dimension: score against d with the 90 % line, the idea, and the bound."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words, thin


def inks(count: int) -> list[tuple[str, str]]:
    """A colour and a line dash for each of `count` curves, from the house palette."""
    colors = [style.look(method).stroke for method in ("lora", "shira", "compacter", "ia3", "prompt", "nola", "oft")]
    return [(colors[i % len(colors)], style.DASHES[i % len(style.DASHES)]) for i in range(count)]


def score_vs_dimension(
    rows: pd.DataFrame, title: str, score: str, note: str = "", alt: str = "", line: bool = True
) -> go.Figure:
    """Score against d on a log axis, one curve per setting, and where 90 % of each one's direct score lies.

    Args:
        rows: columns curve (name), d, score (share, relative to nothing), baseline (share), seed.
        title: of the figure.
        score: what the score is, for the axis.
        note: what else the caption says.
        alt: the finding in one sentence.
        line: mark d90 on each curve.
    """
    from workbench.adapters.intrinsic_measure import d_threshold

    fig, names, told = go.Figure(), list(dict.fromkeys(rows["curve"])), []
    for name, (color, dash) in zip(names, inks(len(names)), strict=True):
        own = rows[rows["curve"] == name].assign(share=lambda t: 100 * t["score"] / t["baseline"])
        grouped = own.groupby("d")["share"]
        means = grouped.mean()
        fig.add_scatter(
            x=list(means.index), y=means.tolist(), mode="lines+markers", name=name,
            line={"color": color, "dash": dash, "width": 2}, marker={"color": color, "size": 7},
            error_y={"type": "data", "array": [half_interval(values) for _, values in grouped], "color": color,
                     "thickness": 1, "width": 3},
            hovertemplate=f"{name}<br>d = %{{x:,.0f}}<br>%{{y:.1f}} percent of direct<extra></extra>",
        )  # fmt: skip
        found = d_threshold(own.assign(score=own["share"]), 100.0, between=True, bootstrap=0)
        told.append(f"{name} {found}")
        if line and not math.isinf(found.d):
            fig.add_scatter(
                x=[found.d], y=[90], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"symbol": "x", "size": 11, "color": style.LIGHT["ground"], "line": {"color": color, "width": 2}},
            )  # fmt: skip
    fig.add_hline(y=90, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    grid = sorted(rows["d"].unique())
    ticks = grid if len(grid) < 7 else grid[:: -(-len(grid) // 6)]
    fig.update_xaxes(
        type="log", title_text="Numbers trained, d (log scale)", tickmode="array", tickvals=ticks,
        ticktext=[thin(tick) for tick in ticks],
    )  # fmt: skip
    lowest = float((100 * rows["score"] / rows["baseline"]).min())
    fig.update_yaxes(type="linear", title_text=f"{score} (percent of direct)", range=[max(0, lowest - 8), 108])
    finding = f"d90 lies at {'; '.join(told)}."
    return style.finish(
        fig, title=title, alt=alt or finding, top=style.TOP + 24 * -(-len(names) // 2),
        caption=f"Dashed: 90 percent of training all parameters; crosses: d90. "
        f"{interval_words(rows['seed'].nunique())} {note}".strip(),
    )  # fmt: skip


def moved_weights(d: int, seed: int = 0, width: int = 8) -> go.Figure:
    """Picture of the idea: one trained number moves every weight a little; a few of them added up.

    Args:
        d: how many numbers are trained, each drawn at one.
        seed: of the projection.
        width: the network drawn is one (width, 4·width) matrix.
    """
    from workbench.adapters._subspace import Projection

    columns = Projection("fastfood", [4 * width * width], max(d, 1), seed).matrix().numpy()
    images = [columns[:, j].reshape(width, -1) for j in range(min(d, 3))] + [columns.sum(1).reshape(width, -1)]
    names = [f"z{j + 1} moves" for j in range(min(d, 3))] + [f"all {d} together"]
    edge = float(np.abs(images[-1]).max())
    fig = go.Figure()
    for index, (name, image) in enumerate(zip(names, images, strict=True)):
        top = (len(names) - 1 - index) * (width + 2)
        fig.add_heatmap(
            z=image, y=[top + row for row in range(width)], zmin=-edge, zmax=edge, zmid=0, showscale=False, name=name,
            colorscale=[[0, "#2166AC"], [0.5, "#F7F7F7"], [1, "#B2182B"]],
            hovertemplate=f"{name}: %{{z:+.3f}}<extra></extra>",
        )  # fmt: skip
    middle = [(len(names) - 1 - i) * (width + 2) + width / 2 for i in range(len(names))]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=middle, ticktext=names, showgrid=False)
    fig.update_xaxes(type="linear", showgrid=False, showticklabels=False)
    return style.finish(
        fig, title="One number moves every weight", left=110,
        alt=f"Random directions through {4 * width * width} weights, and the sum of {d}.",
        bottom=20, plot=70 * len(names), caption="Each direction has length one; any two are nearly at right angles.",
    )  # fmt: skip


def bound_curve(d: int, train_error: float = 0.05, bits: int = 16) -> go.Figure:
    """What d numbers promise: the bound on the error of new examples against how many there were to train on.

    Args:
        d: numbers trained.
        train_error: share of training examples named wrongly.
        bits: per number.
    """
    from workbench.adapters.intrinsic_measure import compression_bound

    counts = np.logspace(2, 7, 51)
    fig = go.Figure()
    for (color, dash), numbers in zip(inks(2), (d, 100 * d), strict=True):
        percent = [100 * compression_bound(train_error, numbers, int(m), bits=bits) for m in counts]
        fig.add_scatter(
            x=counts, y=percent, mode="lines", name=f"{thin(numbers)} numbers",
            line={"color": color, "dash": dash, "width": 2},
            hovertemplate="%{x:,.0f} examples<br>%{y:.0f} percent<extra></extra>",
        )  # fmt: skip
    fig.add_hline(y=100, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    ticks = [10**n for n in (2, 4, 6)]
    fig.update_xaxes(
        type="log", title_text="Examples trained on (log scale)", tickmode="array", tickvals=ticks,
        ticktext=[thin(tick) for tick in ticks],
    )  # fmt: skip
    fig.update_yaxes(type="linear", title_text="Error of new examples, at most (percent)", range=[0, 150])
    useful = next((m for m in counts if compression_bound(train_error, d, int(m), bits=bits) < 0.5), counts[-1])
    return style.finish(
        fig, title="What a short description promises", top=style.TOP + 24,
        alt=f"With {d} numbers the bound falls below one half from about {thin(useful)} examples on.",
        caption=f"Training error {100 * train_error:.0f} percent, {bits} bits a number, confidence 95 percent. "
        "Above the dashed line it says nothing.",
    )  # fmt: skip


def along_reading(
    rows: pd.DataFrame, kinds: tuple[str, str, str], stage: float | None, yours: list[dict[str, float]]
) -> go.Figure:
    """Accuracy against d, one curve per share of the reading, in percent of direct training at its end.

    Args:
        rows: of one or more seeds, as the page `intrinsic-dimension-lm` makes them.
        kinds: names of direct training, of the plain flat and of the one with scales.
        stage: the curve drawn bold, the others thin; None draws all alike.
        yours: further points (d, score), drawn as stars.
    """
    direct, plain, scaled = kinds
    at_end = rows[(rows["kind"] == direct) & (rows["stage"] == rows["stage"].max())].set_index("seed")["score"]
    flats = rows[rows["kind"].isin((plain, scaled))]
    curve = flats["stage"].map("{:.0%} read".format) + flats["kind"].map({plain: "", scaled: ", with scales"})
    told = flats.assign(curve=curve, baseline=flats["seed"].map(at_end))
    fig = score_vs_dimension(
        told.sort_values(["stage", "kind"], kind="stable"), "Reading first, then few numbers are enough", "Accuracy",
        "Direct: all parameters, after all of the reading. A seed's curve ends where it reaches the line.",
    )  # fmt: skip
    chosen = None if stage is None else f"{stage:.0%} read"
    for trace in fig.data:
        if chosen and trace.mode == "lines+markers":
            bold = trace.name == chosen
            trace.update(
                line={"width": 4 if bold else 1}, marker={"size": 9 if bold else 4}, opacity=1 if bold else 0.45
            )
    if yours:
        fig.add_scatter(
            x=[point["d"] for point in yours], y=[100 * point["score"] / at_end.mean() for point in yours],
            mode="markers", name="yours",
            marker={"symbol": "star", "size": 16, "color": style.LIGHT["accent"],
                    "line": {"color": style.LIGHT["text"], "width": 2}},
            hovertemplate="yours<br>d = %{x:,.0f}<br>%{y:.1f} percent of direct<extra></extra>",
        )  # fmt: skip
    return fig


def bound_terms(rows: pd.DataFrame, examples: int, bits: int = 16) -> go.Figure:
    """The bound at every curve's last point: error on the examples plus the price of the numbers; beside it, what happened.

    Args:
        rows: points of one kind of flat with columns seed, stage, d, score and train, numbers of `bits` bits.
        examples: trained on.
        bits: per number.
    """
    from workbench.adapters.intrinsic_measure import compression_bound

    last = rows.sort_values("d").groupby(["seed", "stage"]).last().reset_index()
    last = last.assign(error=100 * (1 - last["train"]), other=100 * (1 - last["score"]))
    last["price"] = [100 * compression_bound(0.0, int(d), examples, bits=bits) for d in last["d"]]
    means = last.groupby("stage")[["error", "price", "other", "d"]].mean()
    names = [f"{stage:.0%} read<br>d = {thin(d)}" for stage, d in means["d"].items()]
    fig = go.Figure()
    for name, column, ink in (("error on the examples", "error", "lora"), ("price of the numbers", "price", "shira")):
        fig.add_bar(
            x=names, y=means[column].tolist(), name=name, marker={"color": style.look(ink).stroke},
            hovertemplate=f"{name}: %{{y:.0f}} percent<extra></extra>",
        )  # fmt: skip
    fig.add_scatter(
        x=names, y=means["other"].tolist(), mode="markers", name="error on other passages",
        marker={"symbol": "diamond", "size": 11, "color": style.LIGHT["ground"],
                "line": {"color": style.LIGHT["text"], "width": 2}},
        hovertemplate="measured on other passages: %{y:.0f} percent<extra></extra>",
    )  # fmt: skip
    fig.add_hline(y=100, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.update_layout(barmode="stack")
    fig.update_yaxes(type="linear", title_text="Error (percent)", rangemode="tozero")
    fig.update_xaxes(type="category", title_text="Share read, and numbers trained")
    total = means["error"] + means["price"]
    told = ", ".join(f"{stage:.0%} read: at most {value:.0f}" for stage, value in total.items())
    return style.finish(
        fig, title="What is promised, and what happened", top=style.TOP + 48, bottom=style.BOTTOM + 20,
        alt=f"Bound in percent: {told}.",
        caption=f"{thin(examples)} examples, {bits} bits a number, confidence 95 percent. Above the dashed line nothing is "
        f"promised. {interval_words(last['seed'].nunique()).replace('Bars: 95 % interval', 'Means')}",
    )  # fmt: skip
