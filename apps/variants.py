"""Compressed variants of one model: their names, their measured quality, their errors by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.compress.job import DEFAULTS
from workbench.figures import formats, layers
from workbench.runs import Run

from . import drawing, live, measured

LAYERS = """import pandas as pd
from workbench.figures import layers
from workbench.runs import Store

rows = [
    {{"layer": layer["name"], "error": layer["error"], "method": name}}
    for name, id in {runs!r}.items()
    for layer in Store().get(id).result()["layers"]
]
layers(pd.DataFrame(rows))"""


def label(run: Run) -> str:
    """`gptq-4`, `nf4`; the group where it is not the usual one."""
    group = {**DEFAULTS, **live.config(run)}["group_size"]
    extra = "" if group == 64 else f" group {group or 'channel'}"
    return measured.look_of(str(run.directory / "packed")) + extra


def quality(row: dict[str, Any]) -> list[Any]:
    """Perplexity, accuracy and writing speed, where they have been measured."""
    values = [
        formats.interval(row.get(k), row.get(f"{k}_low"), row.get(f"{k}_high")) if row else None
        for k in ("perplexity", "accuracy")
    ]
    return [*values, row.get("decode_tps")]


def layer_figure(runs: list[Run]) -> str:
    """Errors by layer of the finished variants whose errors measure the same thing as the newest one's."""
    done = [run for run in runs if (run.result() or {}).get("layers")]
    kind = done[-1].result()["layers"][0].get("of") if done else None
    alike = [run for run in done if run.result()["layers"][0].get("of") == kind][-4:]
    chosen = {label(run): run for run in alike}
    rows = pd.DataFrame(
        [
            {"layer": entry["name"], "error": entry["error"], "method": name}
            for name, run in chosen.items()
            for entry in run.result()["layers"]
        ],
        columns=["layer", "error", "method"],
    )
    cell = LAYERS.format(runs={name: run.id for name, run in chosen.items()}) if chosen else ""
    return drawing.payload(layers(rows), name="layers", cell=cell, rows=rows)
