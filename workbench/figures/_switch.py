"""Logarithmic axes: when to start with one, where its ticks go, and the two buttons that change it in the figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures import _frames
from workbench.figures.formats import number

OFFER, START = 3.0, 5.0  # largest / smallest value from which a log axis is offered, and from which it comes first
ROW = 38  # pixels of one row of buttons
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def start(values: Sequence[float] | np.ndarray, asked: bool | None) -> tuple[bool, bool]:
    """Whether to start with a log axis, and whether to offer the switch.

    Args:
        values: what is drawn along the axis; one value ≤ 0 rules a log axis out.
        asked: the caller's wish, or None for the rule: log when the values span more than a factor of five.

    Returns:
        (log, offer).
    """
    data = np.asarray(values, dtype=float)
    data = data[np.isfinite(data)]
    if not len(data) or data.min() <= 0:
        return False, False
    ratio = float(data.max() / data.min())
    return (ratio > START if asked is None else asked), ratio > OFFER or bool(asked)


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round tick positions between two positive values, at least four where the range allows, and their texts."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _STEPS:
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) >= 4:
            break
    if len(ticks) < 2:  # a narrow range between two round numbers: even steps serve better
        step = 10.0 ** math.floor(math.log10(high - low))
        step = next(step * s for s in (1, 0.5, 0.2, 0.1) if (high - low) / (step * s) >= 3)
        ticks = [float(f"{i * step:.6g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = ticks[:: math.ceil(len(ticks) / 7)]
    return ticks, [f"{t:g}" if 1e-4 <= t < 1000 else number(t) for t in ticks]


def set_axis(
    fig: go.Figure,
    which: str,
    title: str,
    values: Sequence[float] | np.ndarray,
    *,
    log: bool,
    pad: float,
    auto: bool = False,
) -> dict[bool, dict[str, Any]]:
    """Give an axis its type, title, range and ticks; returns those settings for linear (False) and log (True).

    Args:
        fig: the figure.
        which: "x" or "y".
        title: words and unit, ending in a bracket.
        values: what must be visible.
        log: which of the two to apply.
        pad: share of the span added at each end.
        auto: let plotly.js find the range (live curves, whose range must not change between redraws).
    """
    both: dict[bool, dict[str, Any]] = {}
    for logged in (False, True):
        settings: dict[str, Any] = {"type": "log" if logged else "linear", "title": {"text": _title(title, logged)}}
        limits = _frames.spread(values, log=logged, pad=pad)
        settings |= {"autorange": True} if auto else {"range": limits}
        if logged:
            ticks, texts = log_ticks(10 ** limits[0], 10 ** limits[1])
            settings |= {"tickmode": "array", "tickvals": ticks, "ticktext": texts}
        else:
            settings |= {"tickmode": "auto"}
        both[logged] = settings
    fig.update_layout({f"{which}axis": both[log]})
    return both


def _title(title: str, log: bool) -> str:
    return f"{title[:-1]}, log scale)" if log else title


def add(fig: go.Figure, axes: dict[str, tuple[bool, dict[bool, dict[str, Any]]]], *, above: int = 0) -> int:
    """Add linear/log buttons above the plot, one row per axis; returns the pixels they need there.

    Args:
        fig: the figure.
        axes: "x" or "y" → (starts with log, settings from `set_axis`).
        above: pixels to leave between the plot and the buttons, for a legend.
    """
    menus = []
    for i, (which, (log, both)) in enumerate(axes.items()):
        prefix = {"x": "across", "y": "up"}[which] if len(axes) > 1 else ""
        buttons = []
        for logged in (False, True):
            flat = {f"{which}axis.{key}": value for key, value in both[logged].items() if key != "title"}
            flat[f"{which}axis.title.text"] = both[logged]["title"]["text"]
            label = " ".join(filter(None, ["log" if logged else "linear", prefix])).capitalize()
            buttons.append({"label": label, "method": "relayout", "args": [flat]})
        menus.append(_menu(buttons, int(log), above + 8 + ROW * i))
    fig.update_layout(updatemenus=menus)
    return ROW * len(menus)


def _menu(buttons: list[dict[str, Any]], active: int, lift: int) -> dict[str, Any]:
    # plotly fills the active button with its own pale blue, so these colours are light on a dark page too.
    return {
        "type": "buttons",
        "direction": "right",
        "active": active,
        "buttons": buttons,
        "showactive": True,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": lift, "l": 0, "r": 0, "t": 0},
        "bgcolor": "#DAD6CB",
        "bordercolor": "#8B8678",
        "borderwidth": 1,
        "font": {"size": 11, "color": "#20242A"},
    }
