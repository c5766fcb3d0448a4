"""Peak memory of this process while something runs.

On a GPU: torch's own peak of allocated bytes. On a CPU: the peak of the resident set, libraries and model included. Linux
keeps that mark itself (VmHWM) and lets a process lower it to the present value by writing 5 to /proc/self/clear_refs;
elsewhere a thread looks every 20 ms.
"""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import torch


class Peak:
    """Context manager; `bytes` holds the peak once it is left."""

    bytes: int = 0

    def __enter__(self) -> Peak:
        self._cuda = torch.cuda.is_available()
        self._mark = False
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._mark = _high_water() > 0
        except OSError:
            self._mark = False
        if not self._mark:
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def _look(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._ended.wait(0.02):
                return

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self.bytes = torch.cuda.max_memory_allocated()
        elif self._mark:
            self.bytes = _high_water()
        else:
            self._ended.set()
            self._thread.join()


def _high_water() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
