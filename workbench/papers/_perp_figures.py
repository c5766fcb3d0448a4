"""The pictures of the page `perp`: what each arm brings back, loss against sparsity, and a mask to look at."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style
from workbench.papers._nola_figures import half_interval, interval_words

LOOKS = {  # arm: method whose look it has
    "nothing": "base", "biases": "bitfit", "norms": "ln-tuning", "biases and norms": "ia3", "LoRA-prune": "dora",
    "MaskLoRA": "lora", "full": "full", "MaskLoRA, block by block": "adalora", "SparseGPT, not retrained": "sparsegpt",
}  # fmt: skip
FILLS = ("", "-open", "-open-dot")  # of a marker at the first, second and third sparsity
MUTED = {"size": 12, "color": style.LIGHT["muted"]}


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and case: at the chosen learning rate."""
    return rows[rows["chosen"].fillna(False).astype(bool)]


def recovered(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of what full retraining brings back, per seed, sparsity and arm, after magnitude pruning.

    Args:
        rows: of one or more seeds, as the page's `experiment` makes them.

    Returns:
        Columns seed, sparsity, arm, share (trained), recovered: (loss pruned − loss) / (loss pruned − loss full), in
        log-perplexity. SparseGPT without retraining stands among the arms where it was run.
    """
    found = []
    table = best(rows)
    table = table[table["pattern"] == "unstructured"]
    for (seed, sparsity), own in table.groupby(["seed", "sparsity"], sort=True):
        magnitude = own[own["pruner"] == "magnitude"].set_index("arm")
        if not {"nothing", "full"} <= set(magnitude.index):
            continue
        pruned, room = (
            magnitude.loc["nothing", "test"],
            magnitude.loc["nothing", "test"] - magnitude.loc["full", "test"],
        )
        losses = {arm: (row["test"], row["share"]) for arm, row in magnitude.iterrows() if arm != "nothing"}
        for loss in own[(own["pruner"] == "sparsegpt") & (own["arm"] == "nothing")]["test"]:
            losses["SparseGPT, not retrained"] = (loss, 0.0)
        for arm, (loss, share) in losses.items():
            value = (pruned - loss) / room if room > 0 else math.nan
            found.append({"seed": seed, "sparsity": sparsity, "arm": arm, "share": share, "recovered": value})
    return pd.DataFrame(found, columns=["seed", "sparsity", "arm", "share", "recovered"])


def percent(share: float) -> str:
    """A share as percent with two digits that mean something."""
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def verdict(rows: pd.DataFrame) -> go.Figure:
    """Share of full retraining's gain that every arm brings back, at each sparsity that is judged.

    Args:
        rows: as `recovered` takes them.
    """
    table = recovered(rows).dropna()
    shares = table.groupby("arm")["share"].mean().sort_values(kind="stable")
    arms, means = list(shares.index), table.groupby(["arm", "sparsity"])["recovered"].mean()
    levels = sorted(table["sparsity"].unique())
    fig = go.Figure()
    for at, words in ((0.5, "half"), (0.9, "nine tenths")):
        fig.add_vline(x=at, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dot"})
        fig.add_annotation(text=words, x=at, y=len(arms) - 0.4, showarrow=False, font=MUTED)
    for index, sparsity in enumerate(levels):
        own = table[table["sparsity"] == sparsity]
        names = [arm for arm in arms if arm in set(own["arm"])]
        looks = [style.look(LOOKS[arm]) for arm in names]
        fig.add_scatter(
            x=[means[arm, sparsity] for arm in names], y=[arms.index(arm) + 0.24 - 0.24 * index for arm in names],
            mode="markers", name=f"{sparsity:.0%} zeros", showlegend=False,
            error_x={"type": "data", "array": [half_interval(own[own["arm"] == arm]["recovered"]) for arm in names],
                     "color": style.LIGHT["muted"], "thickness": 1.5, "width": 4},
            marker={"symbol": [look.marker + FILLS[index] for look in looks], "size": 11,
                    "color": [look.stroke if index else look.fill for look in looks],
                    "line": {"color": [look.stroke for look in looks], "width": 2}},
            hovertemplate="%{x:.2f} of full retraining's gain<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(
        type="linear", tickmode="array", tickvals=list(range(len(arms))), showgrid=False, range=[-0.6, max(len(arms), 1) - 0.1],
        ticktext=[f"{arm}<br>{percent(shares[arm])}" for arm in arms],
    )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Loss won back (share)")
    told = "; ".join(
        f"at {sparsity:.0%} zeros "
        + ", ".join(f"{arm} {means[arm, sparsity]:.2f}" for arm in arms if (arm, sparsity) in means)
        for sparsity in levels
    )
    filled = "".join(
        f" {kind}: {at:.0%} zeros." for kind, at in zip(("Filled", "Hollow", "Dotted"), levels, strict=False)
    )
    return style.finish(
        fig, title="After magnitude pruning: what comes back", left=168, plot=60 * max(1, len(arms)),
        alt=f"Share of full retraining's gain: {told or 'full retraining gained nothing'}.",
        caption="0 is the pruned model, 1 full retraining with the same steps. Under each name: share of the parameters "
        f"trained.{filled} {interval_words(table['seed'].nunique())}",
    )  # fmt: skip


def against_sparsity(rows: pd.DataFrame, points: pd.DataFrame | None = None) -> go.Figure:
    """Perplexity against the share of zeros: three pruners without retraining, retrained arms as points.

    Args:
        rows: of one or more seeds.
        points: rows of cases run here and now, drawn as stars.
    """
    table = best(rows)
    table = table[table["pattern"] == "unstructured"].assign(perplexity=lambda t: t["test"].map(math.exp))
    dense = table[table["pruner"] == "none"]["perplexity"].mean()
    fig, told = go.Figure(), {}
    for pruner in ("magnitude", "wanda", "sparsegpt"):
        own = table[(table["pruner"] == pruner) & (table["arm"] == "nothing")].groupby("sparsity")["perplexity"].mean()
        look = style.look(pruner)
        fig.add_scatter(
            x=100 * own.index.to_numpy(), y=own.to_numpy(), name=pruner, mode="lines+markers",
            line={"color": look.stroke, "width": 2, "dash": look.dash},
            marker={"symbol": look.marker, "size": 8, "color": look.fill},
            hovertemplate=f"{pruner}<br>%{{x:.0f}} % zeros<br>perplexity %{{y:.1f}}<extra></extra>",
        )  # fmt: skip
        told[pruner] = own.iloc[-1] if len(own) else math.nan
    arm = (
        table[(table["pruner"] == "magnitude") & (table["arm"] == "MaskLoRA")].groupby("sparsity")["perplexity"].mean()
    )
    look = style.look("lora")
    fig.add_scatter(
        x=100 * arm.index.to_numpy(), y=arm.to_numpy(), name="MaskLoRA", mode="lines+markers",
        line={"color": look.stroke, "width": 2}, marker={"symbol": look.marker, "size": 9, "color": look.fill},
        hovertemplate="MaskLoRA<br>%{x:.0f} % zeros<br>perplexity %{y:.1f}<extra></extra>",
    )  # fmt: skip
    if points is not None and len(points):
        fig.add_scatter(
            x=(100 * points["sparsity"]).tolist(), y=[math.exp(loss) for loss in points["test"]], name="yours", mode="markers",
            text=[f"{row.pruner} {row.pattern}, {row.arm}" for row in points.itertuples()],
            marker={"symbol": "star", "size": 15, "color": style.LIGHT["accent"],
                    "line": {"color": style.LIGHT["text"], "width": 1}},
            hovertemplate="%{text}<br>%{x:.0f} % zeros<br>perplexity %{y:.1f}<extra></extra>",
        )  # fmt: skip
    fig.add_hline(y=dense, line={"color": style.LIGHT["muted"], "width": 1, "dash": "dash"})
    fig.add_annotation(
        text=f"dense: {dense:.0f}", x=0, xref="paper", y=math.log10(dense), xanchor="left", yanchor="top",
        showarrow=False, font=MUTED,
    )  # fmt: skip
    fig.update_xaxes(type="linear", title_text="Zeros in every layer (percent)")
    fig.update_yaxes(type="log", title_text="Perplexity (log scale)")
    ends = ", ".join(f"{name} {value:.0f}" for name, value in told.items())
    return style.finish(
        fig, title="Perplexity against zeros", alt=f"At the highest sparsity the perplexities are: {ends}; dense {dense:.0f}.",
        top=style.TOP + 24 * 3,
        caption=f"Text not seen. MaskLoRA: after magnitude. Lines: mean over {table['seed'].nunique()} seeds. "
        "Stars: runs made here, one seed.",
    )  # fmt: skip


def masks_picture(
    sparsity: float = 0.5, loud: float = 4.0, seed: int = 0, shape: tuple[int, int] = (8, 16)
) -> go.Figure:
    """Which weights three rules keep, when every fourth input is louder than the others.

    Args:
        sparsity: share of weights to remove.
        loud: how much larger every fourth input is.
        seed: of the weights.
        shape: (out, in).
    """
    import torch

    from workbench.compress.gptq import Hessian
    from workbench.compress.pruners import prune_magnitude
    from workbench.compress.wanda import prune_wanda

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator)
    inputs = torch.randn(200, shape[1], generator=generator)
    inputs[:, ::4] *= loud
    hessian = Hessian(shape[1])
    hessian.add(inputs)
    kept = {
        "magnitude": prune_magnitude(weight, sparsity=sparsity),
        "Wanda, by row": prune_wanda(weight, hessian, sparsity=sparsity),
        "magnitude, 2:4": prune_magnitude(weight, pattern="2:4"),
    }
    fig, gap = go.Figure(), shape[0] + 2
    for index, (name, found) in enumerate(kept.items()):
        top = (len(kept) - 1 - index) * gap
        fig.add_heatmap(
            z=found.weight.numpy(), y=[top + row for row in range(shape[0])], zmin=-2.5, zmax=2.5, zmid=0, showscale=False,
            colorscale=[[0, "#2166AC"], [0.5, "#F7F7F7"], [1, "#B2182B"]], xgap=1, ygap=1, name=name,
            hovertemplate=f"{name}<br>%{{z:.2f}}<extra></extra>",
        )  # fmt: skip
    middle = [(len(kept) - 1 - index) * gap + (shape[0] - 1) / 2 for index in range(len(kept))]
    fig.update_yaxes(type="linear", tickmode="array", tickvals=middle, ticktext=list(kept), showgrid=False)
    fig.update_xaxes(type="linear", tickmode="array", tickvals=list(range(0, shape[1], 4)), showgrid=False,
                     ticktext=["loud"] * len(range(0, shape[1], 4)), title_text=f"{shape[1]} inputs")  # fmt: skip
    on_loud = {name: float(found.mask[:, ::4].float().mean()) for name, found in kept.items()}
    return style.finish(
        fig, title="The same weights, three rules", left=112, plot=92 * len(kept),
        alt="Kept on loud inputs: " + ", ".join(f"{name} {share:.0%}" for name, share in on_loud.items()) + ".",
        caption="White squares are zeros. Wanda keeps more of what multiplies a loud input; 2:4 has two zeros in every four.",
    )  # fmt: skip
