"""Pure figure functions: tidy rows in, a plotly figure out, one style (see `style`).

To add one: a module with a function `name(rows, …) -> go.Figure` that ends with `style.finish`, and `EXAMPLE`, a mapping from
that name to a function that returns its arguments with small real rows. The contract test finds it there.
"""

from __future__ import annotations

from workbench.figures import formats, style
from workbench.figures.changes import changes, spectra
from workbench.figures.curves import curve_rows, curves
from workbench.figures.intervals import intervals
from workbench.figures.layers import layers
from workbench.figures.pareto import pareto
from workbench.figures.table import print_table
from workbench.figures.weights import weight_rows, weights

__all__ = [
    "changes",
    "curve_rows",
    "curves",
    "formats",
    "intervals",
    "layers",
    "pareto",
    "print_table",
    "spectra",
    "style",
    "weight_rows",
    "weights",
]
