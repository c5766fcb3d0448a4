"""Scaling laws: one declaration per law, one engine, honest uncertainty, a planner.

from workbench.scaling import ScalingLaw, study, plan
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "LAWS": "laws",
    "Law": "laws",
    "Plan": "planner",
    "ScalingLaw": "fitter",
    "Term": "laws",
    "compare_laws": "holdout",
    "get_law": "laws",
    "holdout": "holdout",
    "identify": "identification",
    "plan": "planner",
    "read_runs": "table",
    "study": "study",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"workbench.scaling.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'workbench.scaling' has no attribute {name!r}")
