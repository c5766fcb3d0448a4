"""The picture of the page `randlora`: error against how fast the target's spectrum falls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words, thin

STOCK = "peft's randlora"


def errors(best: pd.DataFrame, files: pd.DataFrame) -> go.Figure:
    """Relative squared error of LoRA and RandLoRA against α, with the Eckart–Young floor of LoRA's rank.

    Args:
        best: one row per seed, decay and arm (columns error, floor, rank, trainable).
        files: rows with `arm` and `stored` numbers.
    """
    fig = go.Figure()
    means = best.groupby(["arm", "decay"])["error"].mean()
    for arm, method in (("LoRA", "lora"), ("RandLoRA", "randlora")):
        own, look = best[best["arm"] == arm], style.look(method)
        decays = sorted(own["decay"].unique())
        bars = [half_interval(own[own["decay"] == decay]["error"]) for decay in decays]
        fig.add_scatter(
            x=decays, y=[float(means[arm, decay]) for decay in decays], name=f"{arm}, {thin(own['trainable'].mean())} numbers",
            mode="markers+lines", line={"color": look.stroke, "width": 1.5, "dash": look.dash},
            error_y={"type": "data", "array": bars, "color": look.stroke, "thickness": 1.5, "width": 4},
            marker={"symbol": look.marker, "size": 10, "color": look.fill, "line": {"color": look.stroke, "width": 2}},
            hovertemplate=f"{arm}, α = %{{x:g}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    floor = best[best["arm"] == "LoRA"].groupby("decay")["floor"].mean()
    fig.add_scatter(
        x=[float(decay) for decay in floor.index], y=[float(value) for value in floor], mode="lines",
        name="least possible at rank 4", line={"color": style.LIGHT["muted"], "width": 1, "dash": "dot"},
        hovertemplate="rank 4 at best, α = %{x:g}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(
        type="linear", title_text="Fall of the singular values, α in k^(−α)", tickmode="array", tickvals=[0, 0.5, 1, 2]
    )
    fig.update_yaxes(type="linear", title_text="Squared error, relative", range=[-0.03, 1.05])
    first, last = sorted(best["decay"].unique())[0], sorted(best["decay"].unique())[-1]
    told = [
        f"{arm} {means[arm, first]:.2f} on a flat spectrum and {means[arm, last]:.2f} at α = {last:g}"
        for arm in ("LoRA", "RandLoRA")
    ]
    size = files.groupby("arm")["stored"].mean()
    ranks = best.groupby("arm")["rank"].mean()
    return style.finish(
        fig, title="Which updates each adapter can draw", alt=f"Relative squared error: {'; '.join(told)}.",
        top=style.TOP + 24 * 3, left=72,
        caption=f"Layer of size 64. Measured rank of the updates: LoRA {ranks['LoRA']:.0f}, RandLoRA {ranks['RandLoRA']:.0f}. "
        f"{interval_words(best['seed'].nunique())} File of an adapter on 8 layers: {thin(size.get(STOCK, 0))} "
        f"numbers with peft's class, {thin(size.get('wb_randlora', 0))} with ours.",
    )  # fmt: skip


def drawn(decay: float, seed: int = 0, steps: int = 200, rate: float = 3e-2) -> go.Figure:
    """Singular values of a target and of what LoRA and RandLoRA make of it, learned on the spot.

    Args:
        decay: α of the target, whose singular values fall like k^(−α).
        seed: of the target and the starting values.
        steps: optimizer steps.
        rate: learning rate.
    """
    import torch

    from workbench.papers.randlora import ARMS, learned, target

    wanted = target(decay, seed)
    curves, errors = {"target": ("base", wanted)}, {}
    for arm, (method, _) in ARMS.items():
        update, _ = learned(arm, decay, rate, steps, seed)
        curves[arm], errors[arm] = (method, update), (update - wanted).square().sum().item()
    fig = go.Figure()
    for name, (method, matrix) in curves.items():
        values, look = torch.linalg.svdvals(matrix), style.look(method)
        label = name if name == "target" else f"{name}, error {errors[name]:.2f}"
        fig.add_scatter(
            x=list(range(1, len(values) + 1)), y=[float(value) for value in values], name=label, mode="lines",
            line={"color": look.stroke, "width": 2, "dash": "solid" if name == "target" else look.dash},
            hovertemplate=f"{name}, number %{{x}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Singular value, from the largest")
    fig.update_yaxes(type="linear", title_text="Size")
    told = ", ".join(f"{arm} {error:.2f}" for arm, error in errors.items())
    return style.finish(
        fig, title="What each adapter draws", alt=f"Relative squared error at α = {decay:g}: {told}.", left=72,
        top=style.TOP + 24 * 2, caption=f"LoRA rank 4 and RandLoRA r = 9, about equal counts, {steps} steps each.",
    )  # fmt: skip
