"""Unsigned distance around a cloud: at any queries, or on the band of a grid where a surface can be.

    q → ball of radius r(q) → patch → network → distance / scale        only where the ball holds 6 points or more

The radius follows the cloud's local density (`neighbours.local_radius`) unless one is given. A grid is never filled: only nodes
near the cloud are asked, so cost grows with the area of the surface over the square of the step, not with the grid's volume.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §3.4; released code `src/eval.py`.
Departures: nodes are asked band by band instead of all 256³ passing the ball query; grids keep their axes (the released
`meshgrid` swaps x and y, which mirrors the mesh).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workbench.errors import UserError
from workbench.geometry.local_shapes import LEAST
from workbench.geometry.neighbours import ball_query, band, local_radius, padded, spacing_of
from workbench.geometry.patches import Patches, make_patches
from workbench.progress import Progress, silent

CHUNK, BATCH = 8192, 512
MARGIN = 0.02  # of the cube's side, left free around the cloud
Reader = Callable[[Patches], torch.Tensor]


class Field:
    """The distance from any point to the surface behind a cloud.

    Args:
        points: (n, 3), in the cube of side 1 around 0.
        read: gives the distance (B,) for patches (B) in the unit of their unit ball; see `losf_reader`.
        radius: of the balls, as a share of the cube's side; None follows the local density.
        reach: distance from the surface up to which answers are wanted; balls are at least 1.5 times as large.
        device: torch device of `read`.
    """

    def __init__(
        self, points: np.ndarray, read: Reader, radius: float | None = None, *, reach: float = 0.0, device: str = "cpu"
    ) -> None:
        from scipy.spatial import cKDTree

        self.points = np.ascontiguousarray(points, dtype=np.float64)
        self.tree = cKDTree(self.points)
        self.read, self.device, self.asked = read, device, 0
        self.spacing = spacing_of(self.tree)
        if radius is None:
            self.radius: float | np.ndarray = np.maximum(local_radius(self.tree), 1.5 * reach)
        else:
            self.radius = check_radius(self.tree, radius)

    def __call__(self, queries: np.ndarray, progress: Progress = silent) -> np.ndarray:
        """Distances (m,) at queries (m, 3); infinite where the ball holds fewer than 6 points."""
        queries = np.asarray(queries, dtype=np.float64)
        found = np.full(len(queries), np.inf)
        for start in range(0, len(queries), CHUNK):
            progress(start, len(queries), "reading distances")
            found[start : start + CHUNK] = self._chunk(queries[start : start + CHUNK])
        self.asked += len(queries)
        return found

    def _chunk(self, queries: np.ndarray) -> np.ndarray:
        radius = self.radius
        if not np.isscalar(radius):
            radius = radius[self.tree.query(queries)[1]]
        count, neighbour = ball_query(self.tree, queries, radius)
        starts = np.concatenate([[0], np.cumsum(count)[:-1]])
        found = np.full(len(queries), np.inf)
        order = np.argsort(count, kind="stable")
        order = order[count[order] >= LEAST]
        size = np.broadcast_to(radius, len(queries))
        for part in batches(order, count):
            members = np.concatenate([neighbour[starts[i] : starts[i] + count[i]] for i in part])
            owner = np.repeat(np.arange(len(part)), count[part])
            local = (self.points[members] - queries[part][owner]) / size[part][owner, None]
            raw = torch.from_numpy(padded(local.astype(np.float32), count[part])).to(self.device)
            number = torch.from_numpy(count[part]).to(self.device)
            patches = make_patches(raw, number, raw.new_zeros(len(part), 3))
            with torch.inference_mode():
                found[part] = (self.read(patches) / patches.scale).cpu().numpy() * size[part]
        return found


def batches(order: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
    """Cut queries, sorted by their count, into batches of at most 512, fewer where balls hold hundreds of points."""
    parts, start = [], 0
    while start < len(order):
        stop = min(start + BATCH, len(order))
        while stop - start > 16 and (stop - start) * count[order[stop - 1]] > 400_000:
            stop = start + (stop - start) // 2
        parts.append(order[start:stop])
        start = stop
    return parts


def check_radius(tree: Any, radius: float) -> float:
    """Refuse a radius whose balls are (nearly) all empty.

    Raises:
        UserError: not positive, or fewer than half of the cloud's own points have six in their ball; names one that fits.
    """
    fits = float(np.median(local_radius(tree)))
    if not (np.isfinite(radius) and radius > 0):
        raise UserError(f"Radius {radius} is not a positive length; {fits:.3g} of the longest side fits this cloud.")
    held = tree.query_ball_point(tree.data, radius, return_length=True)
    if np.median(held) < LEAST:
        raise UserError(
            f"Radius {radius:g} of the longest side is too small: half of the balls hold {int(np.median(held))} points or "
            f"fewer and {LEAST} are needed; {fits:.3g} fits this cloud."
        )
    return float(radius)


def losf_reader(net: Any) -> Reader:
    """How a trained network reads patches."""
    return lambda patches: net(patches)[0]


@dataclass(frozen=True)
class SparseGrid:
    """Distances on some nodes of a grid.

    Args:
        origin: (3,), position of node (0, 0, 0).
        step: distance between nodes.
        shape: nodes along each axis.
        index: (m,) flat indices of the nodes that were asked, ascending.
        value: (m,) distances there; infinite where nothing can be said.
    """

    origin: np.ndarray
    step: float
    shape: tuple[int, int, int]
    index: np.ndarray
    value: np.ndarray

    def dense(self, outside: float) -> np.ndarray:
        """The whole grid (nx, ny, nz) float32, with `outside` where nothing is known and at most that anywhere."""
        grid = np.full(int(np.prod(self.shape)), outside, np.float32)
        grid[self.index] = np.minimum(self.value, outside)
        return grid.reshape(self.shape)

    def positions(self) -> np.ndarray:
        """(m, 3), where the asked nodes stand."""
        return self.origin + self.step * np.stack(np.unravel_index(self.index, self.shape), -1)


def grid_of(points: np.ndarray, resolution: int) -> tuple[np.ndarray, float, tuple[int, int, int]]:
    """Origin, step and shape of the grid around a cloud in the unit cube: `resolution` nodes along the longest side."""
    low, high = points.min(0) - MARGIN, points.max(0) + MARGIN
    step = float((high - low).max() / (resolution - 1))
    low, high = low - 3 * step, high + 3 * step
    shape = np.ceil((high - low) / step).astype(int) + 1
    return low, step, tuple(int(n) for n in shape)


def band_udf(field: Any, resolution: int, iso: float, progress: Progress = silent) -> SparseGrid:
    """Ask a field on the band of a grid that an isosurface at `iso` can touch.

    Args:
        field: a `Field`, or anything with `points`, `spacing` and a call.
        resolution: nodes along the longest side.
        iso: distance of the isosurface, in sides of the cube.
        progress: called with done, total, text.
    """
    origin, step, shape = grid_of(field.points, resolution)
    reach = ((iso + 1.2 * step) ** 2 + (1.2 * field.spacing) ** 2) ** 0.5
    index = band(field.points, origin, step, shape, reach)
    nodes = origin + step * np.stack(np.unravel_index(index, shape), -1)
    near = np.concatenate([field.tree.query(part)[0] for part in np.array_split(nodes, -(-len(nodes) // 65_536))])
    index, nodes = index[near <= reach], nodes[near <= reach]
    return SparseGrid(origin, step, shape, index, field(nodes, progress))


def predict_udf(
    points: Any, queries: Any, *, radius: float | None = None, net: Any = None, device: str = "cpu"
) -> np.ndarray:
    """Distances from queries to the surface behind a cloud, in the cloud's own unit.

    Args:
        points: (n, 3).
        queries: (m, 3).
        radius: of the balls, in the cloud's unit; None follows the local density.
        net: a trained network, by default the shipped one.
        device: torch device.

    Returns:
        (m,), infinite where fewer than six points are near.

    Raises:
        UserError: a cloud or radius that does not do.
    """
    from workbench.geometry.cloud import check_cloud, frame_of
    from workbench.geometry.weights import load_losf

    points = check_cloud(points)
    frame = frame_of(points)
    net = net if net is not None else load_losf()
    inner = None if radius is None else radius * frame.scale
    field = Field(frame.inside(points), losf_reader(net.to(device)), inner, device=device)
    return field(frame.inside(np.asarray(queries, dtype=np.float64))) / frame.scale
