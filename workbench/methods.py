"""Everything that can be named: kind, name, class, arguments with help, the paper it comes from."""

from __future__ import annotations

import inspect
from typing import Any


def list_all() -> list[dict[str, Any]]:
    """Adapters (stock peft's and ours) and quantizers, as `workbench methods --json` prints them.

    Returns:
        records with the keys kind, name, class (`module:Class`), help, arguments [{name, default, help}], paper.
    """
    return [*_adapters(), *_quantizers()]


def _adapters() -> list[dict[str, Any]]:
    from workbench.papers import find_pages
    from workbench.training import list_methods

    papers = {block: page["slug"] for page in find_pages() for block in page["blocks"]}
    rows = []
    for method in list_methods():
        module = method["class"].partition(":")[0]
        rows.append({"kind": "adapter", **method, "paper": papers.get(module)})
    return rows


def _quantizers() -> list[dict[str, Any]]:
    from workbench.compress import METHODS

    rows = []
    for name, (target, text) in METHODS.items():
        arguments = [
            {"name": argument.name, "default": argument.default, "help": ""}
            for argument in inspect.signature(target).parameters.values()
            if argument.default is not inspect.Parameter.empty
        ]
        rows.append(
            {
                "kind": "quantizer",
                "name": name,
                "class": f"{target.__module__}:{target.__qualname__}",
                "help": text,
                "arguments": arguments,
                "paper": None,
            }
        )
    return rows
