"""Cells on disk: JSON files named by the hash of all that decides their content, written beside and renamed over."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import UserError


def key(*parts: Any) -> str:
    """24 hex digits of plain data; equal data gives an equal key, whatever the order of its dictionaries."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


def prepare(folder: Path | None) -> None:
    """Make the folder and write to it once.

    Raises:
        UserError: it cannot be written to.
    """
    if folder is not None:
        write(folder, "probe", {})
        (folder / "probe.json").unlink()


def read(folder: Path | None, name: str) -> dict[str, Any] | None:
    """A kept file; None when it is missing or was cut off (it is then made again)."""
    if folder is None:
        return None
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write(folder: Path | None, name: str, record: dict[str, Any]) -> None:
    """Keep a file; a kill at any moment leaves the old one or the new one.

    Raises:
        UserError: the folder is full or read-only.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{name}-{os.getpid()}"
        half.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
        os.replace(half, folder / f"{name}.json")
    except OSError as error:
        why = error.strerror
        raise UserError(f"Cannot keep results in {folder} ({why}); make room or choose a writable folder.") from error


def plain(value: Any) -> Any:
    """Data that JSON can hold: numpy numbers as Python's, nan as None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
