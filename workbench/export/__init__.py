"""Export: a model as files that other engines run, read back by a second reader and compared in logits before "done".

    from workbench.export import export_model
    export_model(model, tokenizer, "out", to="gguf-q8_0", text=windows)

Everything is loaded at first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Check": "check",
    "ExportReport": "export",
    "FORMATS": "formats",
    "export_model": "export",
    "outline": "facts",
    "holders": "formats",
    "obstacle": "formats",
    "requantize_tuned": "requantize",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOMES)
