"""Live learning curves of one run with others laid over it: shared by the pages that show them."""

from __future__ import annotations

import pandas as pd

from workbench.figures import curve_rows, curves
from workbench.runs import Run

from . import drawing, live

CELL = """from workbench.figures import curve_rows, curves
from workbench.runs import Store, merge
import pandas as pd

runs = {{name: Store().get(id) for name, id in {ids!r}.items()}}
rows = [curve_rows(merge(run.metrics()), name, run.config.get("method", "lora")) for name, run in runs.items()]
curves(pd.concat(rows), log={log}, switch=False, unit={unit!r})"""


def rows_of(runs: list[Run]) -> pd.DataFrame:
    """Tidy rows of all runs, the first one last so that it is drawn on top."""
    parts = [
        curve_rows(live.metrics(run), name, live.config(run).get("method", "lora"))
        for name, run in reversed(list(live.names(runs).items()))
    ]
    return pd.concat(parts) if parts else curve_rows([], "")


def payload(runs: list[Run], log: bool = False) -> str:
    """The figure of `runs` as `drawing.component` takes it."""
    rows = rows_of(runs)
    classes = any("eval_accuracy" in row for run in runs for row in live.metrics(run))
    unit = "nats per row" if classes else "nats per token"
    fig = curves(rows, log=log, switch=False, unit=unit)
    ids = {name: run.id for name, run in reversed(list(live.names(runs).items()))}
    cell = CELL.format(ids=ids, log=log, unit=unit) if runs else ""
    return drawing.payload(fig, name="curves", cell=cell, rows=rows)
