"""Write `workbench/figures/allowed_options.txt` anew: run after plotly or gradio brings another plotly.js.

    python tests/figures/make_allowed_options.py [path of a Chromium]

Both libraries are loaded in a headless browser, each asked for its own schema (`Plotly.PlotSchema.get()`), and the option
names that both know, for the trace types of `_allow.TRACES` and a layout without maps, polar, ternary and Smith charts,
are written. Places where only the newer one knows a name are printed: put those that plotly.py accepts into `ONLY_NEWER`.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio
from plotly.offline import get_plotlyjs

from workbench.figures import _allow

LEFT_OUT = ("geo", "mapbox", "map", "polar", "ternary", "smith")
NOT_OPTIONS = {"impliedEdits", "template"}  # internal; the template is checked by itself


def gradio_plotly_js() -> str:
    """The copy of plotly.js inside Gradio's page, unwrapped from its module."""
    folder = Path(gradio.__file__).parent / "templates/frontend/assets"
    text = next(folder.glob("PlotlyPlot-*.js")).read_text(encoding="utf-8")
    start, end = text.index("(function(e,n){typeof t==`object`"), "return window.Plotly=e,e})"
    return f"((e,t)=>{{{text[start : text.index(end) + len(end)]}}})({{}}, {{exports:{{}}}});"


def schema(javascript: str, browser: str) -> dict[str, Any]:
    """The schema that a copy of plotly.js gives of itself."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plotly.js").write_text(javascript, encoding="utf-8")
        page = Path(folder) / "page.html"
        ask = "document.body.textContent = JSON.stringify(Plotly.PlotSchema.get())"
        page.write_text(
            f'<meta charset="utf-8"><body><script src="plotly.js"></script><script>{ask}</script>', encoding="utf-8"
        )
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--dump-dom"]
        out = subprocess.run(
            [browser, *flags, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
        ).stdout
    return json.loads(html.unescape(re.search(r"<body>(.*)</body>", out, re.S)[1]))


def paths(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every option and group below a node of the schema, with its place; the fields of list items belong to the list."""
    for key, value in node.items():
        if not isinstance(value, dict) or key.startswith("_"):
            continue
        if key == "items":
            for item in value.values():
                if isinstance(item, dict):
                    yield from paths(item, prefix)
            continue
        yield prefix + key
        if "valType" not in value:
            yield from paths(value, f"{prefix}{key}.")


def places(found: dict[str, Any]) -> set[str]:
    """All places of the permitted traces and of the layout."""
    result = set()
    for kind in _allow.TRACES:
        trace = found["traces"][kind]
        result |= {f"{kind}.{p}" for p in paths(trace["attributes"])}
        result |= {f"layout.{p}" for p in paths(trace.get("layoutAttributes") or {})}
    layout = {k: v for k, v in found["layout"]["layoutAttributes"].items() if k not in LEFT_OUT}
    return result | {f"layout.{p}" for p in paths(layout)}


def names(found: set[str]) -> set[str]:
    return {p.rpartition(".")[2] for p in found}


if __name__ == "__main__":
    chromium = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    older, newer = (places(schema(js, chromium)) for js in (gradio_plotly_js(), get_plotlyjs()))
    common = sorted((names(older) & names(newer)) - NOT_OPTIONS)
    target = Path(_allow.__file__).parent / "allowed_options.txt"
    target.write_text("\n".join(textwrap.wrap(" ".join(common), 118)) + "\n", encoding="utf-8")
    alone = sorted(p for p in newer - older if p.rpartition(".")[2] in common)
    print(
        f"{len(older)} and {len(newer)} places, {len(common)} names in common; only in the newer: {', '.join(alone) or 'none'}"
    )
