"""Live learning curves of one run with others laid over it: shared by the pages that show them.

A figure is made once for all who look. One that took t seconds to make is not made again for `PAUSE`·t: that bounds what
looking at a long run takes from the run itself, on the same cores, whatever the number of viewers.
"""

from __future__ import annotations

import dataclasses
import threading
import time

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


PAUSE = 20  # times its own cost
KEPT = 16  # figures


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure as it was made.

    Attributes:
        rows: of each run, when it was made. text: what the component takes. due: from when on it may be made anew.
    """

    rows: tuple[int, ...]
    text: str
    due: float


_lock = threading.Lock()
_drawn: dict[tuple, Drawn] = {}


def rows_of(runs: list[Run]) -> pd.DataFrame:
    """Tidy rows of all runs, the first one last so that it is drawn on top."""
    parts = [
        curve_rows(live.metrics(run), name, live.config(run).get("method", "lora"))
        for name, run in reversed(list(live.names(runs).items()))
    ]
    return pd.concat(parts) if parts else curve_rows([], "")


def stamp(runs: list[Run], log: bool = False) -> str:
    """Changes when there is another figure to show: new rows, and the last one not made too short a while ago."""
    last = _drawn.get(_key(runs, log))
    rows = _rows(runs)
    return repr((_key(runs, log), last.rows if last and time.monotonic() < last.due else rows))


def payload(runs: list[Run], log: bool = False) -> str:
    """The figure of `runs` as `drawing.component` takes it; the last one while that still holds or is too young."""
    with _lock:
        key, rows = _key(runs, log), _rows(runs)
        last = _drawn.get(key)
        if last and (last.rows == rows or time.monotonic() < last.due):
            return last.text
        begun = time.monotonic()
        text = draw(runs, log)
        ended = time.monotonic()
        _drawn.pop(key, None)
        _drawn[key] = Drawn(rows, text, ended + PAUSE * (ended - begun))
        while len(_drawn) > KEPT:
            _drawn.pop(next(iter(_drawn)))
        return text


def _key(runs: list[Run], log: bool) -> tuple:
    return (*((name, run.id) for name, run in live.names(runs).items()), log)


def _rows(runs: list[Run]) -> tuple[int, ...]:
    return tuple(len(live.metrics(run)) for run in runs)


def draw(runs: list[Run], log: bool = False) -> str:
    """Make the figure."""
    rows = rows_of(runs)
    classes = any("eval_accuracy" in row for run in runs for row in live.metrics(run))
    unit = "nats per row" if classes else "nats per token"
    fig = curves(rows, log=log, switch=False, unit=unit)
    ids = {name: run.id for name, run in reversed(list(live.names(runs).items()))}
    cell = CELL.format(ids=ids, log=log, unit=unit) if runs else ""
    return drawing.payload(fig, name="curves", cell=cell, rows=rows)
