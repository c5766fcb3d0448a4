"""Tables of results for the terminal and the report, from the same tidy rows as the figures.

`columns` turns rows into finished cells: `perplexity`, `perplexity_low`, `perplexity_high` become one cell `24.1 ± 1.3`, bytes
become MB, seconds become `2 min 10 s`. Columns that steer (`tied`, `<metric>_tied`, `<metric>_n`, `within_budget`, `method`)
are not shown, nor is an `n` that is the same everywhere (`note` says it); a tied cell carries the sign ≈ (and a shade in
the report). A table wider than the terminal continues in a second block that repeats the names: no column is dropped.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd

from workbench.figures import formats

TIED = "≈"
_STEERING = ("_low", "_high", "_tied", "_n")


class Column(NamedTuple):
    """A finished column: heading, unit (may be empty), cells, which of them are tied with the best, right-aligned or not."""

    key: str
    title: str
    unit: str
    cells: list[str]
    tied: list[bool]
    numeric: bool


def _mb(value: float) -> str:
    return formats.number(value / 1e6)


# column → heading, unit, how to write one value
KNOWN: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "name": ("", "", str),
    "perplexity": ("Perplexity", "held-out", formats.number),
    "accuracy": ("Accuracy", "share right", formats.number),
    "loss": ("Loss", "nats/token", formats.number),
    "disk_bytes": ("Disk", "MB", _mb),
    "ram_bytes": ("Memory", "MB", _mb),
    "peak_bytes": ("Peak", "MB", _mb),
    "prefill_tps": ("Reading", "tokens/s", formats.number),
    "decode_tps": ("Writing", "tokens/s", formats.number),
    "seconds": ("Time", "", formats.seconds),
    "trainable": ("Trainable", "numbers", formats.parameters),
    "bits_per_weight": ("Bits", "per weight", formats.number),
    "error": ("Error", "relative", formats.number),
    "n": ("n", "items", formats.count),
}


def frame(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a frame, whether they came as one or as mappings."""
    return rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))


def columns(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> list[Column]:
    """Finished columns in the order of the rows' own columns.

    Args:
        rows: one row per variant; `name` first by habit. See the module's text for the columns that are known.
    """
    data = frame(rows)
    found = []
    for key in map(str, data.columns):
        if key in ("tied", "within_budget", "method", "group") or (
            key.endswith(_STEERING) and key.rpartition("_")[0] in data
        ):
            continue
        if key == "n" and data["n"].nunique() == 1:
            continue
        values = data[key].tolist()
        numeric = pd.api.types.is_numeric_dtype(data[key]) and not pd.api.types.is_bool_dtype(data[key])
        title, unit, write = KNOWN.get(
            key, (key.replace("_", " ").capitalize(), "", formats.number if numeric else str)
        )
        if {f"{key}_low", f"{key}_high"} <= set(data.columns):
            cells = [
                formats.interval(*map(_number, v))
                for v in zip(values, data[f"{key}_low"], data[f"{key}_high"], strict=True)
            ]
            unit = f"{unit}, 95 %" if unit else "95 %"
        else:
            cells = [write(v) if _present(v) else formats.ABSENT for v in values]
        flag = data.get(f"{key}_tied")
        tied = [_present(v) and bool(v) for v in flag] if flag is not None else [False] * len(values)
        found.append(Column(key, title, unit, cells, tied, numeric))
    return found


def note(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> str:
    """What the sign ≈ means where it is used, and the n that all rows share; empty where there is nothing to say."""
    data = frame(rows)
    parts = []
    if any(str(c).endswith("_tied") and data[c].fillna(False).astype(bool).any() for c in data.columns):
        parts.append(f"{TIED} the best, and what a paired test cannot tell from it.")
    if "n" in data and data["n"].nunique() == 1:
        parts.append(f"n = {formats.count(data['n'].iloc[0])} items.")
    return " ".join(parts)


def _present(value: Any) -> bool:
    return value is not None and not (isinstance(value, float | np.floating) and not np.isfinite(value))


def _number(value: Any) -> float | None:
    return float(value) if _present(value) else None


def render(rows: pd.DataFrame | Iterable[Mapping[str, Any]], width: int = 100) -> str:
    """The table as text for a terminal of `width` columns; ends without a newline."""
    made = columns(rows)
    if not made or not made[0].cells:
        return "Nothing to show yet: the table has no rows."
    blocks: list[list[tuple[Column, list[str]]]] = [[]]
    drawn = [(c, _lines(c)) for c in made]
    used = 0
    for column, lines in drawn:
        wide = len(lines[0]) + 2
        if blocks[-1] and used + wide - 2 > width:
            blocks.append([drawn[0]])
            used = len(drawn[0][1][0]) + 2
        blocks[-1].append((column, lines))
        used += wide
    return "\n\n".join([*(_block(block) for block in blocks), *filter(None, [note(rows)])])


def _lines(column: Column) -> list[str]:
    """Heading, unit and cells of one column, all of one width."""
    marks = [f" {TIED}" if t else "  " for t in column.tied] if any(column.tied) else [""] * len(column.cells)
    pad = "  " if any(column.tied) else ""
    text = [column.title + pad, column.unit + pad, *(c + m for c, m in zip(column.cells, marks, strict=True))]
    wide = max(map(len, text))
    return [t.rjust(wide) if column.numeric else t.ljust(wide) for t in text]


def _block(block: list[tuple[Column, list[str]]]) -> str:
    table = ["  ".join(parts).rstrip() for parts in zip(*(lines for _, lines in block), strict=True)]
    rule = "─" * max(map(len, table))
    return "\n".join([*table[:2], rule, *table[2:]])


def print_table(
    rows: pd.DataFrame | Iterable[Mapping[str, Any]], *, width: int | None = None, stream: TextIO | None = None
) -> None:
    """Print the table.

    Args:
        rows: see `columns`.
        width: terminal columns; asked from the terminal where absent, between 60 and 160.
        stream: where to write; standard output where absent.
    """
    wide = width or min(160, max(60, shutil.get_terminal_size((100, 24)).columns))
    print(render(rows, wide), file=stream or sys.stdout)
