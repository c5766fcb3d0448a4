"""Who is near whom: ball queries for many centres at once, a radius that fits the cloud, and the band around it on a grid.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §3.4 (ball query) and §4 (radius 0.018 of the box, 0.02–0.03 where points are
sparse, chosen by hand). Departure: `local_radius` takes the radius from the cloud itself, so that a ball on the surface holds
about 48 points whatever their number and density.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

WANTED = 48  # points that a ball around a point of the cloud should hold


def ball_query(
    tree: cKDTree, queries: np.ndarray, radius: float | np.ndarray, workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """All neighbours of many queries.

    Args:
        tree: of the cloud.
        queries: (m, 3).
        radius: one for all, or one per query (m,).
        workers: threads.

    Returns:
        How many neighbours each query has (m,), and their indices one query after the other.
    """
    lists = tree.query_ball_point(queries, radius, return_sorted=False, workers=workers)
    count = np.fromiter(map(len, lists), np.int64, len(lists))
    return count, np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(count.sum()))


def padded(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Rows of different length, given one after the other, as an array (m, longest, …) filled up with zeros."""
    longest = int(count.max(initial=0))
    out = np.zeros((len(count), longest, *values.shape[1:]), values.dtype)
    out[np.arange(longest) < count[:, None]] = values
    return out


def local_radius(tree: cKDTree, wanted: int = WANTED, workers: int = 1) -> np.ndarray:
    """Radius per point so that its ball holds about `wanted` points, between half and twice the median.

    Args:
        tree: of the cloud, at least 2 points.
        wanted: points per ball, itself included.
        workers: threads.
    """
    k = min(wanted, tree.n)
    radius = tree.query(tree.data, k=[k], workers=workers)[0][:, 0]
    middle = float(np.median(radius))
    return radius.clip(0.5 * middle, 2 * middle)


def spacing_of(tree: cKDTree, workers: int = 1) -> float:
    """Typical distance between neighbours: median distance to the fourth neighbour."""
    return float(np.median(tree.query(tree.data, k=[min(5, tree.n)], workers=workers)[0]))


def band(points: np.ndarray, origin: np.ndarray, step: float, shape: tuple[int, int, int], reach: float) -> np.ndarray:
    """Flat indices of the grid nodes within `reach` of a point, and hardly any others; ascending.

    Args:
        points: (n, 3).
        origin: (3,), position of node (0, 0, 0).
        step: distance between nodes.
        shape: nodes along each axis.
        reach: distance up to which nodes are wanted (cells of points are taken whole, so up to ¾ step more).
    """
    cells = np.unique(np.floor((points - origin) / step).astype(np.int64), axis=0)
    wide = int(np.ceil(reach / step)) + 1
    line = np.arange(-wide + 1, wide + 1)
    offsets = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    gap = np.maximum(np.maximum(-offsets, offsets - 1), 0)  # from the cell [0, 1]³ to the node, per axis
    offsets = offsets[(gap * gap).sum(1) * step * step <= reach * reach]
    marked = np.zeros(int(np.prod(shape)), bool)
    limit = np.array(shape)
    for part in np.array_split(cells, max(1, len(cells) * len(offsets) // 4_000_000)):
        nodes = (part[:, None] + offsets).reshape(-1, 3)
        nodes = nodes[((nodes >= 0) & (nodes < limit)).all(1)]
        marked[np.ravel_multi_index(nodes.T, shape)] = True
    return np.flatnonzero(marked)
