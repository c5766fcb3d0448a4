"""LoSF-UDF re-run: does a network trained on tiny synthetic patches alone measure distances to whole shapes?

Nine shapes (five open analytic surfaces, box, cone, and two classic meshes of which one is open), 10 000 points each. The
shipped weights (184 593 parameters, `python -m workbench.geometry.train`) have seen none of them. A seed draws cloud, noise and
queries.

    part "udf"       distances at 1500 queries up to 0.04 away from the surface, of three readers of the same balls:
                     LoSF; nearest point; quadratic fit (principal axes, least squares). Clean, noise σ = 0.005, and that
                      noise with 10 % outliers
    part "mesh"      meshes of the six open shapes from the clean cloud, 64 nodes along the longest side: LoSF, screened Poisson
                     (octree depth 6, 64 cells), Poisson trimmed by its density, ball pivoting
    part "learning"  300 steps of training from scratch, the same for every seed: error on fresh patches

    margin = min of   1 − MAE(LoSF) / MAE(nearest point)         smallest over all clean shapes
                      share of shapes with MAE(LoSF) < MAE(quadratic fit) under noise and outliers − 0.8
                      F1@0.01(LoSF) − F1@0.01(screened Poisson)  smallest over the open shapes
                      share of the open edge kept open − 0.8     smallest over the open shapes
                      1 − 2 · error after / error before the short training

Lengths are shares of the longest side. Departures from the paper: 64³ instead of 256³ grids and 10 000 points instead of denser
scans (the machine); ShapeNet cars, DeepFashion3D and scans are replaced by shapes whose distance is exact; the network is the
paper's lighter one. Departures of the method itself are named in its modules.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.errors import choose
from workbench.figures.shapes import mesh_scores, shape_errors
from workbench.papers.cells import cell
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "losf-udf",
    "title": "A Lightweight UDF Learning Framework for 3D Reconstruction Based on Local Shape Functions",
    "authors": "Hu, Li, Hou, Hou, Zhang, Wang, Lei, He",
    "year": 2025,
    "arxiv": "2407.01330",
    "family": "geometry",
    "blocks": [
        "workbench.geometry.losf", "workbench.geometry.patches", "workbench.geometry.local_shapes", "workbench.geometry.udf",
        "workbench.geometry.meshing", "workbench.geometry.cutting",
    ],
    "lesson": "16_shapes_from_points",
    "claim": "A distance network trained on synthetic patches only is nearer to the true distance than the nearest point on "
    "every clean shape and than a local quadratic fit under noise with outliers; its meshes of open surfaces are at least as "
    "right as screened Poisson's, and open edges stay open.",
    "metric": "shares: of the nearest point's error, of the shapes, of the F-score at 0.01, of the open edge",
    "threshold": "error below the nearest point's on every clean shape; below the quadratic fit's under noise and outliers on "
    "at least 80 % of the shapes; F1@0.01 at least screened Poisson's on all open shapes; at least 80 % of every open edge "
    "kept open; 300 steps of training from scratch at least halve the error",
    "published": [
        {"setting": "clean and noisy (σ 0.0025) scans, 10 to 50 % outliers", "finding": "better Chamfer and F-score than the "
         "compared UDF methods, most so under noise", "source": "abstract and figures; table values not verified"},
    ],
    "cpu_minutes": 9,
}  # fmt: skip

READERS = ("LoSF", "nearest point", "quadratic fit")
WORST = "noise and outliers"


@dataclass(frozen=True)
class Plan:
    """What one scale runs: shapes, points, conditions, queries per cell, shapes that are meshed, grid, steps, peers or not."""

    shapes: tuple[str, ...]
    points: int
    conditions: tuple[str, ...]
    queries: int
    meshes: tuple[str, ...]
    resolution: int
    steps: int
    peers: bool


def plans(scale: str) -> Plan:
    """The plan of a scale: `smoke` (seconds), `small` (gives the verdict) or `full` (finer grid, more queries)."""
    shapes = ("hemisphere", "cylinder", "möbius strip", "folded cloth", "two sheets", "teapot", "bunny", "box", "cone")
    conditions = ("clean", "noise 0.005", WORST)
    known = {
        "smoke": Plan(("hemisphere", "box"), 1500, ("clean", WORST), 100, ("hemisphere",), 24, 4, False),
        "small": Plan(shapes, 10_000, conditions, 1500, shapes[:6], 64, 300, True),
        "full": Plan(shapes, 10_000, conditions, 6000, shapes[:6], 128, 1000, True),
    }
    return known[choose("scale", scale, known)]


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Measure distances and meshes for one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: of the clouds, their noise and the queries.
        device: torch device of the network; by default the CPU.
        progress: called with done, total, text.

    Returns:
        Finding; rows of the parts "udf", "mesh" and "learning" as the module says.

    Raises:
        UserError: unknown scale, or a package that the peers need is missing.
    """
    plan, device, progress = plans(scale), device or "cpu", progress or silent
    if plan.peers:
        from workbench.geometry.peers import open3d

        open3d()
    jobs = [("learning", "", "")]
    jobs += [("udf", name, condition) for name in plan.shapes for condition in plan.conditions]
    jobs += [("mesh", name, "clean") for name in plan.meshes]
    weight = {"learning": 12.0, "udf": 1.0, "mesh": 8.0}
    total, done, rows = sum(weight[part] for part, *_ in jobs), 0.0, []
    for part, name, condition in jobs:
        progress(done, total, f"seed {seed}: {part} {name} {condition}".rstrip())
        rows += cell(f"{part}, {name}, {condition}", functools.partial(_run, part, name, condition, plan, seed, device))
        done += weight[part]
    table = pd.DataFrame([{"seed": seed, **row} for row in rows])
    progress(total, total, f"seed {seed}: done")
    return Finding(table, figure(table), margin(table), {**asdict(plan), "device": device}, note(table))


