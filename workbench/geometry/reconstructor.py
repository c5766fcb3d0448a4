"""`LoSFReconstructor().fit(points).mesh_`: from a cloud to a mesh, open where the surface is open.

    cloud → cube of side 1 → distances on a band of the grid → double cover → refined → cut → back to the cloud's unit

Source: Hu et al., CVPR 2025, arXiv 2407.01330; Hou et al., DCUDF, SIGGRAPH Asia 2023. Departures are named where they are made:
`patches`, `local_shapes`, `losf`, `udf`, `meshing`, `cutting`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.errors import UserError
from workbench.geometry.cloud import check_cloud, frame_of
from workbench.geometry.mesh import Mesh
from workbench.geometry.meshing import marching_cubes, mesh_from_grid
from workbench.geometry.udf import Field, band_udf, grid_of, losf_reader
from workbench.geometry.weights import SHIPPED, load_losf
from workbench.progress import Progress, part, silent


class LoSFReconstructor:
    """Surface of a point cloud by local shape functions, in the manner of scikit-learn.

    Args:
        resolution: grid nodes along the longest side. Doubling it takes four times as long. 64 to 256.
        radius: of the balls, in the cloud's unit; None follows the local density. Larger ones smooth noise away.
        iso: distance of the double cover, in the cloud's unit; None takes one grid step. Sheets nearer than 2·iso merge.
        net: `losf-light`, a folder of trained weights, or a network.
        refine: ask the network again at the skin; without, the skin is drawn in by `iso`. Twice as exact, a third slower.
        device: torch device.

    After `fit`: `mesh_` (in the cloud's unit), `grid_` (distances on the band, in the cube of side 1), `frame_` (of the cube),
    `field_` (asks the network anywhere in the cube), `n_queries_` (patches read).
    """

    def __init__(
        self,
        resolution: int = 128,
        *,
        radius: float | None = None,
        iso: float | None = None,
        net: Any = SHIPPED,
        refine: bool = True,
        device: str = "cpu",
    ) -> None:
        self.resolution = resolution
        self.radius = radius
        self.iso = iso
        self.net = net
        self.refine = refine
        self.device = device

    def fit(self, points: Any, y: Any = None, *, progress: Progress = silent) -> LoSFReconstructor:
        """Reconstruct.

        Args:
            points: (n, 3).
            y: ignored, so that pipelines can pass it.
            progress: called with done, total, text.

        Raises:
            UserError: a cloud, radius, iso or resolution that does not do; scikit-image is not installed.
            JobError: no part of the mesh is larger than a speck.
        """
        if (
            isinstance(self.resolution, bool)
            or not isinstance(self.resolution, int)
            or not 16 <= self.resolution <= 512
        ):
            raise UserError(
                f"resolution {self.resolution!r} is not a whole number from 16 to 512; 128 suits most clouds."
            )
        marching_cubes()
        points = check_cloud(points)
        self.frame_ = frame_of(points)
        inner = self.frame_.inside(points)
        step = grid_of(inner, self.resolution)[1]
        iso = step if self.iso is None else float(self.iso) * self.frame_.scale
        if not 0 < iso < 0.25:
            raise UserError(
                f"iso {self.iso!r} is not between 0 and a quarter of the cloud's longest side; leave it out."
            )
        net = load_losf(self.net) if isinstance(self.net, str) or hasattr(self.net, "joinpath") else self.net
        radius = None if self.radius is None else float(self.radius) * self.frame_.scale
        self.field_ = Field(inner, losf_reader(net.to(self.device)), radius, reach=iso + 1.2 * step, device=self.device)
        self.grid_ = band_udf(self.field_, self.resolution, iso, part(progress, 0.0, 0.7))
        field = self.field_ if self.refine else None
        mesh = mesh_from_grid(self.grid_, iso, field, part(progress, 0.75, 0.98))
        self.mesh_ = Mesh(self.frame_.outside(mesh.vertices), mesh.faces)
        self.n_queries_ = self.field_.asked
        progress(1.0, 1.0, f"{len(mesh.faces):,} triangles")
        return self

    def udf(self, queries: np.ndarray) -> np.ndarray:
        """Distances (m,) from queries (m, 3) to the surface, both in the cloud's unit; infinite far away. After `fit`."""
        if not hasattr(self, "field_"):
            raise UserError("Nothing has been reconstructed yet; call fit(points) first.")
        return self.field_(self.frame_.inside(np.asarray(queries, np.float64))) / self.frame_.scale
