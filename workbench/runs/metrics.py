"""Metrics of a run: one JSON object per line, only ever appended.

Each row carries `time` (Unix seconds) and `attempt` (1, then one more for every resume). A worker that is killed may
leave a torn last line and rows beyond its last checkpoint. Both are handled on reading: a torn line is skipped, and an
attempt that logs step s speaks for everything from s on, so earlier attempts' rows at later steps are dropped.
Rows are compared inside one stream: equal text values and equal `seed`. A row without `step` replaces only an earlier
attempt's row with the same keys, text and whole numbers (the same layer, the same model measured again).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.runs.files import plain

Row = dict[str, Any]


class Rows(list[Row]):
    """Rows read from a metrics file; `offset` (bytes) is where to go on: `run.metrics(since=rows.offset)`."""

    offset: int = 0


def read(path: Path, since: int = 0) -> Rows:
    """Whole rows after byte `since`; costs one `stat` when there are none."""
    rows = Rows()
    rows.offset = since
    try:
        if os.stat(path).st_size <= since:
            return rows
        with open(path, "rb") as file:
            file.seek(since)
            chunk = file.read()
    except OSError:
        return rows
    whole = chunk[: chunk.rfind(b"\n") + 1]
    rows.offset = since + len(whole)
    found = []
    for line in whole.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # torn by a killed worker; the next attempt began a new line
        if isinstance(row, dict):
            found.append(row)
    rows.extend(merge(found))
    return rows


def _step(row: Row) -> float | None:
    step = row.get("step")
    return step if isinstance(step, (int, float)) and not isinstance(step, bool) else None


def _stream(row: Row) -> tuple:
    seed = row.get("seed")
    texts = sorted(item for item in row.items() if isinstance(item[1], str))
    return (seed if isinstance(seed, (int, float)) else None, *texts)


def _same_thing(row: Row) -> tuple:
    """What a row is about: its step and stream, or, without a step, everything in it that is text or a whole number."""
    if _step(row) is not None:
        return (_step(row), _stream(row), *sorted(row))
    whole = (item for item in row.items() if isinstance(item[1], (int, str)) and item[0] != "attempt")
    return (None, tuple(sorted(whole)), *sorted(row))


def _attempt(row: Row) -> float:
    value = row.get("attempt", 1)
    return value if isinstance(value, (int, float)) else 1


def merge(rows: Iterable[Row]) -> list[Row]:
    """Rows in file order without those that a later attempt has superseded.

    A reader that polls keeps its rows right across a resume with `rows = merge([*rows, *run.metrics(since=offset)])`.
    """
    rows = list(rows)
    if len({_attempt(row) for row in rows}) < 2:
        return rows
    first: dict[tuple, dict[float, float]] = {}  # stream → attempt → first step it logged
    last: dict[tuple, float] = {}  # what a row is about → last attempt that logged it
    for row in rows:
        attempt, step = _attempt(row), _step(row)
        last[_same_thing(row)] = attempt
        if step is not None:
            steps = first.setdefault(_stream(row), {})
            steps[attempt] = min(step, steps.get(attempt, step))
    kept = []
    for row in rows:
        attempt, step = _attempt(row), _step(row)
        superseded = last[_same_thing(row)] > attempt
        if step is not None and not superseded:
            superseded = any(other > attempt and step > start for other, start in first[_stream(row)].items())
        if not superseded:
            kept.append(row)
    return kept


class Writer:
    """Appends rows; each is one write, so that readers and a second process never see half of another row."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self.handle: int | None = None

    def append(self, values: Row) -> None:
        """Append one row of plain values.

        Raises:
            ValueError: when the row names `attempt`, which the store counts.
            OSError: when the disk is full.
        """
        if "attempt" in values:
            raise ValueError("a metrics row may not be called 'attempt'; the store counts attempts itself")
        if self.handle is None:
            self.handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            size = os.fstat(self.handle).st_size
            if size and os.pread(self.handle, 1, size - 1) != b"\n":
                os.write(self.handle, b"\n")  # close the torn line of a killed attempt
        row = plain({"time": round(time.time(), 3), **values, "attempt": self.attempt})
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        while line:
            line = line[os.write(self.handle, line) :]

    def close(self) -> None:
        """Close the file."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
