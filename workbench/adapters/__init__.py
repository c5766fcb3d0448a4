"""PEFT methods of ours, one file per technique, each a `peft` tuner.

Every technique file holds a literal METHOD (name, prefix, classes, paper, arguments for a tiny model), read here with
`ast`: nothing imports torch until `register_all()` or a class is asked for. After `register_all()` (or the first use of
a class: `from workbench.adapters import NolaConfig`), `get_peft_model`, `PeftModel.from_pretrained` and transformers'
`add_adapter` know the methods like peft's own. Loading a saved adapter in a fresh process needs that call first:
peft has no entry points, and without it fails with `KeyError: 'NOLA'`.
"""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import Any


@functools.cache
def _methods() -> tuple[dict[str, Any], ...]:
    found = []
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "METHOD" for t in node.targets):
                found.append({**ast.literal_eval(node.value), "module": f"{__name__}.{path.stem}"})
    return tuple(found)


def methods() -> list[dict[str, Any]]:
    """The literal METHOD of every technique file, with the module that holds it (no torch import)."""
    return [dict(method) for method in _methods()]


def register_all() -> list[str]:
    """Make every method known to peft (idempotent).

    Returns:
        The registered names, in order.
    """
    from workbench.adapters._register import register

    for method in _methods():
        module = importlib.import_module(method["module"])
        register(method["name"], getattr(module, method["config"]), getattr(module, method["model"]), method["prefix"])
    return [method["name"] for method in _methods()]


def __getattr__(name: str) -> Any:
    for method in _methods():
        if name in (method["config"], method["model"], method["layer"]):
            register_all()
            return getattr(importlib.import_module(method["module"]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
