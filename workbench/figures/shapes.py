"""Shapes in pictures: meshes and clouds in space, a slice through a distance field, and errors by shape and method.

Meshes stand side by side in one scene, so that one turn of the hand turns them all; open edges are drawn as lines, because
whether a surface ends or was closed is what one looks for. Lengths are shares of the longest side of the shape's box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, _switch, style

ROW, GAP = 26, 1.6  # pixels of one shape, and rows between two panels
METHODS = {  # method: (colour, marker)
    "LoSF": (style.LIGHT["accent"], "circle"),
    "nearest point": (style.LIGHT["muted"], "x"),
    "quadratic fit": (style.readable(style.COLORS["prompts"], style.LIGHT["ground"]), "square"),
    "screened Poisson": (style.readable(style.COLORS["sparse"], style.LIGHT["ground"]), "diamond"),
    "Poisson, trimmed": (style.readable(style.COLORS["bias"], style.LIGHT["ground"]), "triangle-down"),
    "ball pivoting": (style.readable(style.COLORS["low-rank"], style.LIGHT["ground"]), "triangle-up"),
}
OTHER = (style.LIGHT["text"], "star")
SKIN, EDGE = "#C9D8D6", style.LIGHT["bad"]
LIGHTING = {"ambient": 0.45, "diffuse": 0.75, "specular": 0.12, "roughness": 0.7, "fresnel": 0.1}


def shape_errors(rows: pd.DataFrame, *, note: str = "") -> go.Figure:
    """Draw the error of the distance for each shape, one panel per condition of the cloud.

    Args:
        rows: columns shape, condition, method, error (thousandths of the box's longest side); optional seed: one mark each.
        note: what else the caption says.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    title = "How far off the distance is"
    _frames.need(rows, ("shape", "condition", "method", "error"), "errors by shape")
    fig = _empty_panel("Mean error (10⁻³ of the longest side, log)", title, rows)
    if rows.empty:
        return fig
    fig.update_layout(xaxis_type="log")
    told = []
    top = _panels(fig, rows, "condition", "error", told, lower=True)
    span = _frames.spread(rows["error"].to_numpy(float), log=True)
    ticks, texts = _switch.log_ticks(10 ** span[0], 10 ** span[1])
    fig.update_xaxes(range=span, tickmode="array", tickvals=ticks, ticktext=texts)
    return style.finish(
        fig, title=title, alt=f"Shapes on which each method has the smallest error: {'; '.join(told)}.", left=104,
        caption=f"Left is better. {_marks(rows)} {note}".strip(), top=style.TOP + 48, plot=round(ROW * top),
    )  # fmt: skip


def mesh_scores(rows: pd.DataFrame, *, note: str = "") -> go.Figure:
    """Draw how much of each mesh is right, and whether its open edges stayed open.

    Args:
        rows: columns shape, condition, method, f1 (F-score at 0.01, share), rim (share of the open edge that stayed open;
            1 for closed shapes); optional seed: one mark each. Hollow marks: less than 80 % of the edge stayed open.
        note: what else the caption says.

    Returns:
        The light figure; an empty plot that says what will appear when there are no rows.

    Raises:
        UserError: a column is missing.
    """
    title = "How much of the mesh is right"
    _frames.need(rows, ("shape", "condition", "method", "f1", "rim"), "scores of meshes")
    fig = _empty_panel("F-score at 0.01 (share)", title, rows)
    if rows.empty:
        return fig
    told: list[str] = []
    top = _panels(fig, rows, "condition", "f1", told, lower=False)
    low = float(rows["f1"].min())
    fig.update_xaxes(range=[max(0.0, low - 0.04 * (1 - low) - 0.02), 1.01])
    return style.finish(
        fig, title=title, alt=f"Shapes on which each method has the largest score: {'; '.join(told)}.", left=104,
        caption="Harmonic mean of the shares of mesh and surface that lie within 1 % of each other. Right is better. "
        f"Hollow: an open edge was closed. {_marks(rows)} {note}".strip(), top=style.TOP + 48,
        plot=round(ROW * top),
    )  # fmt: skip


def _empty_panel(axis: str, title: str, rows: pd.DataFrame) -> go.Figure:
    fig = go.Figure()
    fig.update_xaxes(title_text=axis, type="linear")
    fig.update_yaxes(type="linear")
    if rows.empty:
        fig.update_yaxes(title_text="Shape (name)")
        style.empty(fig, "One line per shape appears here. Run workbench reproduce losf-udf to fill it.")
        style.finish(fig, title=title, alt="An empty plot: no shape has been measured yet.")
    return fig


def _marks(rows: pd.DataFrame) -> str:
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    return f"One mark per seed, {seeds} seeds." if seeds > 1 else "One seed, no interval."


def _panels(fig: go.Figure, rows: pd.DataFrame, by: str, value: str, told: list[str], lower: bool) -> float:
    """Panels one under the other with a row per shape; gives their height in rows and says who is best how often."""
    panels, shapes = list(dict.fromkeys(rows[by])), list(dict.fromkeys(rows["shape"]))
    ticks, texts, legend = [], [], set()
    for p, panel in enumerate(panels):
        base = (len(panels) - 1 - p) * (len(shapes) + GAP)
        part = rows[rows[by] == panel]
        level = {name: base + len(shapes) - 1 - i for i, name in enumerate(shapes)}
        ticks += list(level.values())
        texts += shapes
        for method, own in part.groupby("method", sort=False):
            color, marker = METHODS.get(method, OTHER)
            hollow = own["rim"].to_numpy(float) < 0.8 if "rim" in own else np.zeros(len(own), bool)
            fill = [style.LIGHT["ground"] if empty else color for empty in hollow]
            fig.add_scatter(
                x=_frames.plain(own[value]), y=[level[name] for name in own["shape"]], mode="markers", name=method,
                legendgroup=method, showlegend=method not in legend,
                marker={"symbol": marker, "size": 10, "color": fill, "line": {"color": color, "width": 2}},
                hovertext=[_frames.hover(row, own.columns) for row in own.itertuples()],
                hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
            legend.add(method)
        best = part.groupby(["shape", "method"], sort=False)[value].mean().unstack()
        first = (best.idxmin(axis=1) if lower else best.idxmax(axis=1)).value_counts()
        told.append(f"{panel}: " + ", ".join(f"{name} {count} of {len(best)}" for name, count in first.items()))
        fig.add_annotation(
            name="panel", text=panel.capitalize(), xref="paper", x=0, xanchor="left", y=base + len(shapes) - 0.5,
            yanchor="bottom", showarrow=False, font={"size": 13, "color": style.LIGHT["text"]},
        )  # fmt: skip
    top = len(panels) * (len(shapes) + GAP) - GAP
    fig.update_yaxes(range=[-0.7, top + 0.4], tickmode="array", tickvals=ticks, ticktext=texts, showgrid=True)
    fig.update_layout(hovermode="closest", showlegend=True)
    return top + 1.1


def surfaces(meshes: Mapping[str, Any], *, title: str = "The same points, by method", columns: int = 2) -> go.Figure:
    """Draw meshes and clouds beside each other; open edges are red lines.

    Args:
        meshes: name → a mesh (with vertices, faces, boundary()) or an array of points (n, 3).
        title: what is shown.
        columns: how many stand in a row.
    """
    fig = go.Figure()
    across, down = 1.35, 1.5
    places, told = [], []
    for at, (name, thing) in enumerate(meshes.items()):
        shift = np.array([across * (at % columns), 0.0, -down * (at // columns)])
        points = thing if isinstance(thing, np.ndarray) else thing.vertices
        points = points + shift
        if isinstance(thing, np.ndarray):
            points = points[:: -(-len(points) // 2000)]
            marker = {"size": 1.2, "color": style.LIGHT["muted"], "opacity": 0.6}
            fig.add_scatter3d(
                **_xyz(points), mode="markers", marker=marker, name=name, hoverinfo="name", showlegend=False
            )
            told.append(f"{name}: {len(thing)} points")
        else:
            corners = {axis: column.tolist() for axis, column in zip("ijk", thing.faces.T, strict=True)}
            fig.add_mesh3d(
                **_xyz(points), **corners, color=SKIN, flatshading=False, lighting=LIGHTING, name=name, hoverinfo="name",
                lightposition={"x": 2000, "y": -4000, "z": 6000}, showscale=False,
            )  # fmt: skip
            edges = thing.boundary()
            told.append(f"{name}: {len(thing.faces)} triangles, {len(edges)} open edges")
            if len(edges):
                line = np.full((len(edges), 3, 3), np.nan)
                line[:, :2] = points[edges]
                fig.add_scatter3d(
                    **_xyz(line.reshape(-1, 3)), mode="lines", line={"color": EDGE, "width": 4}, name=f"{name}, open edge",
                    hoverinfo="name", showlegend=False,
                )  # fmt: skip
        places.append((*np.add(shift, [0, 0, 0.62]), name))
    x, y, z, text = (list(column) for column in zip(*places, strict=True))
    fig.add_scatter3d(
        x=_frames.plain(x), y=_frames.plain(y), z=_frames.plain(z), text=text, mode="text", hoverinfo="skip",
        textfont={"size": 13, "color": style.LIGHT["text"]}, showlegend=False,
    )  # fmt: skip
    hidden = {"visible": False, "showbackground": False}
    fig.update_layout(
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "data",
            "camera": _camera(len(meshes), columns),
        }
    )
    rows = -(-len(meshes) // columns)
    return style.finish(
        fig, title=title, alt="; ".join(told) + ".", left=8, right=8, bottom=8, plot=210 * rows,
        caption="Drag to turn. Red: where the surface is open.",
    )  # fmt: skip


def _camera(count: int, columns: int) -> dict[str, Any]:
    wide = min(count, columns)
    rows = -(-count // columns)
    far = max(0.37 * rows, 0.38 * wide) + 0.06  # so that all fit on a phone, 390 pixels wide
    return {
        "eye": {"x": 0.25 * far, "y": -2.6 * far, "z": 0.9 * far},
        "center": {"x": 0, "y": 0, "z": -0.03},
        "up": {"x": 0, "y": 0, "z": 1},
    }


def _xyz(points: np.ndarray) -> dict[str, list]:
    return {axis: _frames.plain(column) for axis, column in zip("xyz", points.T, strict=True)}


def udf_slice(
    values: np.ndarray, along: np.ndarray, up: np.ndarray, points: np.ndarray | None = None, *, title: str = ""
) -> go.Figure:
    """Draw a plane through a distance field.

    Args:
        values: (len(up), len(along)) distances, not finite where unknown.
        along: positions of the columns.
        up: positions of the rows.
        points: (n, 2), points of the cloud near the plane.
        title: what is shown.
    """
    shown = np.where(np.isfinite(values), values, np.nan)
    fig = go.Figure()
    fig.add_heatmap(
        x=_frames.plain(along), y=_frames.plain(up), z=[_frames.plain(row) for row in shown], colorscale=VIRIDIS, zmin=0,
        colorbar={"title": {"text": "distance"}, "thickness": 12, "len": 0.9}, hovertemplate="distance %{z:.4f}<extra></extra>",
    )  # fmt: skip
    if points is not None and len(points):
        points = points[:: -(-len(points) // 600)]
        fig.add_scatter(
            x=_frames.plain(points[:, 0]), y=_frames.plain(points[:, 1]), mode="markers", name="points", hoverinfo="skip",
            marker={"size": 4, "color": "#FFFFFF", "line": {"color": style.LIGHT["text"], "width": 1}}, showlegend=False,
        )  # fmt: skip
    fig.update_xaxes(title_text="x (sides of the box)", type="linear", range=[float(along[0]), float(along[-1])])
    fig.update_yaxes(title_text="z (sides of the box)", type="linear", range=[float(up[0]), float(up[-1])])
    fig.update_yaxes(scaleanchor="x", scaleratio=1, constrain="domain")
    fig.update_xaxes(constrain="domain")
    known = float(np.isfinite(shown).mean())
    return style.finish(
        fig, title=title or "A slice through the distances", right=96,
        alt=f"Distances on a plane: {known:.0%} of it is known, up to {np.nanmax(shown):.3f}." if known else "Nothing known.",
        caption="Dark: on the surface. Blank: fewer than six points near. White dots: points next to the plane.",
    )  # fmt: skip


VIRIDIS = [
    [0.0, "#440154"], [0.125, "#48287A"], [0.25, "#3E4A89"], [0.375, "#31688E"], [0.5, "#26838E"], [0.625, "#1F9D8A"],
    [0.75, "#6CCD5A"], [0.875, "#B6DE2B"], [1.0, "#FEE825"],
]  # fmt: skip


def _example() -> pd.DataFrame:
    """Errors of one seed on three shapes, in thousandths of the longest side."""
    errors = {
        ("hemisphere", "clean"): (0.61, 3.1, 0.09), ("hemisphere", "noise and outliers"): (1.9, 5.2, 3.3),
        ("box", "clean"): (0.93, 3.0, 1.2), ("box", "noise and outliers"): (2.1, 5.4, 3.9),
    }  # fmt: skip
    methods = ("LoSF", "nearest point", "quadratic fit")
    found = [
        {"shape": shape, "condition": condition, "method": method, "error": error}
        for (shape, condition), row in errors.items()
        for method, error in zip(methods, row, strict=True)
    ]
    return pd.DataFrame(found)


def _example_scores() -> pd.DataFrame:
    scores = {"hemisphere": ((0.999, 1.0), (0.71, 0.0)), "two sheets": ((0.998, 0.99), (0.64, 0.0))}
    found = [
        {"shape": shape, "condition": "clean", "method": method, "f1": f1, "rim": rim}
        for shape, pairs in scores.items()
        for method, (f1, rim) in zip(("LoSF", "screened Poisson"), pairs, strict=True)
    ]
    return pd.DataFrame(found)


EXAMPLE = {"shape_errors": lambda: {"rows": _example()}, "mesh_scores": lambda: {"rows": _example_scores()}}
