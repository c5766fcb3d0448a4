"""How good, how large, how fast: perplexity, choices, labels, intervals, paired tests, meters, and the comparison.

Importing this room imports neither torch nor transformers; each name loads its file on first use.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_HOME = {
    "accuracy": ("Accuracy",),
    "choice": ("Item", "multiple_choice", "passage_choice"),
    "classification": ("classification_accuracy",),
    "compare": ("Comparison", "Settings", "Variant", "compare", "measure"),
    "generate": ("continue_text",),
    "judging": ("judge", "paired_tests"),
    "meters": ("PeakMemory", "Speed", "disk_bytes", "speed", "weight_bytes"),
    "perplexity": ("Perplexity", "perplexity"),
    "statistics": (
        "Interval", "PairedTest", "Tied", "bootstrap_mean", "bootstrap_ratio", "holm", "mcnemar", "paired_permutation",
        "tied_with_best",
    ),
}  # fmt: skip
_FILE = {name: file for file, names in _HOME.items() for name in names}

__all__ = sorted(_FILE)


def __getattr__(name: str) -> Any:
    if name not in _FILE:
        raise AttributeError(f"module 'workbench.evaluation' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"workbench.evaluation.{_FILE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Room(types.ModuleType):
    """Here `perplexity` and `compare` name the functions, also after Python has loaded the files of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _FILE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
