"""Shapes from points: local shape functions, unsigned distance on a band, meshes that keep their open boundaries."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "LoSFReconstructor": "reconstructor",
    "LoSFNet": "losf",
    "Mesh": "mesh",
    "load_losf": "weights",
    "predict_udf": "udf",
    "read_cloud": "files",
    "shape": "shapes",
    "write_mesh": "files",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"workbench.geometry has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"workbench.geometry.{_PLACES[name]}"), name)
