"""Fewer points, same picture: largest-triangle-three-buckets (Steinarsson 2013, "Downsampling Time Series", §4.2).

The first and last point stay. The points between are cut into n − 2 buckets; from each bucket the point is kept that
spans the largest triangle with the point kept before it and the mean of the next bucket:
area = ½ |(x_a − x_c)(y_b − y_a) − (x_a − x_b)(y_c − y_a)|. Spikes survive, which a plain stride would lose.
"""

from __future__ import annotations

import numpy as np

MAX_POINTS = 2000  # in one figure, over all its traces


def keep(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Indices of the `n` points that keep the look of the line y(x).

    Args:
        x: positions in increasing order, shape (T,).
        y: values, shape (T,); not-finite values count as zero when choosing.
        n: how many points to keep, at least 3.

    Returns:
        Increasing indices, shape (min(n, T),).
    """
    if n < 3:
        raise ValueError(f"keep() needs room for at least 3 points, got n = {n}; raise n.")
    total = len(x)
    if total <= n:
        return np.arange(total)
    x = np.asarray(x, dtype=float)
    y = np.nan_to_num(np.asarray(y, dtype=float), nan=0.0, posinf=0.0, neginf=0.0)
    edges = np.linspace(1, total - 1, n - 1).astype(int)  # n - 2 buckets between the two end points
    chosen = [0]
    for i in range(n - 2):
        start, stop = edges[i], edges[i + 1]
        after = slice(stop, edges[i + 2]) if i + 2 < len(edges) else slice(total - 1, total)
        xc, yc = x[after].mean(), y[after].mean()
        a = chosen[-1]
        area = np.abs((x[a] - xc) * (y[start:stop] - y[a]) - (x[a] - x[start:stop]) * (yc - y[a]))
        chosen.append(start + int(area.argmax()))
    return np.array([*chosen, total - 1])
