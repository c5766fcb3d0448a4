"""The job `reconstruct` of the run store: one cloud, its surface by local shape functions and by one peer, side by side.

    RUN/cloud.ply            the points, in the cloud's unit
    RUN/meshes/METHOD.ply    one mesh per method; a resumed run skips those that are there
    RUN/scores.json          a row per method: triangles, length of open edges, seconds, and scores where the surface is known

The learning-free peers read the same patches on the same grid (`baselines`), so that only the reading of distances differs;
the others are open3d's (`peers`, extra `bench`). Scores are those of `metrics`, against the known shape, not the noisy cloud.

Source: Hu et al., CVPR 2025, arXiv 2407.01330.
"""

from __future__ import annotations

import functools
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import JobError, UserError, check_whole, choose, with_defaults
from workbench.geometry.cloud import check_cloud, frame_of
from workbench.geometry.files import read_cloud, read_mesh, write_mesh
from workbench.geometry.mesh import Mesh
from workbench.geometry.shapes import CONDITIONS, SHAPES, scan, shape
from workbench.progress import Progress, part
from workbench.runs.files import read_json, write_json

if TYPE_CHECKING:
    from workbench.runs import RunContext

DEFAULTS: dict[str, Any] = {
    "shape": "bunny",
    "cloud": None,
    "points": 6000,
    "condition": "clean",
    "resolution": 64,
    "radius": None,
    "iso": None,
    "peer": "quadratic fit",
    "seed": 0,
}
OURS = "LoSF"
ALWAYS = ("nearest point", "quadratic fit")  # peers that need nothing installed
WITH_OPEN3D = ("screened Poisson", "ball pivoting")
NONE = "none"
POINTS, RESOLUTION = (200, 200_000), (16, 256)
DRAWN = 24_000  # triangles of a mesh that is shown; a figure of more is slow to turn


class Stopped(Exception):
    """Raised inside a reconstruction when the user asked the run to stop."""


