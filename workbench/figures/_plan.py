"""What the figures of a plan share: its mark, powers of ten in labels, a small published example."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import _frames, style


def power_of_ten(value: float) -> str:
    """`3.2·10²¹` as plotly writes it; `10²¹` where the mantissa is 1."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = f"{value / 10.0**exponent:.2g}"
    return f"10<sup>{exponent}</sup>" if mantissa == "1" else f"{mantissa}·10<sup>{exponent}</sup>"


def star(fig: go.Figure, row: pd.Series, x: str, y: str, *, along: str, color: str | None = None) -> None:
    """The plan's mark, with its interval along one axis."""
    color = color or style.LIGHT["accent"]
    column = x if along == "x" else y
    bars = {}
    if f"{column}_low" in row and np.isfinite(row[f"{column}_low"]):
        bars[f"error_{along}"] = {
            "type": "data", "symmetric": False, "array": [float(row[f"{column}_high"] - row[column])],
            "arrayminus": [float(row[column] - row[f"{column}_low"])], "color": color, "thickness": 2,
        }  # fmt: skip
    fig.add_scatter(
        x=_frames.plain([row[x]]), y=_frames.plain([row[y]]), mode="markers", name="plan", showlegend=False,
        marker={"size": 15, "symbol": "star", "color": color, "line": {"width": 1, "color": style.LIGHT["ground"]}},
        hovertemplate=f"plan<br>{x} %{{x:.3g}}<br>{y} %{{y:.4g}}<extra></extra>", **bars,
    )  # fmt: skip


def example_plan() -> pd.DataFrame:
    n = 0.6 * (1e22 / 6) ** 0.46
    loss = 1.82 + 482 / n**0.348 + 2085 / (1e22 / 6 / n) ** 0.366
    return pd.DataFrame({"C": [1e22], "N": n, "N_low": n / 1.3, "N_high": n * 1.3, "D": 1e22 / 6 / n, "loss": loss})
