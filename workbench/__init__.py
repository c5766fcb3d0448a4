"""Workbench: fine-tune, compress and compare models on one machine; every claim re-run, every run kept.

`import workbench` loads neither torch nor gradio: rooms (`workbench.scaling`, `workbench.models`, …) are imported on
first use.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

__version__ = "0.1.0"

# On some processors bitsandbytes says at import that it found no kernel on a hub, where nobody asked for one.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_ROOMS = (
    "adapters",
    "compress",
    "data",
    "evaluation",
    "figures",
    "layers",
    "models",
    "papers",
    "runs",
    "scaling",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"workbench.{name}")
    raise AttributeError(f"module 'workbench' has no attribute {name!r}; its rooms are {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
