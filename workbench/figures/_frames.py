"""Small helpers the figure functions share: column checks, ranges, hover text, direct labels that keep their distance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.figures.formats import number

CHAR = 6.9  # pixels of an average letter at size 12, on the wide side


def need(rows: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Refuse rows that lack a column, naming what is there. A frame with no columns at all counts as empty."""
    missing = [c for c in columns if c not in rows.columns]
    if missing and len(rows.columns):
        there = ", ".join(map(str, rows.columns))
        raise UserError(
            f"The rows for {what} have no column {', '.join(map(repr, missing))}; they have {there}. "
            "Rename or add the missing ones."
        )


def plain(values: Iterable[Any]) -> list[Any]:
    """Numbers as plain floats with six significant digits (keeps the JSON small); not-finite ones become None."""
    return [float(f"{v:.6g}") if v is not None and math.isfinite(v) else None for v in map(float, values)]


def spread(values: Sequence[float] | np.ndarray, *, log: bool = False, pad: float = 0.06) -> list[float]:
    """An explicit axis range around the finite values, padded on both sides; for a log axis in powers of ten.

    Args:
        values: what must be visible.
        log: give the range in log₁₀ and ignore values ≤ 0.
        pad: share of the span added at each end.
    """
    data = np.asarray(values, dtype=float)
    data = data[np.isfinite(data) & ((data > 0) | (not log))]
    if not len(data):
        return [0.0, 1.0]
    if log:
        data = np.log10(data)
    low, high = float(data.min()), float(data.max())
    span = (high - low) or (abs(high) * 0.2 or 1.0)
    return [low - pad * span, high + pad * span]


def hover(row: Any, columns: Iterable[str]) -> str:
    """Every field of a row, one per line."""
    return "<br>".join(f"{c.replace('_', ' ')}: {_show(getattr(row, c))}" for c in columns)


def _show(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return number(float(value), 4) if isinstance(value, int | float | np.number) else str(value)


def shorten(text: str, limit: int = 18) -> str:
    """`text` cut to `limit` characters, with an ellipsis where something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move positions (pixels) as little as a simple pass allows until neighbours are at least `gap` apart; order is kept."""
    order = np.argsort(heights)
    placed = np.array([heights[i] for i in order], dtype=float)
    for _ in range(200):
        close = [i for i in range(len(placed) - 1) if placed[i + 1] - placed[i] < gap - 1e-6]
        if not close:
            break
        for i in close:
            push = (gap - (placed[i + 1] - placed[i])) / 2 + 1e-6
            placed[i] -= push
            placed[i + 1] += push
    result = [0.0] * len(placed)
    for i, at in zip(order, placed, strict=True):
        result[i] = float(at)
    return result


def place(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    height: float,
    *,
    bars: Sequence[tuple[float, float] | None] = (),
    widths: Sequence[float] = (290, 640, 1080),
) -> list[tuple[float, float] | None]:
    """Where to write each point's label so that no two labels, and no label and point, overlap at any of the widths.

    Args:
        points: positions as shares of the plot, (0, 0) bottom left, in order of importance.
        texts: one label per point.
        height: height of the plot in pixels.
        bars: per point the ends of its vertical interval as shares of the height, or None.
        widths: plot widths in pixels that must all work (phone, notebook, wide screen).

    Returns:
        Per point the shift (right, up) in pixels from the point to the label's centre; None where nothing fits.
    """
    boxes: dict[float, list[tuple[float, float, float, float]]] = {}
    for w in widths:
        boxes[w] = [(x * w - 6, y * height - 6, x * w + 6, y * height + 6) for x, y in points]
        ends = [(x * w, bar) for (x, _), bar in zip(points, bars, strict=False) if bar]
        boxes[w] += [(at - 5, low * height - 2, at + 5, high * height + 2) for at, (low, high) in ends]
    found: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        half = len(text) * CHAR / 2
        ring = []
        for d in (0, 16, 32, 48):
            ring += [(half + 10 + d, 0), (-half - 10 - d, 0), (0, 15 + d), (0, -15 - d)]
            ring += [(sx * (half + 7 + d / 2), sy * (12 + d)) for sx in (1, -1) for sy in (1, -1)]
        chosen = next(
            (s for s in ring if all(_fits((x, y), s, half, w, height, boxes[w], points) for w in widths)), None
        )
        found.append(chosen)
        if chosen:
            for w in widths:
                cx, cy = x * w + chosen[0], y * height + chosen[1]
                boxes[w].append((cx - half, cy - 7, cx + half, cy + 7))
    return found


def _fits(
    own: tuple[float, float],
    shift: tuple[float, float],
    half: float,
    w: float,
    h: float,
    taken: list[tuple[float, float, float, float]],
    points: Sequence[tuple[float, float]],
) -> bool:
    """Inside the plot, over nothing that is taken, and nearer to its own point than to any other."""
    px, py = own[0] * w, own[1] * h
    x0, x1, y0, y1 = px + shift[0] - half, px + shift[0] + half, py + shift[1] - 7, py + shift[1] + 7
    if x0 < 0 or x1 > w or y0 < 0 or y1 > h:
        return False
    if any(x0 < b[2] and x1 > b[0] and y0 < b[3] and y1 > b[1] for b in taken):
        return False

    def gap(point: tuple[float, float]) -> float:
        x, y = point[0] * w, point[1] * h
        return math.hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1))

    return all(gap(p) >= min(gap(own) + 2, 24) for p in points if p != own)
