"""Compressed variants of one model: their names, their measured quality, their errors by layer, the spread of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from workbench.compress.job import DEFAULTS
from workbench.errors import UserError
from workbench.figures import formats, layers, weight_rows, weights
from workbench.runs import Run

from . import cache, choices, drawing, live, measured

LAYERS = """import pandas as pd
from workbench.figures import layers
from workbench.runs import Store

rows = [
    {{"layer": layer["name"], "error": layer["error"], "method": name}}
    for name, id in {runs!r}.items()
    for layer in Store().get(id).result()["layers"]
]
layers(pd.DataFrame(rows))"""

SPREAD = """from workbench.chat import open_model
from workbench.figures import weight_rows, weights
from workbench.runs import Store
from workbench.training import load_tuned

run = Store().get({id!r})
base = {base}
models = {{"base": base, {name!r}: open_model(str(run.directory / {folder!r})).model}}
layers = {{name: model.get_submodule({layer!r}) for name, model in models.items()}}
tensors = {{name: layer.dequantize() if hasattr(layer, "dequantize") else layer.weight for name, layer in layers.items()}}
rows = weight_rows({{name: tensor.detach().float().numpy() for name, tensor in tensors.items()}})
weights(rows, log={log})"""
PLAIN = 'open_model(run.config["model"]).model'
MERGED = 'load_tuned(run.config["model"], merged=True)[0]'


def label(run: Run) -> str:
    """`gptq-4`, `nf4`, `wanda 50 %`; a quantizer's group where it is not the usual one."""
    if run.job == "prune":
        return live.pruned(live.config(run))
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


def histogram(id: str, layer: str | None) -> str:
    """How one layer's weights are spread before and after; zeros make a spike, so a pruned layer has a logarithmic axis.

    Raises:
        UserError: no finished compression in view.
    """
    run = live.find(id)
    made = choices.made_by(run) if run else {}
    if not layer or not made:
        raise UserError("No finished compression is in view; start one, or choose it in the table.")
    from workbench.compress.linear import PackedLinear
    from workbench.compress.targets import matrix

    base = str(choices.shown(live.config(run)["model"]))
    adapter = base.startswith("run:") and (Path(choices.model_place(base)) / "adapter_config.json").is_file()
    tensors = {}
    for name, key in (("base", base + "#merged" * adapter), (label(run), f"run:{run.id}")):
        words = name if key.endswith(run.id) else f"{name} of {label(run)}"
        module = cache.MODELS.open(key, words).model.get_submodule(layer)
        weight = module.dequantize() if isinstance(module, PackedLinear) else matrix(module)
        tensors[name] = weight.detach().float().numpy()
    rows, log = weight_rows(tensors), run.job == "prune"
    cell = SPREAD.format(
        id=run.id, base=MERGED if adapter else PLAIN, name=label(run), folder=made[""].name, layer=layer, log=log
    )
    return drawing.payload(weights(rows, log=log), name="weights", cell=cell, rows=rows)
