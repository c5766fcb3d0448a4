"""Pictures of DCLS: accuracy of the arms, a kernel with the paths of its points, where positions stand, time per step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style
from workbench.figures.formats import number

LOOKS = {"DCLS": ("accent", "circle"), "7 × 7": ("text", "square"), "fixed dilation": ("muted", "diamond")}
SIGNED = [[0.0, "#2166AC"], [0.25, "#92C5DE"], [0.5, "#FFFFFF"], [0.75, "#F4A582"], [1.0, "#B2182B"]]
INK = "rgba(29, 33, 38, {:g})"  # over kernels, which are white in the middle on dark pages too
PLANE = 330  # pixels: height of a kernel
TASKS = {"motifs": "motifs 6–9 px apart", "digits": "enlarged digits"}


def verdict(rows: pd.DataFrame) -> go.Figure:
    """Test accuracy by task and arm: a dot for each seed, a bar for their mean.

    Args:
        rows: columns seed, task, arm, accuracy (percent), parameters.
    """
    known = set(zip(rows["task"], rows["arm"], strict=True))
    places = [(task, arm) for task in TASKS for arm in LOOKS if (task, arm) in known]
    fig = go.Figure()
    for level, (task, arm) in enumerate(reversed(places)):
        color, marker = style.LIGHT[LOOKS[arm][0]], LOOKS[arm][1]
        values = rows.loc[(rows["task"] == task) & (rows["arm"] == arm), "accuracy"]
        fig.add_scatter(
            x=_frames.plain([values.mean()] * 2), y=[level - 0.32, level + 0.32], mode="lines", showlegend=False,
            line={"color": color, "width": 3}, name=arm, hovertemplate=f"{arm}, {task}<br>mean %{{x:.1f}} %<extra></extra>",
        )  # fmt: skip
        fig.add_scatter(
            x=_frames.plain(values), y=[level] * len(values), mode="markers", showlegend=False, name=arm,
            marker={"symbol": marker, "size": 9, "color": color, "line": {"width": 1, "color": style.LIGHT["ground"]}},
            hovertemplate=f"{arm}, {task}<br>%{{x:.1f}} %<extra></extra>",
        )  # fmt: skip
    texts = [f"{'<b>' if arm == 'DCLS' else ''}{arm}{'</b>' if arm == 'DCLS' else ''}, {task}" for task, arm in places]
    fig.update_yaxes(
        type="linear", tickmode="array", tickvals=list(range(len(places))), ticktext=texts[::-1], showgrid=False
    )
    fig.update_yaxes(range=[-0.7, len(places) - 0.3])
    fig.update_xaxes(
        type="linear", range=_frames.spread(rows["accuracy"], pad=0.08), title_text="Test accuracy (percent)"
    )
    mean = rows.groupby(["task", "arm"])["accuracy"].mean()
    motifs = mean["motifs"]
    told = f"On motifs 6 to 9 pixels apart DCLS reaches {motifs['DCLS']:.1f} %, a fixed dilation "
    told += f"{motifs['fixed dilation']:.1f} %, dense 7 × 7 kernels {motifs['7 × 7']:.1f} %"
    sizes, seeds = rows["parameters"], rows["seed"].nunique()
    spread = (sizes.max() - sizes.min()) / sizes.mean()
    return style.finish(
        fig, title="Learned places against grids, at equal size", alt=f"{told}.", left=152, plot=34 * len(places) + 20,
        caption=f"Dot: one of {seeds} seed{'s' * (seeds > 1)}; line: their mean. A guess is right in 50 % on motifs, 10 % on "
        f"digits. Numbers of parameters differ by at most {100 * spread:.1f} %.",
    )  # fmt: skip


def dense(points: pd.DataFrame, side: int) -> np.ndarray:
    """The bilinear kernel (side, side) of rows x, y, weight: what `construct_kernel` gives for v1."""
    pixels = np.arange(side) - side // 2
    rows, columns = (np.maximum(0, 1 - np.abs(pixels - points[[a]].to_numpy(float))) for a in ("y", "x"))  # (m, side)
    return np.einsum("k,ki,kj->ij", points["weight"].to_numpy(float), rows, columns)


def moving_points(rows: pd.DataFrame, side: int = 17, moment: int | None = None) -> go.Figure:
    """The dense kernel of one channel, and the paths of its points from the start until then.

    Args:
        rows: columns moment (0, 1, …), element, x, y (pixels from the centre), weight; one channel.
        side: of the kernel.
        moment: what is shown; by default the last one.
    """
    last = int(rows["moment"].max() if moment is None else moment)
    now, start = (rows[rows["moment"] == m].sort_values("element") for m in (last, rows["moment"].min()))
    kernel = dense(now, side)
    fig = _kernel(kernel)
    x: list[float | None] = []
    y: list[float | None] = []
    for _, one in rows[rows["moment"] <= last].sort_values("moment").groupby("element"):
        x += [*_frames.plain(one["x"]), None]
        y += [*_frames.plain(one["y"]), None]
    fig.add_scatter(
        x=x, y=y, mode="lines", line={"color": INK.format(0.45), "width": 1}, hoverinfo="skip", showlegend=False
    )
    fig.add_scatter(
        x=_frames.plain(start["x"]), y=_frames.plain(start["y"]), mode="markers", name="start", showlegend=False,
        marker={"size": 5, "color": "rgba(255, 255, 255, 0.9)", "line": {"width": 1, "color": INK.format(0.6)}},
        hovertemplate="start<br>x %{x:.2f}, y %{y:.2f}<extra></extra>",
    )  # fmt: skip
    fig.add_scatter(
        x=_frames.plain(now["x"]), y=_frames.plain(now["y"]), mode="markers", name="now", showlegend=False,
        marker={"size": 7, "color": INK.format(0.95), "line": {"width": 1, "color": "#FFFFFF"}},
        hovertext=[f"element {e}<br>weight {number(w)}" for e, w in zip(now["element"], now["weight"], strict=True)],
        hovertemplate="%{hovertext}<br>x %{x:.2f}, y %{y:.2f}<extra></extra>",
    )  # fmt: skip
    away = [f"{np.hypot(part['x'], part['y']).mean():.1f}" for part in (start, now)]
    return style.finish(
        fig, title="Where the weights of one channel went", plot=PLANE,
        alt=f"{len(now)} points of one kernel, on average {away[0]} pixels from the centre at the start, {away[1]} now.",
        caption=f"Colour: the dense {side} × {side} kernel that the points make, red above 0, blue below, up to "
        f"{number(np.abs(kernel).max(), 2)}. White dots: the points at the start; black: now, with the way they took. On "
        f"average {away[0]} pixels from the centre at the start, {away[1]} now.",
    )  # fmt: skip


def point(kernel: np.ndarray, x: float, y: float, version: str) -> go.Figure:
    """The dense kernel of a single weight 1 at a place.

    Args:
        kernel: (side, side).
        x, y: the place, in pixels from the centre.
        version: for the title.
    """
    fig = _kernel(kernel, texts=True)
    fig.add_scatter(
        x=[x], y=[y], mode="markers", showlegend=False, name="place",
        marker={"size": 11, "symbol": "x", "color": INK.format(0.95), "line": {"width": 1, "color": "#FFFFFF"}},
        hovertemplate="place<br>x %{x:.2f}, y %{y:.2f}<extra></extra>",
    )  # fmt: skip
    used, most = int((kernel > 0.005).sum()), 100 * float(kernel.max())
    return style.finish(
        fig, title=f"One weight, spread over pixels ({version})", plot=PLANE,
        alt=f"A weight at x {x:g}, y {y:g} is spread over {used} pixels; the nearest gets {most:.0f} %.",
        caption=f"Numbers: share of the weight in percent. {used} pixels get more than ½ %; all together get "
        f"{100 * kernel.sum():.0f} %. Cross: the place.",
    )  # fmt: skip


def _kernel(kernel: np.ndarray, texts: bool = False) -> go.Figure:
    """A heatmap of a square kernel about its centre, zero at white; the number in every pixel above ½ % when asked."""
    side, top = len(kernel), float(np.abs(kernel).max()) or 1.0
    top *= 1.5 if texts else 1  # letters stay readable on paler colours
    half = side // 2
    pixels = list(range(-half, side - half))
    fig = go.Figure(
        go.Heatmap(
            x=pixels, y=pixels, z=[_frames.plain(row) for row in kernel], zmin=-top, zmax=top, colorscale=SIGNED,
            text=[[f"{100 * v:.0f}" if abs(v) > 0.005 else "" for v in row] for row in kernel] if texts else None,
            texttemplate="%{text}" if texts else None, textfont={"size": 11, "color": INK.format(1)},
            showscale=False,
            hovertemplate="x %{x}, y %{y}<br>weight %{z:.3g}<extra></extra>",
        )
    )  # fmt: skip
    reach = [-half - 0.5, side - half - 0.5]
    for update, ends in ((fig.update_xaxes, reach), (fig.update_yaxes, reach[::-1])):
        update(type="linear", range=ends, showgrid=False, zeroline=False, constrain="domain")
    fig.update_xaxes(title_text="x (pixels from the centre)")
    fig.update_yaxes(title_text="y (pixels from the centre)", scaleanchor="x")
    return fig


def spread(rows: pd.DataFrame, half: int) -> go.Figure:
    """How far along an axis the positions stand from the centre, before and after training.

    Args:
        rows: columns when (`start`, `end`), pixel (lower edge of the bin), share; any number of layers and seeds.
        half: largest distance, in pixels.
    """
    table = rows.groupby(["when", "pixel"])["share"].mean().unstack("pixel").reindex(columns=range(half), fill_value=0)
    fig = go.Figure()
    for when, words, color in (("start", "before training", "muted"), ("end", "after training", "accent")):
        fig.add_bar(
            x=[p + 0.5 for p in range(half)], y=_frames.plain(100 * table.loc[when]), name=words,
            marker={"color": style.LIGHT[color]},
            hovertemplate=f"{words}<br>%{{y:.1f}} % of the positions<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(
        type="linear", range=[0, half], dtick=1, title_text="Distance from the centre along an axis (pixels)"
    )
    fig.update_yaxes(type="linear", rangemode="tozero", title_text="Share of positions (percent)")
    fig.update_layout(barmode="group", bargap=0.15, showlegend=True)
    outside = {when: 100 * float(table.loc[when, range(2, half)].sum()) for when in ("start", "end")}
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    return style.finish(
        fig, title="Positions spread over the kernel", top=style.TOP + 24,
        alt=f"{outside['start']:.0f} % of the positions stand 2 pixels or more from the centre before training, "
        f"{outside['end']:.0f} % after it.",
        caption=f"All layers of {seeds} network{'s' * (seeds > 1)}. Two pixels or more from the centre: "
        f"{outside['start']:.0f} % before, {outside['end']:.0f} % after training.",
    )  # fmt: skip


def step_bars(rows: pd.DataFrame, plain: str = "7 × 7") -> go.Figure:
    """Time of one forward and backward pass by layer, longest on top.

    Args:
        rows: columns name, ms.
        plain: the layer that ratios are taken to.
    """
    rows = rows.sort_values("ms").reset_index(drop=True)
    base = float(rows.loc[rows["name"] == plain, "ms"].iloc[0])
    ours = rows["name"].str.contains("DCLS") & ~rows["name"].str.contains("package")
    fig = go.Figure(
        go.Bar(
            x=_frames.plain(rows["ms"]), y=list(range(len(rows))), orientation="h",
            text=[f"{number(ms, 3)} ms · {number(ms / base, 2)} ×" for ms in rows["ms"]], textposition="outside",
            cliponaxis=False, marker={"color": [style.LIGHT["accent" if own else "muted"] for own in ours]},
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    fig.update_yaxes(type="linear", tickmode="array", tickvals=list(range(len(rows))), ticktext=list(rows["name"]))
    fig.update_yaxes(showgrid=False, range=[-0.6, len(rows) - 0.4])
    fig.update_xaxes(type="linear", range=[0, 1.45 * float(rows["ms"].max())], title_text="Time of one step (ms)")
    return style.finish(
        fig, title="What a step of one layer costs", left=132, plot=30 * len(rows) + 20,
        alt="; ".join(f"{row.name_}: {number(row.ms, 3)} ms" for row in rows.rename(columns={"name": "name_"}).itertuples())
        + ".",
        caption=f"Forward and backward; × is the ratio to the {plain} layer. Medians of passes taken in turn on this machine.",
    )  # fmt: skip
