"""What lesson 16 draws beside the page `losf-udf`: patches, slices, one reconstruction per knob, and the released variants."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.figures.shapes import surfaces, udf_slice

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.geometry.mesh import Mesh


def sizes(scale: str) -> dict[str, int]:
    """Points of a cloud and nodes of a grid that a lesson uses at a scale."""
    return {"points": 1200, "nodes": 24, "side": 24} if scale == "smoke" else {"points": 6000, "nodes": 48, "side": 64}


def patch_clouds(seed: int = 0, n: int = 700) -> dict[str, np.ndarray]:
    """One training patch of each kind as points, seen from above: kind → (n, 3)."""
    import torch

    from workbench.geometry.local_shapes import KINDS, raw_patches

    found = {}
    for kind in KINDS:
        points = raw_patches(kind, 1, n, torch.Generator().manual_seed(seed))[0][0].numpy().astype(float)
        points -= points.mean(0)
        found[kind] = points / (2 * np.abs(points).max())
    return found


def patches_figure(seed: int = 0) -> go.Figure:
    """The kinds of training patches beside each other."""
    return surfaces(patch_clouds(seed), title="All that the network is trained on", columns=3)


@functools.lru_cache(maxsize=16)
def cloud(name: str, condition: str, points: int, seed: int) -> np.ndarray:
    """A cloud of a known shape."""
    from workbench.geometry.shapes import scan, shape

    return scan(shape(name), points, condition, np.random.default_rng(seed))


@functools.lru_cache(maxsize=16)
def reconstruction(name: str, condition: str, points: int, nodes: int, wide: float, seed: int) -> Mesh:
    """The mesh of a cloud; `wide` multiplies the radius that its density asks for."""
    from scipy.spatial import cKDTree

    from workbench.geometry.neighbours import local_radius
    from workbench.geometry.reconstructor import LoSFReconstructor

    given = cloud(name, condition, points, seed)
    radius = None if wide == 1 else wide * float(np.median(local_radius(cKDTree(given))))
    return LoSFReconstructor(nodes, radius=radius).fit(given).mesh_


def reconstruction_figure(
    name: str, condition: str, wide: float = 1.0, *, points: int = 6000, nodes: int = 48, seed: int = 0
) -> go.Figure:
    """Cloud and mesh beside each other."""
    mesh = reconstruction(name, condition, points, nodes, wide, seed)
    return surfaces({f"{points} points, {condition}": cloud(name, condition, points, seed), "LoSF": mesh}, title=name)


def slice_figure(
    name: str, condition: str, method: str = "LoSF", *, points: int = 6000, side: int = 64, seed: int = 0
) -> go.Figure:
    """The plane y = 0 through one method's distances."""
    from workbench.geometry.udf import Field
    from workbench.papers.losf_udf import readers

    given = cloud(name, condition, points, seed)
    line = np.linspace(-0.55, 0.55, side)
    x, z = np.meshgrid(line, line)
    nodes = np.stack([x.ravel(), np.zeros(x.size), z.ravel()], 1)
    values = Field(given, readers()[method], reach=0.05)(nodes).reshape(x.shape)
    near = given[np.abs(given[:, 1]) < 0.012]
    return udf_slice(
        values, line, line, near[:, [0, 2]], title=f"{method}: distances on a slice of the {name}, {condition}"
    )


def variants(steps: int = 300, batch: int = 64, seed: int = 0) -> pd.DataFrame:
    """What the two released shortcuts do: the same query alone and among others, and the displacements' effect.

    Returns:
        One row per variant: `alone` and `among others` (the same patch's distance), `change` between them.
    """
    import torch

    from workbench.geometry.local_shapes import sample_patches
    from workbench.geometry.losf import LIGHT, LoSFNet
    from workbench.geometry.patches import Patches
    from workbench.geometry.train import step_generator, train_losf

    patches, label = sample_patches(64, step_generator(seed + 77, 0), points=(40, 40))
    first = Patches(patches.points[:1], patches.query[:1], patches.count[:1], patches.scale[:1])
    rows = []
    for attention in ("points", "batch"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = LoSFNet(**LIGHT, attention=attention)
        train_losf(net, steps, batch=batch, seed=seed)
        with torch.inference_mode():
            alone, among = net(first)[0].item(), net(patches)[0][0].item()
        rows.append(
            {
                "attention": attention,
                "true": label[0].item(),
                "alone": alone,
                "among 63 others": among,
                "change": among - alone,
            }
        )
    return pd.DataFrame(rows).set_index("attention")


def held_out_table() -> pd.DataFrame:
    """The shipped network's error on patches it was not trained on, by kind, beside the two baselines (shares of the ball)."""
    import json

    from workbench.paths import assets

    told: dict[str, Any] = json.loads(
        (assets() / "models" / "losf-light" / "training.json").read_text(encoding="utf-8")
    )
    return pd.DataFrame(told["held_out"]).T


def curve_rows() -> pd.DataFrame:
    """The shipped network's training curve as rows for `workbench.figures.curves`."""
    import json

    from workbench.paths import assets

    told = json.loads((assets() / "models" / "losf-light" / "training.json").read_text(encoding="utf-8"))
    return pd.DataFrame(
        [{"run": "losf-light", "split": "train", "step": step, "value": error} for step, error in told["curve"]]
    )
