"""Does the best learning rate move with width? Bowls of loss over rate, and the coordinate check that explains them.

A bowl is the loss of one width over all learning rates. Its lowest point is marked, and a dotted line joins the lowest points
from narrow to wide: it slides where the best rate depends on width and stands upright where it does not. Parametrizations
stand one above the other over one rate axis, each panel with the same loss scale, so that the eye compares positions; on a
phone too. The panels share one vertical axis: a loss is drawn at its panel's base plus its share of the common log range.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, _switch, style

PANEL, GAP = 200, 0.24  # pixels of one panel, and the room between two as a share of it
RATE = "Learning rate at the base width (log scale)"
_SUPER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def lr_transfer(rows: pd.DataFrame, *, unit: str = "nats", note: str = "") -> go.Figure:
    """Draw loss against learning rate for all widths, one panel per parametrization.

    Args:
        rows: columns parametrization, width (units), rate (learning rate), loss (in `unit`); optional seed: several rows
            of one cell are averaged in the logarithm, and the marks get the 95 % interval over seeds.
        unit: unit of the loss.
        note: what else the caption says.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("parametrization", "width", "rate", "loss"), "the transfer of the learning rate")
    fig = go.Figure()
    fig.update_xaxes(title_text=RATE, type="log")
    fig.update_yaxes(title_text=f"Loss ({unit}, log scale)", type="linear")
    title = "Loss against learning rate, by width"
    if rows.empty:
        return _nothing(fig, title, "One bowl per width appears here. Run the sweep over learning rates to fill it.")
    kinds, widths = list(dict.fromkeys(rows["parametrization"])), sorted(rows["width"].unique())
    logs = rows.assign(log=np.log10(rows["loss"].to_numpy(float)))
    cells = logs.groupby(["parametrization", "width", "rate"])["log"].agg(["mean", "std", "count"])
    low, high = _frames.spread(10 ** cells["mean"].to_numpy(), log=True, pad=0.06)
    ticks, texts = _switch.log_ticks(10**low, 10**high)
    told, places = [], []
    for panel, kind in enumerate(kinds):
        base = (len(kinds) - 1 - panel) * (1 + GAP)
        places += [base + (np.log10(tick) - low) / (high - low) for tick in ticks]
        told.append(f"{kind}: best {_panel(fig, cells.loc[kind], kind, widths, base, (low, high), panel == 0)}")
        fig.add_annotation(
            name="panel", text=told[-1], xref="paper", x=0, xanchor="left", y=base + 1, yanchor="bottom",
            showarrow=False, font={"size": 13, "color": style.LIGHT["text"]},
        )  # fmt: skip
    top = len(kinds) + (len(kinds) - 1) * GAP + 0.14
    fig.update_yaxes(tickmode="array", tickvals=places, ticktext=texts * len(kinds), range=[-0.02, top])
    _log_axis(fig, "x", rows["rate"].to_numpy(float))
    fig.update_layout(hovermode="closest", showlegend=True, legend={"title": {"text": "width "}})
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    caption = "Each bowl is one width, thicker is wider; its lowest point is marked, the dotted line joins them. "
    caption += f"Bars: 95 % interval over {seeds} seeds." if seeds > 1 else "One seed, no interval."
    return style.finish(
        fig, title=title, alt="Rate of lowest loss, " + "; ".join(told) + ".", caption=f"{caption} {note}".strip(),
        top=style.TOP + 24 * -(-len(widths) // 4), plot=round(PANEL * (top + 0.02)),
    )  # fmt: skip


def _panel(
    fig: go.Figure,
    cells: pd.DataFrame,
    kind: str,
    widths: list[int],
    base: float,
    span: tuple[float, float],
    legend: bool,
) -> str:
    """Draw the bowls of one parametrization from `base` up; says where its lowest points are."""
    low, high = span
    marks = []
    for width in cells.index.unique("width"):
        bowl = cells.loc[width].sort_index()
        color, marker = _look(widths.index(width), len(widths))
        thick = 1.2 + 1.8 * widths.index(width) / max(1, len(widths) - 1)  # wider network, thicker line
        at = bowl["mean"].idxmin()
        marks.append((width, at, bowl.loc[at], color, marker))
        fig.add_scatter(
            x=_frames.plain(bowl.index), y=_frames.plain(base + (bowl["mean"] - low) / (high - low)), mode="lines+markers",
            name=f"{width}", showlegend=legend, legendgroup=f"{width}", line={"color": color, "width": thick},
            marker={"color": color, "size": 5, "symbol": marker},
            hovertext=[f"{kind}, width {width}<br>rate {rate:.3g}<br>loss {10**v:.4g}" for rate, v in bowl["mean"].items()],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    fig.add_scatter(
        x=_frames.plain([at for _, at, *_ in marks]),
        y=_frames.plain([base + (cell["mean"] - low) / (high - low) for _, _, cell, *_ in marks]),
        mode="lines+markers", name="lowest", showlegend=False,
        line={"color": style.LIGHT["muted"], "width": 1.5, "dash": "dot"},
        error_y={
            "type": "data", "array": _frames.plain([_half(cell) / (high - low) for _, _, cell, *_ in marks]),
            "color": style.LIGHT["muted"], "thickness": 1.5, "width": 4,
        },
        marker={
            "color": [color for *_, color, _ in marks], "symbol": [marker for *_, marker in marks], "size": 13,
            "line": {"color": style.LIGHT["text"], "width": 2},
        },
        hovertext=[f"{kind}, width {w}: lowest {10 ** cell['mean']:.4g} at {at:.3g}" for w, at, cell, *_ in marks],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    first, last = marks[0], marks[-1]
    text = f"{_power(first[1])} at width {first[0]}"
    return text if len(marks) == 1 else f"{text}, {_power(last[1])} at {last[0]}"


def _half(cell: pd.Series) -> float:
    """Half of the 95 % Student interval of a mean of logarithms; 0 for a single value."""
    if cell["count"] < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, cell["count"] - 1) * cell["std"] / cell["count"] ** 0.5)


def _look(index: int, count: int) -> tuple[str, str]:
    """(colour, marker) of a width: the ordered ramp from dark (narrow) to pale (wide), with a mark of its own."""
    ramp = list(style.BITS.values())
    color = ramp[round(index * (len(ramp) - 1) / max(1, count - 1))]
    return style.readable(color, style.LIGHT["ground"]), style.MARKERS[index % len(style.MARKERS)]


def _log_axis(fig: go.Figure, which: str, values: np.ndarray) -> None:
    """A log axis with explicit range; its ticks are powers of two where all values are."""
    low, high = _frames.spread(values, log=True, pad=0.05)
    octaves = np.unique(np.log2(values))
    if np.allclose(octaves, octaves.round()):
        ticks = [float(2**octave) for octave in octaves[:: -(-len(octaves) // 7)]]
        texts = [_power(tick) if tick < 1 else f"{tick:g}" for tick in ticks]
    else:
        ticks, texts = _switch.log_ticks(10**low, 10**high)
    fig.update_layout(
        {f"{which}axis": {"range": [low, high], "tickmode": "array", "tickvals": ticks, "ticktext": texts}}
    )


def _power(rate: float) -> str:
    """A rate as a power of two: 0.03125 is 2⁻⁵; other rates with two digits."""
    octave = np.log2(rate)
    return "2" + f"{octave:.0f}".translate(_SUPER) if abs(octave - round(octave)) < 1e-6 else f"{rate:.2g}"


def _nothing(fig: go.Figure, title: str, text: str) -> go.Figure:
    fig.update_xaxes(type="linear")
    fig.update_yaxes(type="linear")
    style.empty(fig, text)
    return style.finish(fig, title=title, alt="An empty plot: nothing has been measured yet.")


def coordinate_check(rows: pd.DataFrame) -> go.Figure:
    """Draw how much each layer's output moves in a few steps, against width: flat lines are what muP promises.

    Args:
        rows: columns parametrization, width (units), layer (name), size (mean |change| of the layer's output); several
            rows of one cell are averaged in the logarithm.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    _frames.need(rows, ("parametrization", "width", "layer", "size"), "a coordinate check")
    fig = go.Figure()
    fig.update_xaxes(title_text="Width (units, log scale)", type="log")
    fig.update_yaxes(title_text="Mean change (no unit, log scale)", type="log")
    title = "How far each layer moves, by width"
    if rows.empty:
        return _nothing(fig, title, "One line per layer appears here. Run the coordinate check to fill it.")
    kinds, layers = list(dict.fromkeys(rows["parametrization"])), list(dict.fromkeys(rows["layer"]))
    colors = (style.LIGHT["bad"], style.LIGHT["accent"], style.LIGHT["muted"])
    shown: list[float] = []
    for (kind, layer), part in rows.groupby(["parametrization", "layer"], sort=False):
        size = np.exp(part.assign(log=np.log(part["size"].to_numpy(float))).groupby("width")["log"].mean())
        shown += list(size)
        color = colors[kinds.index(kind) % len(colors)]
        fig.add_scatter(
            x=_frames.plain(size.index), y=_frames.plain(size), mode="lines+markers", name=f"{kind}, {layer}",
            line={"color": color, "width": 2, "dash": style.DASHES[kinds.index(kind) % len(style.DASHES)]},
            marker={"color": color, "size": 8, "symbol": style.MARKERS[layers.index(layer) % len(style.MARKERS)]},
            hovertemplate=f"{kind}, {layer}<br>width %{{x}}<br>change %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
    _log_axis(fig, "x", rows["width"].to_numpy(float))
    _log_axis(fig, "y", np.array(shown))
    fig.update_layout(hovermode="closest", showlegend=True)
    told = ", ".join(f"{kind} {slope:+.2f}" for kind, slope in steepest(rows).items())
    return style.finish(
        fig, title=title, alt=f"Steepest slope of the change over width, in octaves per octave: {told}.",
        caption=f"Flat: every width moves alike. Steepest slope (octaves of change per octave of width): {told}.",
        top=style.TOP + 24 * -(-len(kinds) * len(layers) // 2),
    )  # fmt: skip


def steepest(rows: pd.DataFrame) -> dict[str, float]:
    """The d log size / d log width farthest from 0 among the layers of each parametrization (least squares; 0 = flat).

    Args:
        rows: columns parametrization, width, layer, size, as for `coordinate_check`.
    """
    logs = rows.assign(x=np.log2(rows["width"].to_numpy(float)), y=np.log2(rows["size"].to_numpy(float)))
    found: dict[str, float] = {}
    for (kind, _), part in logs.groupby(["parametrization", "layer"], sort=False):
        slope = float(np.polyfit(part["x"], part["y"], 1)[0])
        found[kind] = max(found.get(kind, 0.0), slope, key=abs)
    return found


def _example() -> pd.DataFrame:
    """Digits, 64-w-w-10, 40 steps of Adam: losses of one seed at the rates 2⁻¹⁰ … 2⁻³."""
    losses = {
        ("standard", 64): (1.866, 1.031, 0.428, 0.256, 0.164, 0.145, 0.156, 0.401),
        ("standard", 256): (0.510, 0.221, 0.130, 0.100, 0.084, 0.120, 0.313, 1.693),
        ("standard", 1024): (0.110, 0.063, 0.064, 0.077, 0.152, 0.240, 0.199, 1.205),
        ("muP", 64): (1.965, 1.133, 0.503, 0.304, 0.166, 0.128, 0.101, 1.001),
        ("muP", 256): (1.944, 1.089, 0.461, 0.271, 0.132, 0.094, 0.080, 0.522),
        ("muP", 1024): (1.950, 1.074, 0.419, 0.248, 0.133, 0.088, 0.119, 0.106),
    }
    found = [
        {"parametrization": kind, "width": width, "rate": 2.0 ** (i - 10), "loss": loss}
        for (kind, width), row in losses.items()
        for i, loss in enumerate(row)
    ]
    return pd.DataFrame(found)


def _example_coordinates() -> pd.DataFrame:
    sizes = {  # change of the output after three steps at 2⁻⁶, from slopes measured on the same networks
        ("standard", "input"): 0.05, ("standard", "hidden"): 0.29, ("standard", "readout"): 0.96,
        ("muP", "input"): -0.01, ("muP", "hidden"): 0.0, ("muP", "readout"): -0.01,
    }  # fmt: skip
    found = [
        {"parametrization": kind, "layer": layer, "width": width, "size": 0.2 * (width / 64) ** slope}
        for (kind, layer), slope in sizes.items()
        for width in (64, 256, 1024)
    ]
    return pd.DataFrame(found)


EXAMPLE = {
    "lr_transfer": lambda: {"rows": _example()},
    "coordinate_check": lambda: {"rows": _example_coordinates()},
}
