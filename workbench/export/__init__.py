"""Export: a model as files that other engines run, read back by a second reader and compared in logits before "done".

    from workbench.export import export_model
    export_model(model, tokenizer, "out", to="gguf-q8_0", text=windows)

Everything is loaded at first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from workbench._lazy import lazy

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

__getattr__, __dir__ = lazy(__name__, _HOMES)
