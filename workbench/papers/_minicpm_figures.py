"""Pictures of the page `minicpm`: the plateau with its branches beside the tuned cosines, and the ladder's map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, iso, style
from workbench.papers._nola_figures import half_interval, interval_words

if TYPE_CHECKING:
    from workbench.scaling.fitter import ScalingLaw
    from workbench.scaling.wsd_ladder import Ratio

PLATEAU, COSINE, TEXT = style.LIGHT["accent"], style.LIGHT["bad"], style.LIGHT["text"]
SIZE = 12


def branches(curve: pd.DataFrame, ends: pd.DataFrame) -> go.Figure:
    """Loss along the plateau, the decays that leave it, and one cosine run per length.

    Args:
        curve: columns seed, schedule ("plateau" or "cosine"), length, step, loss; means over seeds are drawn.
        ends: indexed by seed and length; columns before (plateau where the branch leaves), WSD, cosine.
    """
    fig = go.Figure()
    means = curve.groupby(["schedule", "length", "step"])["loss"].mean()
    for length, line in means["cosine"].groupby("length"):
        line = line.droplevel("length")
        _line(fig, line.index, line, f"cosine of {length} steps", COSINE, "dash", 1.5)
    line = means["plateau"].groupby("step").mean()
    _line(fig, line.index, line, "plateau", PLATEAU, "solid", 2.5)
    table = ends.groupby("length")
    told = []
    for length, own in table:
        start, end = length - max(1, round(0.1 * length)), own["WSD"].mean()
        _line(fig, [start, length], [own["before"].mean(), end], f"decay to step {length}", PLATEAU, "dot", 2.5)
        for name, color, symbol in (("cosine", COSINE, "square"), ("WSD", PLATEAU, "circle")):
            fig.add_scatter(
                x=[int(length)], y=_frames.plain([own[name].mean()]), mode="markers", name=name, showlegend=False,
                error_y={"type": "data", "array": [half_interval(own[name])], "color": color, "thickness": 1.5, "width": 4},
                marker={"symbol": symbol, "size": 10, "color": style.LIGHT["ground"] if name == "cosine" else color,
                        "line": {"width": 2, "color": color}},
                hovertemplate=f"{name}, {length} steps<br>%{{y:.4f}} nats per character<extra></extra>",
            )  # fmt: skip
        told.append(f"{end:.3f} against {own['cosine'].mean():.3f} after {length:.0f} steps")
    longest = int(curve["length"].max())
    shown = means[means.index.get_level_values("step") >= longest / 8]
    low, high = _frames.spread([*shown, *ends["WSD"], *ends["cosine"]])
    far = means["cosine", longest]
    at = int(line.index[len(line) * 5 // 8])
    marks = (("plateau", line[at], PLATEAU, "bottom"), ("cosine", far[far.index[far.index <= at].max()], COSINE, "top"))
    for text, level, color, anchor in marks:
        fig.add_annotation(
            text=text, x=at, y=float(level), xanchor="center", yanchor=anchor, yshift=6 if anchor == "bottom" else -6,
            showarrow=False, font={"size": SIZE, "color": color},
        )  # fmt: skip
    fig.update_xaxes(type="linear", range=[0, longest * 1.04], title_text="Step (optimizer updates)")
    fig.update_yaxes(type="linear", range=[low, high], title_text="Held-out loss (nats per character)")
    fig.update_layout(hovermode="closest")
    seeds = curve["seed"].nunique()
    return style.finish(
        fig, title="One plateau with short decays, against one cosine per length",
        alt=f"WSD ends at {'; '.join(told)} (nats per character, cosine second).",
        caption="Solid: the plateau. Dotted, ending in a dot: a decay over the last 10 %, measured at both ends. Dashed, "
        f"ending in a square: cosine runs, each tuned over the same three rates. {interval_words(seeds)}",
    )  # fmt: skip


def _line(fig: go.Figure, x, y, name: str, color: str, dash: str, width: float) -> None:
    fig.add_scatter(
        x=[int(step) for step in x], y=_frames.plain(y), mode="lines", name=name, showlegend=False,
        line={"color": color, "width": width, "dash": dash},
        hovertemplate=f"{name}<br>step %{{x}}<br>%{{y:.4f}} nats per character<extra></extra>",
    )  # fmt: skip


def ladder_map(law: ScalingLaw, runs: pd.DataFrame, ratio: Ratio) -> go.Figure:
    """Lines of equal loss of the ladder's law over the measured sizes, its points, and the best split of every budget.

    Args:
        law: fitted to the ladder, N and D in billions.
        runs: columns n and d.
        ratio: the best split at the largest budget, with its interval.
    """
    from workbench.scaling.planner import frontier

    p, parts = law.parameters_, []
    n = np.geomspace(law.x_["N"].min() / 1.5, law.x_["N"].max() * 1.5, 60)
    limits = law.x_["D"].min() / 3, law.x_["D"].max() * 3
    for level in np.quantile(law.y_, [0.1, 0.35, 0.65, 0.9]):
        gap = level - p["L0"] - p["C_N"] * n ** -p["alpha"]
        d = np.where(gap > 0, p["C_D"] / np.where(gap > 0, gap, 1), np.inf) ** (1 / p["beta"])
        seen = (d > limits[0]) & (d < limits[1])
        parts.append(pd.DataFrame({"N": n[seen] * 1e9, "D": d[seen] * 1e9, "loss": round(float(level), 2)}))
    flops = float(6 * (runs["n"] * runs["d"]).max())
    path = frontier(law, flops / 300, flops) * 1e9
    inside = path["N"].between(n[0] * 1e9, n[-1] * 1e9) & path["D"].between(limits[0] * 1e9, limits[1] * 1e9)
    fig = iso.iso_loss(pd.concat(parts), path[inside], runs.rename(columns={"n": "N", "d": "D"}))
    fig.update_yaxes(title_text="Training data (characters, log scale)")
    best = (
        "Dashed: the best split of every budget"
        if inside.any()
        else "The best split of every budget lies outside this map"
    )
    return style.caption(
        fig, f"Each line holds one loss (nats per character); dots: {len(runs)} decayed branches. {best}; at {flops:.1e} FLOP "
        f"{ratio.value:.3g} characters per parameter ({ratio.low:.3g} to {ratio.high:.3g}).",
    )  # fmt: skip


def one_branch(line: pd.DataFrame, branch: pd.DataFrame, decay: str) -> go.Figure:
    """A plateau and one decay that leaves it.

    Args:
        line: columns step, loss.
        branch: columns step, loss: start and end of the decay.
        decay: its shape, in words.
    """
    fig = go.Figure()
    _line(fig, line["step"], line["loss"], "plateau", PLATEAU, "solid", 2.5)
    _line(fig, branch["step"], branch["loss"], f"decay, {decay}", PLATEAU, "dot", 2.5)
    start, end = branch.iloc[0], branch.iloc[-1]
    fig.add_scatter(
        x=[int(end["step"])], y=_frames.plain([end["loss"]]), mode="markers", name="end", showlegend=False,
        marker={"size": 12, "color": PLATEAU}, hovertemplate="end of the decay<br>%{y:.4f} nats per character<extra></extra>",
    )  # fmt: skip
    steps = [*line["step"], end["step"]]
    fig.update_xaxes(type="linear", range=[0, max(steps) * 1.04], title_text="Step (optimizer updates)")
    fig.update_yaxes(type="linear", range=_frames.spread([*line["loss"], end["loss"]]))
    fig.update_yaxes(title_text="Held-out loss (nats per character)")
    fig.update_layout(hovermode="closest")
    told = f"The decay from step {start['step']:.0f} takes the loss from {start['loss']:.3f} to {end['loss']:.3f}"
    return style.finish(
        fig, title="Leave the plateau here", alt=f"{told} nats per character.",
        caption=f"{told} in {end['step'] - start['step']:.0f} steps. One seed, no interval.",
    )  # fmt: skip
