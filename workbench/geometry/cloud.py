"""A point cloud before anything is learned from it: what is refused and why, and the cube it is brought into.

Lengths inside this room are shares of the cloud's longest side: centred, largest extent 1, one factor for all axes.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §4.1. Departure: the released normalisation scales by the largest extent but
divides the offset per axis, which shifts every cloud that is neither centred nor a cube; here one factor serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import UserError

LEAST, MOST = 50, 2_000_000  # points a cloud may have


@dataclass(frozen=True)
class Frame:
    """Where a cloud stood: point = centre + inside / scale.

    Args:
        centre: (3,), middle of the cloud's box, in the cloud's unit.
        scale: 1 / longest side of the box.
    """

    centre: np.ndarray
    scale: float

    def inside(self, points: np.ndarray) -> np.ndarray:
        """From the cloud's unit to the cube of side 1 around 0."""
        return (points - self.centre) * self.scale

    def outside(self, points: np.ndarray) -> np.ndarray:
        """From the cube back to the cloud's unit."""
        return points / self.scale + self.centre


def check_cloud(points: Any, name: str = "the cloud") -> np.ndarray:
    """Refuse what no surface can be read from; drop exact duplicates.

    Args:
        points: anything that turns into numbers of shape (n, 3).
        name: how errors call it, such as the file's name.

    Returns:
        (m, 3) float64, the distinct points in their first order.

    Raises:
        UserError: wrong shape, not numbers, not finite, fewer than 50 distinct points, too many, all on one line, or a few
            points so far from the rest that the rest has no detail left.
    """
    try:
        points = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"The points of {name} are not numbers ({error}); give an array of shape (n, 3).") from error
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"{name} has shape {points.shape}; give an array of shape (n, 3), one point x, y, z per row.")
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if len(bad):
        raise UserError(
            f"{name}: {len(bad)} of {len(points)} points are not finite (NaN or infinite), the first at row {bad[0] + 1}; "
            "remove these rows."
        )
    if len(points) > MOST:
        raise UserError(
            f"{name} has {len(points):,} points and at most {MOST:,} are taken; thin it, for example every "
            f"{-(-len(points) // MOST)}th point."
        )
    given = len(points)
    _, first = np.unique(points, axis=0, return_index=True)
    points = points[np.sort(first)]
    if len(points) < LEAST:
        told = f"{len(points)} points" if given == len(points) else f"{given} points, {len(points)} of them distinct"
        raise UserError(f"{name} has {told}; at least {LEAST} distinct ones are needed (5000 give a clean surface).")
    _check_spread(points, name)
    return points


def _check_spread(points: np.ndarray, name: str) -> None:
    """Refuse lines and clouds with points astray by orders of magnitude."""
    low, high = np.quantile(points, (0.02, 0.98), axis=0)
    side, body = np.ptp(points, axis=0).max(), (high - low).max()
    if side > 100 * body:
        centre = np.median(points, axis=0)
        far = int((np.abs(points - centre).max(1) > 10 * max(body, np.finfo(float).tiny)).sum())
        raise UserError(
            f"{name} has points at very different scales: {far} of {len(points)} lie more than ten times as far out as the "
            f"rest, which fills only {body / side:.1%} of the box; remove them, or cut the cloud into parts."
        )
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if spread[1] <= 1e-6 * spread[0]:
        raise UserError(f"All points of {name} lie on one line; a surface needs points that spread in two directions.")


def frame_of(points: np.ndarray) -> Frame:
    """The frame that centres a cloud and makes its longest side 1."""
    low, high = points.min(0), points.max(0)
    return Frame((low + high) / 2, float(1 / (high - low).max()))
