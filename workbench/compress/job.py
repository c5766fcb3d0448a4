"""The `quantize` job: a model in, a packed folder with its tokenizer and report out.

The folder appears under its final name only when it is complete, and loads like any other model.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import JobError, choose, with_defaults

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.runs.context import RunContext

DEFAULTS: dict[str, Any] = {
    "model": "smollm2-135m",
    "method": "gptq",
    "bits": 4,
    "group_size": 64,
    "symmetric": False,
    "data": "sotu",
    "samples": 32,
    "window": 256,
    "seed": 0,
}


class _Stopped(Exception):
    """The user asked the run to stop."""


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with defaults filled in, checked as far as that goes without a model.

    Raises:
        UserError: for a setting that does not exist or cannot work.
    """
    from workbench.compress.quantizers import METHODS, check_arguments, usual_bits

    full = with_defaults("quantize", config, DEFAULTS)
    if config.get("bits") is None:
        full["bits"] = usual_bits(choose("quantization method", full["method"], METHODS))
    if full["method"] == "int8-mixed":
        full["group_size"], full["symmetric"] = None, True
    check_arguments(full["method"], full["bits"], full["group_size"])
    return full


def is_adapter(model: str) -> bool:
    """Whether `model` is the folder of a fine-tuned adapter."""
    return (Path(model) / "adapter_config.json").is_file()


def calibration(full: dict[str, Any], tokenizer) -> list[Tensor] | None:
    """Windows of token ids for methods that need text, else None.

    They come from the training part of the split by document (all of a text with fewer than three documents), so that
    what `compare` measures on was not trained on.
    """
    from workbench.compress.quantizers import NEED_TEXT

    if full["method"] not in NEED_TEXT:
        return None
    from workbench import data

    examples = data.load(full["data"])
    if len(examples.groups()) >= 3:
        examples = data.split(examples, seed=0)["train"]
    return data.calibration(examples, tokenizer, full["samples"], full["window"], full["seed"])


def run(run_context: RunContext) -> dict[str, Any]:
    """Quantize as the run's settings say.

    Args:
        run_context: of the job store.

    Returns:
        {method, bits, bytes, bits_per_weight, layers, seconds, peak_bytes, notes, settings, path}; only
        {stopped: True} when the run was stopped.

    Raises:
        UserError: for settings that do not fit the model or the data.
        JobError: when the disk is too small.
    """
    full = settings(run_context.config)
    from workbench import models
    from workbench.compress.packed_model import stored_bytes
    from workbench.compress.quantize import quantize_model

    def report(done: float, total: float, text: str) -> None:
        if run_context.should_stop():
            raise _Stopped
        run_context.progress(done, total, text)

    report(0, 1, "loading the model")
    if is_adapter(full["model"]):
        from workbench.training import load_tuned

        model, tokenizer = load_tuned(full["model"], merged=True)
        windows = calibration(full, tokenizer)
    else:
        models.resolve(full["model"])
        tokenizer = models.load_tokenizer(full["model"])
        windows = calibration(full, tokenizer)  # before the weights load: bad text shows early
        model = models.load_model(full["model"])
    options = {key: full[key] for key in ("method", "bits", "group_size", "symmetric")}
    try:
        result = quantize_model(model, calibration=windows, progress=report, **options).to_dict()
    except _Stopped:
        return {"stopped": True}
    free = shutil.disk_usage(run_context.directory).free
    if free < 1.1 * stored_bytes(model):
        raise JobError(
            f"The packed model takes {result['bytes'] / 1e6:.0f} MB, but the disk of {run_context.directory} has "
            f"{free / 1e6:.0f} MB left; free some space and resume the run."
        )
    result["path"] = str(write(model, tokenizer, run_context.directory / "packed", result))
    return result


def write(model, tokenizer, folder: Path, report: dict[str, Any]) -> Path:
    """Save model, tokenizer and report; the folder gets its name last, when everything is in it."""
    part = folder.with_name(folder.name + ".part")
    for stale in (part, folder):
        shutil.rmtree(stale, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    text = json.dumps({**report, "path": str(folder)}, indent=1, ensure_ascii=False)
    (part / "quantization_report.json").write_text(text, encoding="utf-8")
    os.replace(part, folder)
    return folder


def forecast(config: dict[str, Any]) -> dict[str, Any]:
    """What a run would cost, from the model's shapes alone (no weights are read).

    Args:
        config: settings of the job.

    Returns:
        {layers, weights, bits_per_weight, bytes (whole model as stored), calibration_tokens, tokens_needed,
        activation_bytes (two streams, one block, and its largest Hessians or its optimizer), peak_bytes (with the dense
        model)}.

    Raises:
        UserError: for settings that do not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from workbench import models
    from workbench.compress.nf4 import TABLES
    from workbench.compress.quantizers import NEED_TEXT
    from workbench.compress.records import float_bits_per_weight, integer_bits_per_weight
    from workbench.compress.rtn import resolve_group
    from workbench.compress.targets import find_targets, sizes
    from workbench.compress.walk import BUDGET, find_blocks, part_tokens

    full = settings(config)
    name = full["model"]
    if is_adapter(name):
        name = json.loads((Path(name) / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.load_config(name))
    targets = find_targets(model)
    weights = packed = 0.0
    for layer, module in targets.items():
        out, width = sizes(module)
        weights += out * width
        if full["method"] in TABLES:
            packed += out * width * float_bits_per_weight(full["group_size"])
        else:
            group = resolve_group(width, full["group_size"], layer)
            packed += out * width * integer_bits_per_weight(full["bits"], group, full["symmetric"])
    total = sum(parameter.numel() for parameter in model.parameters())
    widest = max(sizes(module)[1] for module in targets.values())
    with_text = full["method"] in NEED_TEXT
    tokens = full["samples"] * full["window"] if with_text else 0
    hidden = model.get_input_embeddings().weight.shape[1]
    if full["method"] == "efficientqat":  # weights, gradients, two moments and three copies of one block; a batch
        block = max(sum(p.numel() for p in block.module.parameters()) for block in find_blocks(model, targets))
        work = 7 * 4 * block + 4 * full["window"] * BUDGET / part_tokens(model, targets)
    else:
        work = min(1.0, tokens / part_tokens(model, targets)) * BUDGET + 5 * 8 * widest**2
    activations = int(2 * tokens * hidden * 4 + work) if with_text else 0
    return {
        "layers": len(targets),
        "weights": int(weights),
        "bits_per_weight": packed / weights,
        "bytes": int(4 * (total - weights) + packed / 8),
        "calibration_tokens": tokens,
        "tokens_needed": widest if with_text else 0,
        "activation_bytes": activations,
        "peak_bytes": int(4 * total + activations),
    }
