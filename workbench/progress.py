"""Progress: any callable `progress(done, total, text)`; `ProgressLine` draws one live line with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[float, float, str], None]


def silent(done: float, total: float, text: str) -> None:
    """The progress callable that shows nothing."""


def part(progress: Progress, start: float, stop: float) -> Progress:
    """Map a sub-task's own 0…total onto the share `start`…`stop` (0–1) of a larger task of total 1."""

    def inner(done: float, total: float, text: str) -> None:
        progress(start + (stop - start) * (done / total if total else 1.0), 1.0, text)

    return inner


def span(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `2 min 10 s`, `1 h 05 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class ProgressLine:
    """One line on a terminal, redrawn at most five times a second; a plain line every 10 s elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.start = time.monotonic()
        self.last = -1e9
        self.width = 0

    def __call__(self, done: float, total: float, text: str) -> None:
        now = time.monotonic()
        live = self.stream.isatty()
        finished = done >= total
        if not finished and now - self.last < (0.2 if live else 10.0):
            return
        self.last = now
        share = min(1.0, done / total) if total else 1.0
        spent = now - self.start
        left = f"about {span(spent / share - spent)} left" if 0.02 < share < 1 else f"{span(spent)} so far"
        line = f"{share:4.0%}  {text} · {left}"
        if live:
            self.stream.write("\r" + line.ljust(self.width) + ("\n" if finished else ""))
            self.width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
