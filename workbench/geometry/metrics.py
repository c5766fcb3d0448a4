"""How near a mesh is to the surface it should be: distances both ways, F-score, normals, and whether open edges stayed open.

    Chamfer = ½(mean_a min_b ‖a − b‖ + mean_b min_a ‖a − b‖)         a on the mesh, b on the surface, lengths not squared
    F1@τ = harmonic mean of the shares of a and of b that are within τ of the other
    normal consistency = mean |n_a · n_b| of nearest neighbours, both ways

Lengths are shares of the longest side of the surface's box. Source: Hu et al., CVPR 2025, arXiv 2407.01330, §4 (Chamfer and
F-score at 0.005 and 0.01); Tatarchenko et al., "What do single-view 3D reconstruction networks learn?", CVPR 2019 (F-score).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workbench.geometry.mesh import Mesh

SAMPLES = 120_000


def compare(
    mesh: Mesh,
    points: np.ndarray,
    normals: np.ndarray,
    distance: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    thresholds: tuple[float, ...] = (0.005, 0.01),
    seed: int = 0,
) -> dict[str, float]:
    """Chamfer distance, F-scores and normal consistency of a mesh against points of the true surface.

    Args:
        mesh: what was reconstructed; without faces all scores are the worst.
        points: (n, 3), dense samples of the true surface.
        normals: (n, 3), their normals, either sign.
        distance: exact distance (m,) from (m, 3) to the true surface; without it, to the nearest of `points`.
        thresholds: of the F-scores.
        seed: of the samples on the mesh.

    Returns:
        {"chamfer", "normals", "f1@0.005", "f1@0.01"}.
    """
    from scipy.spatial import cKDTree

    if not len(mesh.faces):
        return {"chamfer": float("inf"), "normals": 0.0, **{f"f1@{t:g}": 0.0 for t in thresholds}}
    mine, mine_normals = mesh.sample(SAMPLES, np.random.default_rng(seed))
    to, near = cKDTree(points).query(mine)
    to = to if distance is None else distance(mine)
    back, near_back = cKDTree(mine).query(points)
    agree = (
        np.abs((mine_normals * normals[near]).sum(1)).mean(),
        np.abs((mine_normals[near_back] * normals).sum(1)).mean(),
    )
    scores = {}
    for t in thresholds:
        precision, recall = float((to < t).mean()), float((back < t).mean())
        scores[f"f1@{t:g}"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"chamfer": float(0.5 * (to.mean() + back.mean())), "normals": float(0.5 * sum(agree)), **scores}


def rim_kept(mesh: Mesh, rim: np.ndarray, within: float = 0.03) -> float:
    """Share of the true surface's open edge that has an open edge of the mesh near it.

    Args:
        mesh: what was reconstructed.
        rim: (k, 3), points along the open edges of the true surface.
        within: how near is near.
    """
    from scipy.spatial import cKDTree

    ends = mesh.vertices[mesh.boundary()]
    if not len(ends):
        return 0.0
    return float((cKDTree(ends.mean(1)).query(rim)[0] < within).mean())
