"""Exact distance from points to a triangle mesh, for meshes that serve as truth.

The nearest triangle is looked for among those of the nearest dense sample points, then the distance to each of them is exact
(closest point on a triangle by its seven regions; Ericson, "Real-Time Collision Detection", 2005, §5.1.5).

Source: none of its own; gives the truth that Hu et al., CVPR 2025, arXiv 2407.01330, §4 compares with.
"""

from __future__ import annotations

import numpy as np

from workbench.geometry.mesh import Mesh


def triangle_distance(points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Distance of points (n, 3) to triangles with corners a, b, c (n, 3) each, row by row."""

    def segment(p: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        along = stop - start
        t = ((p - start) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-300)
        return np.linalg.norm(p - start - t.clip(0, 1)[..., None] * along, axis=-1)

    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=-1)
    inside = np.ones(len(points), bool)
    for start, stop in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(stop - start, points - start) * normal).sum(-1) >= 0
    plane = np.abs(((points - a) * normal).sum(-1)) / np.maximum(length, 1e-300)
    rim = np.minimum(np.minimum(segment(points, a, b), segment(points, b, c)), segment(points, c, a))
    return np.where(inside & (length > 0), plane, rim)


def mesh_distance(mesh: Mesh, samples: int = 60_000, near: int = 24, seed: int = 0):
    """A function that gives the distance (m,) of queries (m, 3) to a mesh.

    Args:
        mesh: the surface.
        samples: points spread over it to find candidate triangles with.
        near: candidates per query.
        seed: of the samples.
    """
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    areas = mesh.areas
    face = np.concatenate([rng.choice(len(areas), samples, p=areas / areas.sum()), np.repeat(np.arange(len(areas)), 4)])
    u, v = rng.random((2, len(face)))
    u, v = np.where(u + v > 1, 1 - u, u)[:, None], np.where(u + v > 1, 1 - v, v)[:, None]
    a, b, c = (mesh.vertices[mesh.faces[face, i]] for i in range(3))
    tree = cKDTree(a + u * (b - a) + v * (c - a))

    def distance(queries: np.ndarray) -> np.ndarray:
        queries = np.asarray(queries, dtype=np.float64)
        found = face[tree.query(queries, k=near)[1]]  # (m, near)
        corners = [mesh.vertices[mesh.faces[found.ravel(), i]] for i in range(3)]
        return triangle_distance(np.repeat(queries, near, 0), *corners).reshape(found.shape).min(1)

    return distance