def _run(part: str, name: str, condition: str, plan: Plan, seed: int, device: str) -> list[dict[str, Any]]:
    if part == "learning":
        return [dict(row) for row in learning(plan.steps)]
    return (distances if part == "udf" else reconstructions)(name, condition, plan, seed, device)


def draw(name: str, condition: str, plan: Plan, seed: int) -> tuple[Any, np.ndarray, np.random.Generator]:
    """The shape, a cloud of it, and the generator for what follows."""
    from workbench.geometry.shapes import scan, shape

    which = shape(name)
    rng = np.random.default_rng([seed, *name.encode(), *condition.encode()])
    return which, scan(which, plan.points, condition, rng), rng


def readers(device: str = "cpu") -> dict[str, Any]:
    """How each method reads a batch of patches."""
    from workbench.geometry.baselines import fit_patches, nearest_patches
    from workbench.geometry.udf import losf_reader
    from workbench.geometry.weights import load_losf

    return dict(zip(READERS, (losf_reader(load_losf().to(device)), nearest_patches, fit_patches), strict=True))


def distances(name: str, condition: str, plan: Plan, seed: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Mean absolute error of each reader at queries in the band, in thousandths of the longest side."""
    from workbench.geometry.mesh import unit
    from workbench.geometry.udf import Field

    which, cloud, rng = draw(name, condition, plan, seed)
    start = which.sample(plan.queries, rng)[0]
    queries = start + rng.uniform(0, 0.04, (len(start), 1)) * unit(rng.standard_normal(start.shape))
    true, rows, reading = which.distance(queries), [], readers(device)
    field = Field(cloud, reading["LoSF"], reach=0.03, device=device)
    for method, read in reading.items():
        field.read = read
        found = field(queries)
        known = np.isfinite(found)
        error = 1e3 * float(np.abs(found - true)[known].mean())
        rows.append({"part": "udf", "shape": name, "condition": condition, "method": method, "error": error})
        rows[-1]["known"] = float(known.mean())
    return rows


def meshes(name: str, plan: Plan, seed: int, condition: str = "clean", device: str = "cpu") -> dict[str, Any]:
    """The reconstructions of one cloud: method → mesh, in the shape's own frame."""
    from workbench.geometry.reconstructor import LoSFReconstructor

    _, cloud, _ = draw(name, condition, plan, seed)
    found = {"LoSF": LoSFReconstructor(plan.resolution, device=device).fit(cloud).mesh_}
    if plan.peers:
        from workbench.geometry.peers import ball_pivoting, cloud_with_normals, screened_poisson

        depth, prepared = int(np.log2(plan.resolution)), cloud_with_normals(cloud)
        found["screened Poisson"] = screened_poisson(prepared, depth)
        found["Poisson, trimmed"] = screened_poisson(prepared, depth, trim=0.1)
        found["ball pivoting"] = ball_pivoting(prepared)
    return found


def reconstructions(name: str, condition: str, plan: Plan, seed: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Scores of each method's mesh."""
    from workbench.geometry.metrics import compare, rim_kept
    from workbench.geometry.shapes import shape

    which = shape(name)
    points, normals = which.sample(60_000, np.random.default_rng(1))
    rows = []
    for method, mesh in meshes(name, plan, seed, condition, device).items():
        score = compare(mesh, points, normals, which.distance)
        rim = rim_kept(mesh, which.rim) if which.is_open else 1.0
        rows.append(
            {"part": "mesh", "shape": name, "condition": condition, "method": method, "f1": score["f1@0.01"],
             "f1_fine": score["f1@0.005"], "chamfer": 1e3 * score["chamfer"], "normals": score["normals"], "rim": rim}
        )  # fmt: skip
    return rows


@functools.cache
def learning(steps: int) -> tuple[dict[str, Any], ...]:
    """Error of a fresh network on 2048 unseen patches before and after a short training run, in unit balls."""
    import torch

    from workbench.geometry.local_shapes import sample_patches
    from workbench.geometry.losf import LIGHT, LoSFNet
    from workbench.geometry.train import step_generator, train_losf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = LoSFNet(**LIGHT)
    patches, label = sample_patches(2048, step_generator(10**6, 0), points=(40, 40))
    rows = []
    for step in (0, steps):
        if step:
            train_losf(net, steps, batch=64)
        with torch.inference_mode():
            error = float((net(patches)[0] - label).abs().mean())
        rows.append({"part": "learning", "shape": "patches", "method": "LoSF", "step": step, "error": error})
    return tuple(rows)


def of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, without columns that only other parts fill."""
    return rows[rows["part"] == part].dropna(axis="columns", how="all").reset_index(drop=True)


def terms(rows: pd.DataFrame) -> dict[str, float]:
    """The signed distances to each part of the threshold, for the rows of one seed."""
    error = of(rows, "udf").pivot(index=["condition", "shape"], columns="method", values="error")
    clean, worst = error.loc["clean"], error.loc[WORST]
    scores = of(rows, "mesh").pivot(index="shape", columns="method", values=["f1", "rim"])
    learned = of(rows, "learning").sort_values("step")["error"]
    found = {
        "clean": float((1 - clean["LoSF"] / clean["nearest point"]).min()),
        "noisy": float((worst["LoSF"] < worst["quadratic fit"]).mean() - 0.8),
        "rim": float(scores["rim"]["LoSF"].min() - 0.8),
        "learning": float(1 - 2 * learned.iloc[-1] / learned.iloc[0]),
    }
    if "screened Poisson" in scores["f1"]:
        found["mesh"] = float((scores["f1"]["LoSF"] - scores["f1"]["screened Poisson"]).min())
    return found


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed: the smallest of its parts."""
    return min(terms(rows).values())


def note(rows: pd.DataFrame) -> str:
    """Which part of the threshold is nearest to failing."""
    found = terms(rows)
    least = min(found, key=found.get)
    words = {
        "clean": "error against the nearest point on clean shapes", "noisy": "share of shapes better than the quadratic fit",
        "rim": "open edges kept open", "learning": "the short training run", "mesh": "F-score against screened Poisson",
    }  # fmt: skip
    return f"Nearest to its threshold: {words[least]} ({found[least]:+.3f})."


def figure(rows: pd.DataFrame) -> go.Figure:
    """Errors of the distance by shape, clean and under the worst condition.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.
    """
    errors = of(rows, "udf")
    shown = errors[errors["condition"].isin(("clean", WORST))]
    return shape_errors(shown[["shape", "condition", "method", "error", "seed"]])


def mesh_figure(rows: pd.DataFrame) -> go.Figure:
    """The second picture: F-scores of the meshes, hollow where an open edge was closed.

    Args:
        rows: as for `figure`.
    """
    return mesh_scores(of(rows, "mesh")[["shape", "condition", "method", "f1", "rim", "seed"]])
