"""What people use today, as peers in measurements: open3d's ball pivoting and screened Poisson (extra `bench`).

Both need normals: estimated from 30 neighbours and turned to agree along a tangent-plane graph, as open3d's guide does.

Source: Bernardini et al., "The Ball-Pivoting Algorithm for Surface Reconstruction", 1999; Kazhdan & Hoppe, "Screened Poisson
Surface Reconstruction", 2013; open3d 0.20.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from workbench.errors import UserError
from workbench.geometry.mesh import Mesh


def open3d() -> Any:
    """The package open3d, quiet.

    Raises:
        UserError: it is not installed, or a library of the system that it needs is missing.
    """
    try:
        import open3d as package
    except ModuleNotFoundError as error:
        raise UserError("The peers need open3d, which is not installed; run: pip install 'workbench[bench]'") from error
    except (ImportError, OSError) as error:
        raise UserError(
            f"The package open3d is here and does not load ({error}); install what it misses "
            "(Debian: apt install libusb-1.0-0 libgomp1 libgl1)."
        ) from error
    package.utility.set_verbosity_level(package.utility.VerbosityLevel.Error)
    return package


@contextmanager
def silenced() -> Iterator[None]:
    """Send what compiled code prints to nowhere: the Poisson solver writes a line per leaf of its octree."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def cloud_with_normals(points: Any) -> Any:
    """An open3d cloud with consistently turned normals; one that is prepared already is given back.

    Normals come from a copy moved by a millionth of the box at random: open3d's tangent-plane graph begins with a Delaunay
    triangulation that stops with an error on points of an exact sphere or plane.
    """
    o3d = open3d()
    if isinstance(points, o3d.geometry.PointCloud):
        return points
    shaken = points + 1e-6 * np.ptp(points, axis=0).max() * np.random.default_rng(0).standard_normal(points.shape)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(shaken))
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(30))
    cloud.orient_normals_consistent_tangent_plane(15)
    cloud.points = o3d.utility.Vector3dVector(points)
    return cloud


def screened_poisson(points: Any, depth: int = 7, trim: float = 0.0) -> Mesh:
    """Screened Poisson reconstruction of a cloud.

    Args:
        points: (n, 3), or what `cloud_with_normals` made of them.
        depth: of the octree; 7 has 128 cells along a side.
        trim: share of the vertices with the lowest density to remove, the usual way to open a closed surface.
    """
    o3d = open3d()
    cloud = cloud_with_normals(points)
    with silenced():
        mesh, density = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=depth, n_threads=1)
    if trim:
        density = np.asarray(density)
        mesh.remove_vertices_by_mask(density < np.quantile(density, trim))
    return Mesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles))


def ball_pivoting(points: Any) -> Mesh:
    """Ball pivoting with balls of 1.5, 3 and 6 times the mean distance between neighbours."""
    o3d = open3d()
    cloud = cloud_with_normals(points)
    mean = float(np.mean(cloud.compute_nearest_neighbor_distance()))
    mesh = o3d.geometry.TriangleMesh.create_from_point_cloud_ball_pivoting(
        cloud, o3d.utility.DoubleVector([1.5 * mean, 3 * mean, 6 * mean])
    )
    return Mesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles))
