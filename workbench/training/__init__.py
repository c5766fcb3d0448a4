"""Fine-tuning: settings, methods, forecast, the job itself, and loading what it made.

    from workbench.training import FinetuneConfig, finetune, load_tuned
    result = finetune(FinetuneConfig("tiny-lm", "moby-dick", steps=50), Path("out"))
    model, tokenizer = load_tuned(result.path)

Importing this loads no torch; the functions import what they need.
"""

from __future__ import annotations

from workbench._lazy import lazy
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

__getattr__, _ = lazy(__name__, _HOMES)
