"""Loaded models, one cache for the whole server, keyed by the fingerprint of the weights that answer.

Two keys that lead to the same weights share one entry. The least recently used entry goes when more than `MOST` are loaded
or memory runs low; Unload frees one at once. Only handlers behind the device gate (`frame.GATE`) come here.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from pathlib import Path
from typing import Any

from . import catalogue, choices

MOST = 4
ROOM = 1.5e9  # bytes of memory that stay free


@dataclasses.dataclass
class Entry:
    """One loaded model: `opened` as `workbench.chat` returns it, its label, its bytes in memory, when it last answered."""

    opened: Any
    label: str
    bytes: int
    used: float


class Cache:
    """Fingerprint → entry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.known: dict[tuple[str, str], str] = {}  # (key, stamp of its files) → fingerprint
        self.lock = threading.RLock()

    def open(self, key: str, label: str = "") -> Any:
        """The model behind a key (`KEY#merged` folds a tuned adapter into its weights), loaded at most once.

        Raises:
            UserError: a key that names nothing, or weights that cannot be loaded.
        """
        with self.lock:
            at = (key, stamp(key))
            entry = self.entries.get(self.known.get(at, ""))
            if entry is None:
                self.make_room()
                opened = load(key)
                self.known[at] = opened.fingerprint
                entry = self.entries.setdefault(opened.fingerprint, Entry(opened, label or key, weigh(opened), 0.0))
            entry.used = time.monotonic()
            return entry.opened

    def make_room(self) -> None:
        """Let the least recently used go until one more fits."""
        while self.entries and (len(self.entries) >= MOST or free_memory() < ROOM):
            self.unload(min(self.entries, key=lambda name: self.entries[name].used))

    def unload(self, fingerprint: str | None = None) -> None:
        """Free one model, or all."""
        with self.lock:
            for name in [fingerprint] if fingerprint else list(self.entries):
                self.entries.pop(name, None)
            self.known = {at: name for at, name in self.known.items() if name in self.entries}
            gc.collect()


MODELS = Cache()


def stamp(key: str) -> str:
    """Changes when the files behind a key do."""
    place = Path(choices.model_place(key.removesuffix("#merged")))
    if not place.is_dir():
        return ""
    return str(sorted((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in place.iterdir() if p.is_file()))


def load(key: str) -> Any:
    """Open a model for answering."""
    catalogue.ready()
    from workbench.chat import Opened, open_model

    place = choices.model_place(key.removesuffix("#merged"))
    if not key.endswith("#merged"):
        return open_model(place)
    from workbench.models import fingerprint
    from workbench.training import load_tuned

    model, tokenizer = load_tuned(Path(place), merged=True)
    return Opened(model, tokenizer, fingerprint(model))


def weigh(opened: Any) -> int:
    """Bytes of the weights in memory."""
    from workbench.evaluation import weight_bytes

    return weight_bytes(opened.model)


def free_memory() -> float:
    """Bytes of memory that can be had now without swapping."""
    import psutil

    return float(psutil.virtual_memory().available)
