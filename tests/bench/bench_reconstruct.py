"""Reconstruction beside its peers: scores, seconds and memory on known shapes, every method in a process of its own.

    python tests/bench/bench_reconstruct.py                     10 000 points, six shapes, clean and noisy, 64 nodes
    python tests/bench/bench_reconstruct.py --resolution 128 --shapes bunny --conditions clean
    python tests/bench/bench_reconstruct.py --points 2000 100000 --shapes hemisphere --conditions clean

Peers (extra `bench`): open3d's screened Poisson and ball pivoting, normals estimated. `nearest point` and `quadratic fit` go
the same way as LoSF, with another reader of the same balls. Each line ends with its ratio to screened Poisson in seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from typing import Any

import numpy as np

METHODS = ("LoSF", "nearest point", "quadratic fit", "screened Poisson", "ball pivoting")
SHAPES = ("hemisphere", "möbius strip", "folded cloth", "two sheets", "teapot", "bunny")


def build(method: str, cloud: np.ndarray, resolution: int) -> Any:
    """One reconstruction, its packages loaded before by `warm`."""
    from workbench.geometry.peers import ball_pivoting, screened_poisson
    from workbench.geometry.reconstructor import LoSFReconstructor

    if method == "screened Poisson":
        return screened_poisson(cloud, int(np.log2(resolution)))
    if method == "ball pivoting":
        return ball_pivoting(cloud)
    if method == "LoSF":
        return LoSFReconstructor(resolution).fit(cloud).mesh_
    from workbench.geometry.baselines import fit_patches, nearest_patches
    from workbench.geometry.meshing import mesh_from_grid
    from workbench.geometry.udf import Field, band_udf, grid_of

    read = nearest_patches if method == "nearest point" else fit_patches
    step = grid_of(cloud, resolution)[1]
    field = Field(cloud, read, reach=2.2 * step)
    return mesh_from_grid(band_udf(field, resolution, step), step, field)


def measure(method: str, name: str, condition: str, points: int, resolution: int) -> dict[str, float]:
    """Scores, seconds and peak memory of one method on one cloud."""
    from workbench.geometry.metrics import compare, rim_kept
    from workbench.geometry.shapes import scan, shape

    which = shape(name)
    build(method, scan(shape("hemisphere"), 600, "clean", np.random.default_rng(0)), 24)  # packages and weights loaded
    cloud = scan(which, points, condition, np.random.default_rng(0))
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mesh = build(method, cloud, resolution)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = compare(mesh, *which.sample(60_000, np.random.default_rng(1)), which.distance)
    rim = rim_kept(mesh, which.rim) if which.is_open else float("nan")
    return {
        **found,
        "rim": rim,
        "seconds": seconds,
        "memory": max(0, after - before) / 1e3,
        "triangles": len(mesh.faces),
    }


def apart(*arguments: Any) -> dict[str, float]:
    """`measure` in a fresh process, so that peak memory is the method's own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--conditions", nargs="+", default=("clean", "noise 0.005"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--points", nargs="+", type=int, default=[10_000])
    parser.add_argument("--resolution", type=int, default=64)
    options = parser.parse_args()

    from workbench import machine

    print(f"machine  {machine.describe()['machine']}; {options.resolution} nodes along the longest side")
    print(
        f"{'shape':13} {'condition':18} {'points':>7} {'method':17} chamfer  F1@.005 F1@.01  normals  rim  seconds  MB   ratio"
    )
    for name in options.shapes:
        for condition in options.conditions:
            for points in options.points:
                base = None
                for method in sorted(options.methods, key=lambda m: m != "screened Poisson"):
                    row = apart(method, name, condition, points, options.resolution)
                    base = base or row["seconds"]
                    print(
                        f"{name:13} {condition:18} {points:7} {method:17} {1e3 * row['chamfer']:7.2f}  {row['f1@0.005']:.3f}   "
                        f"{row['f1@0.01']:.3f}  {row['normals']:.3f}  {row['rim']:4.2f} {row['seconds']:7.1f} "
                        f"{row['memory']:5.0f} {row['seconds'] / base:6.2f} x",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
