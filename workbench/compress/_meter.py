"""Peak memory of this process while a block of code runs."""

from __future__ import annotations

import threading

import psutil
import torch


class Meter:
    """Context manager; afterwards `.peak_bytes` is the highest resident size seen (sampled every 20 ms), plus the
    highest allocation on the CUDA device where one is in use. It counts the whole process, not this code alone."""

    def __enter__(self) -> Meter:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self.peak_bytes = self._process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
        if torch.cuda.is_available():
            self.peak_bytes += torch.cuda.max_memory_allocated()
