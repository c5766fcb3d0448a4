"""What one experiment of a page found: the rows, the figure made of them, and the signed distance to the threshold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Finding:
    """One seed of one page's experiment.

    Args:
        rows: tidy measurements, one row per measured cell, in the units the page states.
        figure: the page's `figure(rows)`.
        margin: signed distance to the threshold in the metric's unit; positive means the claim held.
        ran: what was run (model, data, budget, trials, device …), plain values that fit into JSON.
        note: what a reader must know to judge this number; empty when there is nothing.
    """

    rows: pd.DataFrame
    figure: go.Figure
    margin: float
    ran: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def holds(self) -> bool:
        """True when the margin is positive (a margin that is not a number does not hold)."""
        return self.margin > 0
