"""Everything that can be named: kind, name, class, arguments with help, the paper it comes from."""

from __future__ import annotations

import inspect
import re
from typing import Any


def list_all() -> list[dict[str, Any]]:
    """Adapters (stock peft's and ours), quantizers, laws and schedules, as `workbench methods --json` prints them.

    Returns:
        records with the keys kind, name, class (`module:Class`), help, arguments [{name, default, help}], paper; adapters
        also abilities (what the probe found, see `workbench.training.abilities`; None for one that was not probed).
    """
    return [*_adapters(), *_quantizers(), *_laws(), *_schedules()]


def _adapters() -> list[dict[str, Any]]:
    from workbench.papers import find_pages
    from workbench.training import list_methods
    from workbench.training.abilities import known

    abilities = known()
    papers = {block: page["slug"] for page in find_pages() for block in page["blocks"]}
    rows = []
    for method in list_methods():
        module = method["class"].partition(":")[0]
        rows.append(
            {"kind": "adapter", **method, "paper": papers.get(module), "abilities": abilities.get(method["name"])}
        )
    return rows


def _quantizers() -> list[dict[str, Any]]:
    from workbench.compress import METHODS

    return [_function("quantizer", name, target, text) for name, (target, text) in METHODS.items()]


def _laws() -> list[dict[str, Any]]:
    from workbench.scaling.laws import LAWS

    return [
        {
            "kind": "law",
            "name": law.name,
            "class": "workbench.scaling.fitter:ScalingLaw",
            "help": law.formula,
            "arguments": [{"name": c, "default": None, "help": law.units.get(c, "")} for c in law.columns],
            "paper": None,
            "reference": law.reference,
        }
        for law in LAWS.values()
    ]


def _schedules() -> list[dict[str, Any]]:
    from workbench.training import schedules

    return [
        _function("schedule", name, target, target.__doc__.strip().splitlines()[0])
        for name in ("cosine", "power", "wsd")
        for target in [getattr(schedules, f"{name}_schedule")]
    ]


def _function(kind: str, name: str, target: Any, text: str) -> dict[str, Any]:
    """A record whose arguments are those with a default, with the help of the docstring's Args section."""
    helps = dict(re.findall(r"^\s{8}(\w+): (.+)$", target.__doc__ or "", flags=re.MULTILINE))
    arguments = [
        {"name": argument.name, "default": argument.default, "help": helps.get(argument.name, "")}
        for argument in inspect.signature(target).parameters.values()
        if argument.default is not inspect.Parameter.empty
    ]
    where = f"{target.__module__}:{target.__qualname__}"
    return {"kind": kind, "name": name, "class": where, "help": text, "arguments": arguments, "paper": None}
