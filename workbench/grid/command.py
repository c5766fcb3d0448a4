"""The command that runs a grid again, from its settings: only what differs from the defaults is written."""

from __future__ import annotations

import shlex
from typing import Any

from workbench.grid.settings import DEFAULTS

_LISTS = ("tasks", "methods", "bases")


def words(config: dict[str, Any]) -> str:
    """`workbench compare MODEL … --methods … --tasks …` with every setting that is not the default."""
    full = {**DEFAULTS, **config}
    parts = ["workbench", "compare", *full["models"]]
    for name in _LISTS:
        if full[name] != DEFAULTS[name] or name == "methods":
            parts += [f"--{name}", ",".join(full[name])]
    for name, value in full.items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("models", *_LISTS) or value == DEFAULTS[name]:
            continue
        if name == "outside":
            parts.append(flag)
        elif name == "rates":
            parts += [word for method, rate in value.items() for word in ("--rate", f"{method}={rate}")]
        elif name in ("space", "method_args"):
            flag = {"space": "--try", "method_args": "--set"}[name]
            for method, args in value.items():
                for argument, inner in args.items():
                    text = ",".join(map(str, inner)) if isinstance(inner, list) else str(inner)
                    parts += [flag, f"{method}.{argument}={text}"]
        else:
            parts += [flag, str(value)]
    return shlex.join(parts)
