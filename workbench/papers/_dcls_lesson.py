"""What lesson 15 shows beside the page `dcls`: one point under the four versions, and the time of a step measured here."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import pandas as pd

from workbench.papers import _dcls_figures

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import nn


def one_point(version: str, x: float, y: float, sigma: float = 0.5, size: int = 9) -> go.Figure:
    """The dense kernel that a single weight of 1 makes.

    Args:
        version: `v0`, `v1`, `max` or `gauss`.
        x, y: its place, in pixels from the centre.
        sigma: its width in pixels, for `max` (from 1) and `gauss` (from 0.27).
        size: side of the kernel.
    """
    import torch

    from workbench.layers.dcls import construct_kernel
    from workbench.layers.dcls_kernel import SMALLEST_SIGMA

    P = torch.tensor([x, y]).view(2, 1, 1, 1)
    least = SMALLEST_SIGMA.get(version)
    SIG = None if least is None else torch.full((2, 1, 1, 1), max(0.0, sigma - least))
    kernel = construct_kernel(torch.ones(1, 1, 1), P, SIG, (size, size), version)[0, 0]
    return _dcls_figures.point(kernel.numpy(), x, y, version)


def step_times(
    channels: int = 32, side: int = 32, batch: int = 8, size: int = 17, count: int = 34, repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Measure a forward and backward pass of five depthwise layers, taken in turn.

    Args:
        channels, side, batch: of the pictures.
        size, count: of the DCLS kernel.
        repeats: passes per layer; medians are told.
        seed: of pictures and layers.

    Returns:
        Rows name, ms for `_dcls_figures.step_bars`.
    """
    import torch
    from torch import nn

    from workbench.layers.dcls import Dcls2d

    def dcls(method: str) -> nn.Module:
        given = {"padding": size // 2, "groups": channels, "version": "v1", "method": method}
        return Dcls2d(channels, channels, count, size, **given)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = torch.randn(batch, channels, side, side, requires_grad=True)
        layers: dict[str, nn.Module] = {
            "7 × 7": nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            f"{size} × {size}": nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels),
            "fixed dilation": nn.Conv2d(channels, channels, 5, padding=6, dilation=3, groups=channels),
            "DCLS, direct": dcls("direct"),
            "DCLS": dcls("auto"),
        }
    times: dict[str, list[float]] = {name: [] for name in layers}
    for run in range(repeats + 1):
        for name, layer in layers.items():
            begin = time.perf_counter()
            layer(x).sum().backward()
            if run:  # the first round warms up
                times[name].append(1e3 * (time.perf_counter() - begin))
    return pd.DataFrame([{"name": name, "ms": statistics.median(taken)} for name, taken in times.items()])
