"""From distances to a mesh: a thin skin around the surface, drawn onto it, and opened where the surface ends.

    1. double cover   the isosurface UDF = iso wraps the surface on both sides and around every open edge
    2. refine         each vertex v, with normal n away from the surface, goes to v − u·n, u = UDF(v) asked again; u is
                      averaged over neighbours, and vertices slide along the surface towards the middle of their neighbours
    3. cut            one of the two layers is kept (`cutting.py`)

A distance field falls with slope 1, so the step u·n lands on the surface at once; asked at the skin, where the field is smooth,
it avoids the kink at UDF = 0, which has no gradient.

Source: Hou et al., "Robust Zero Level-Set Extraction from Unsigned Distance Fields Based on Double Covering" (DCUDF), SIGGRAPH
Asia 2023, as used by Hu et al., CVPR 2025, arXiv 2407.01330, §3.4; marching cubes by Lewiner et al. 2003 in scikit-image.
Departures: DCUDF minimises UDF + Laplacian by 300 steps of VectorAdam; here the Newton step above. The released code refines
on another network's field with the mesh's own vertices as its cloud; here on the predicted distances.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.errors import JobError, UserError
from workbench.geometry.cutting import cut_double_cover
from workbench.geometry.mesh import Mesh, unit
from workbench.geometry.udf import SparseGrid
from workbench.progress import Progress, silent

LEAST_ISO = 0.87  # steps: half a cell's diagonal, so that the skin has no holes


def marching_cubes() -> Any:
    """scikit-image's marching cubes.

    Raises:
        UserError: it is not installed.
    """
    try:
        from skimage.measure import marching_cubes as march
    except ImportError as error:
        raise UserError(
            "Meshing needs scikit-image, which is not installed; run: pip install 'workbench[geometry]'"
        ) from error
    return march


def double_cover(grid: SparseGrid, iso: float) -> Mesh:
    """The surface at distance `iso` on both sides, normals away from the cloud's surface.

    Args:
        grid: distances on a band.
        iso: distance of the skin, at least 0.87 grid steps.

    Raises:
        UserError: `iso` is too small for the grid, or nothing is as near as `iso`.
    """
    march = marching_cubes()
    if iso < LEAST_ISO * grid.step:
        raise UserError(
            f"iso {iso:g} is less than {LEAST_ISO} of a grid step ({grid.step:.3g}), the skin would have holes; take a larger "
            f"iso or a finer grid (resolution {int(np.ceil(1 / (iso / LEAST_ISO))) + 1} or more)."
        )
    known = grid.value[np.isfinite(grid.value)]
    if not len(known) or known.min() >= iso:
        least = f"the smallest distance is {known.min():.3g}" if len(known) else "no ball holds 6 points"
        raise UserError(
            f"No surface within {iso:.3g} of the grid ({least}); take a larger iso or radius, or more points."
        )
    vertices, faces, *_ = march(grid.dense(iso + 2 * grid.step), iso, gradient_direction="descent")
    return Mesh(grid.origin + grid.step * vertices.astype(np.float64), faces)


def neighbour_mean(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean over the vertices that share an edge with each vertex; values (V,) or (V, d)."""
    ends = np.concatenate([edges, edges[:, ::-1]])
    number = np.bincount(ends[:, 0], minlength=len(values)).clip(min=1)
    columns = values.reshape(len(values), -1).T
    total = np.stack([np.bincount(ends[:, 0], column[ends[:, 1]], len(values)) for column in columns], 1)
    return (total / number[:, None]).reshape(values.shape)


def refine(
    cover: Mesh, iso: float, field: Any = None, *, smooth: int = 2, slide: float = 0.5, progress: Progress = silent
) -> Mesh:
    """Draw both layers of a double cover onto the surface between them.

    Args:
        cover: isosurface at `iso`, normals away from the surface.
        iso: its distance, taken where `field` knows none and everywhere without a field.
        field: gives distances (m,) at positions (m, 3), infinite where unknown.
        smooth: how often normals and distances are averaged over neighbours.
        slide: share of the way towards the middle of the neighbours, along the surface only.
        progress: called with done, total, text.

    Returns:
        The mesh with the same faces, each layer on the surface.
    """
    edges = cover.edges()[0]
    normals, distance = cover.vertex_normals, np.full(len(cover.vertices), iso)
    if field is not None:
        asked = field(cover.vertices, progress)
        distance = np.where(np.isfinite(asked), asked, iso).clip(0, 2 * iso)
    for _ in range(smooth):
        normals = unit(normals + neighbour_mean(normals, edges))
        distance = 0.5 * (distance + neighbour_mean(distance, edges))
    vertices = cover.vertices - distance[:, None] * normals
    pull = neighbour_mean(vertices, edges) - vertices
    pull -= (pull * normals).sum(1, keepdims=True) * normals
    return Mesh(vertices + slide * pull, cover.faces)


def mesh_from_grid(grid: SparseGrid, iso: float, field: Any = None, progress: Progress = silent) -> Mesh:
    """The whole way: double cover, refine, cut.

    Args:
        grid: distances on a band.
        iso: distance of the skin.
        field: asked again at the skin's vertices; without it the skin is drawn in by `iso` everywhere.
        progress: called with done, total, text.

    Raises:
        UserError: as `double_cover`.
        JobError: the cut leaves nothing.
    """
    cover = double_cover(grid, iso)
    keep = cut_double_cover(cover, iso)
    if not keep.any():
        raise JobError("The mesh has no part larger than a speck; take more points, a larger radius or a finer grid.")
    return refine(cover, iso, field, progress=progress).keep_faces(keep)
