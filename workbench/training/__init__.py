"""Fine-tuning: settings, methods, forecast, the job itself, and loading what it made.

    from workbench.training import FinetuneConfig, finetune, load_tuned
    result = finetune(FinetuneConfig("tiny-lm", "moby-dick", steps=50), Path("out"))
    model, tokenizer = load_tuned(result.path)

Importing this loads no torch; the functions import what they need.
"""

from __future__ import annotations

import importlib
from typing import Any

from workbench.training.config import FinetuneConfig

_HOMES = {
    "FinetuneResult": "finetuning",
    "Forecast": "forecasting",
    "finetune": "finetuning",
    "forecast": "forecasting",
    "list_methods": "methods",
    "load_tuned": "load",
}

__all__ = ["FinetuneConfig", "FinetuneResult", "Forecast", "finetune", "forecast", "list_methods", "load_tuned"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"workbench.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