def peers() -> tuple[str, ...]:
    """Methods at hand beside LoSF."""
    return (*ALWAYS, *(WITH_OPEN3D if find_spec("open3d") else ()), NONE)


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Settings filled up with the defaults.

    Args:
        config: shape (a known one) or cloud (a file, then shape and condition do not count), points (drawn from a shape or from
            the faces of a mesh), condition, resolution, radius, iso, peer, seed; see `LoSFReconstructor` for the middle three.

    Raises:
        UserError: an unknown setting or a value that cannot be; scikit-image is not installed.
    """
    full = with_defaults("A reconstruction", config, DEFAULTS)
    check_whole(full, {"points": POINTS, "resolution": RESOLUTION, "seed": (0, 2**31)})
    for name in ("radius", "iso"):
        value = full[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise UserError(f"{name} is {value!r}; it takes a length above 0 in the cloud's unit, or nothing.")
    choose("peer", str(full["peer"]), peers())
    if full["cloud"] is None:
        choose("shape", str(full["shape"]), SHAPES)
        choose("condition", str(full["condition"]), CONDITIONS)
    if find_spec("skimage") is None:
        raise UserError(
            "Reconstruction needs scikit-image, which is not installed; run: pip install 'workbench[geometry]'"
        )
    return full


def cloud_of(config: dict[str, Any]) -> np.ndarray:
    """The points (n, 3) that checked settings name.

    Raises:
        UserError: a file that cannot be read, or a cloud that no surface can be read from.
    """
    if config["cloud"] is None:
        return scan(
            shape(config["shape"]), config["points"], config["condition"], np.random.default_rng(config["seed"])
        )
    path = Path(config["cloud"])
    given = read_mesh(path)
    if len(given.faces):
        return read_cloud(path, sample=config["points"], seed=config["seed"])
    return check_cloud(given.vertices, path.name)


def reconstruct(
    method: str, points: np.ndarray, config: dict[str, Any], progress: Progress, device: str = "cpu"
) -> tuple[Mesh, int]:
    """Mesh of a cloud by one method, and how many distances were read for it.

    Args:
        method: LoSF or one of `peers()`.
        points: (n, 3).
        config: resolution, radius and iso.
        progress: called with done, total, text.
        device: torch device.

    Raises:
        UserError: a radius or iso that does not fit the cloud.
        JobError: the method gives no surface.
    """
    if method in WITH_OPEN3D:
        from workbench.geometry.peers import ball_pivoting, screened_poisson

        progress(0.1, 1.0, method)
        depth = round(np.log2(config["resolution"]))
        return (screened_poisson(points, depth) if method == WITH_OPEN3D[0] else ball_pivoting(points)), 0
    from workbench.geometry.reconstructor import LoSFReconstructor
    from workbench.geometry.weights import SHIPPED

    net = SHIPPED if method == OURS else _plain(method)
    how = {"radius": config["radius"], "iso": config["iso"], "device": device}
    found = LoSFReconstructor(config["resolution"], net=net, **how).fit(points, progress=progress)
    return found.mesh_, found.n_queries_


def _plain(method: str) -> Any:
    """A learning-free reader in the shape of a network."""
    from torch import nn

    from workbench.geometry.baselines import fit_patches, nearest_patches

    class Plain(nn.Module):
        def forward(self, patches: Any) -> tuple[Any]:
            return (dict(zip(ALWAYS, (nearest_patches, fit_patches), strict=True))[method](patches),)

    return Plain()


def run(context: RunContext) -> dict[str, Any]:
    """Draw or read the cloud, then reconstruct and score method by method.

    Returns:
        {"points", "rows": one per method, "files": method → file in the run folder}; `stopped` when it was asked to stop.
    """
    config = check(context.config)

    def told(done: float, total: float, text: str) -> None:
        if context.should_stop():
            raise Stopped
        context.progress(done, total, text)

    context.progress(0.0, 1.0, "reading the points")
    points = cloud_of(config)
    _keep(Mesh(points, np.empty((0, 3))), context.directory / "cloud.ply")
    methods = [OURS] + [config["peer"]] * (config["peer"] != NONE)
    rows = (read_json(context.directory / "scores.json") or {"rows": []})["rows"]
    stopped = False
    for i, method in enumerate(methods):
        if method in {row["method"] for row in rows}:
            continue
        try:
            rows.append(
                _one(method, points, config, context.directory, part(told, i / len(methods), (i + 1) / len(methods)))
            )
        except Stopped:
            stopped = True
            break
        write_json(context.directory / "scores.json", {"rows": rows})
        context.log_metrics(step=i + 1, **rows[-1])
    files = {row["method"]: f"meshes/{row['method']}.ply" for row in rows if not row.get("failed")}
    return {"points": len(points), "rows": rows, "files": files, "stopped": stopped}


def _one(method: str, points: np.ndarray, config: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """Reconstruct by one method; a peer that gives no surface is a row that says so."""
    begun = time.monotonic()
    try:
        mesh, asked = reconstruct(method, points, config, part(progress, 0.0, 0.9))
    except JobError as error:
        if method == OURS:
            raise
        return {"method": method, "seconds": time.monotonic() - begun, "failed": str(error)}
    seconds = time.monotonic() - begun
    (folder / "meshes").mkdir(exist_ok=True)
    _keep(mesh, folder / "meshes" / f"{method}.ply")
    row = {"method": method, "seconds": seconds, "triangles": len(mesh.faces), "queries": asked}
    row["open_edge"] = mesh.boundary_length()
    if config["cloud"] is None:
        progress(0.95, 1.0, f"scoring {method}")
        row |= score(mesh, config["shape"])
    return row


def score(mesh: Mesh, name: str) -> dict[str, float]:
    """F-score at 0.01, Chamfer distance in thousandths, and share of the open edge kept (None for a closed shape)."""
    from workbench.geometry.metrics import compare, rim_kept

    which = shape(name)
    points, normals = which.sample(30_000, np.random.default_rng(1))
    found = compare(mesh, points, normals, which.distance)
    rim = rim_kept(mesh, which.rim) if which.is_open else None
    return {"f1": found["f1@0.01"], "chamfer": 1e3 * found["chamfer"], "rim": rim}


def _keep(mesh: Mesh, path: Path) -> None:
    beside = path.with_name(f".{path.name}.part.ply")
    write_mesh(mesh, beside)
    os.replace(beside, path)


# ---- what is drawn of a run


def views(directory: Path | str) -> dict[str, Any]:
    """Cloud and meshes of a run in one cube of side 1, thinned for drawing: what `figures.shapes.surfaces` takes."""
    directory = Path(directory)
    points = read_mesh(directory / "cloud.ply").vertices
    frame = frame_of(points)
    found: dict[str, Any] = {f"{len(points)} points": frame.inside(points)}
    for path in sorted((directory / "meshes").glob("*.ply"), key=lambda p: p.stem != OURS):
        if not path.name.startswith("."):
            mesh = read_mesh(path)
            found[path.stem] = light(Mesh(frame.inside(mesh.vertices), mesh.faces))
    return found


def light(mesh: Mesh, most: int = DRAWN) -> Mesh:
    """A mesh with at most about `most` triangles: vertices in one cell of a coarser grid become one, at their mean."""
    cell = 0.75 * (mesh.areas.sum() / most) ** 0.5 if len(mesh.faces) > most else 0.0
    vertices = mesh.vertices
    faces = mesh.faces
    while len(faces) > most:
        cell *= 1.25
        _, owner = np.unique(np.round(mesh.vertices / cell).astype(np.int64), axis=0, return_inverse=True)
        count = np.bincount(owner)
        vertices = np.stack([np.bincount(owner, column) / count for column in mesh.vertices.T], 1)
        merged = owner[mesh.faces]
        whole = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 2] != merged[:, 0])
        _, first = np.unique(np.sort(merged[whole], axis=1), axis=0, return_index=True)
        faces = merged[whole][np.sort(first)]
    return Mesh(np.round(vertices, 4), faces)


def slice_through(
    directory: Path | str, method: str, axis: str = "y", at: float = 0.0, side: int = 64
) -> dict[str, Any]:
    """A plane through one method's distances around a run's cloud: arguments of `figures.shapes.udf_slice`.

    Args:
        directory: of the run.
        method: LoSF, nearest point or quadratic fit.
        axis: the axis that the plane stands across.
        at: where it cuts that axis, in sides of the cloud's box from its middle, −0.5 … 0.5.
        side: distances along each side.
    """
    across = "xyz".index(choose("axis", axis, "xyz"))
    place = Path(directory) / "cloud.ply"
    field = _field(place, place.stat().st_mtime_ns, choose("method", method, (OURS, *ALWAYS)))
    free = [i for i in range(3) if i != across]
    line = np.linspace(-0.55, 0.55, side)
    nodes = np.full((side * side, 3), float(at))
    nodes[:, free] = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    near = field.points[np.abs(field.points[:, across] - at) < 0.012]
    title = f"{method}: distances on the plane {axis} = {at:g}"
    values = field(nodes).reshape(side, side)
    return {"values": values, "along": line, "up": line, "points": near[:, free], "title": title}


@functools.lru_cache(maxsize=6)
def _field(place: Path, stamp: int, method: str) -> Any:
    from workbench.geometry.baselines import fit_patches, nearest_patches
    from workbench.geometry.udf import Field, losf_reader
    from workbench.geometry.weights import load_losf

    points = read_mesh(place).vertices
    read = {ALWAYS[0]: nearest_patches, ALWAYS[1]: fit_patches}.get(method) or losf_reader(load_losf())
    return Field(frame_of(points).inside(points), read, reach=0.05)
