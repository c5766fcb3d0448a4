"""The `prune` job: a model in, a pruned (and, if asked, retrained) folder with its tokenizer and report out.

Calibration and retraining read the training part of the text only, split by document as everywhere in the workbench, so
that `workbench compare` on the same text stays honest. The folder gets its final name when it is complete, and loads
like any other model.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.job import is_adapter
from workbench.errors import JobError, UserError, with_defaults
from workbench.progress import part as stretch

if TYPE_CHECKING:
    from workbench.runs.context import RunContext

DEFAULTS: dict[str, Any] = {
    "model": "smollm2-135m",
    "method": "wanda",
    "sparsity": 0.5,
    "pattern": "unstructured",
    "scope": None,
    "data": "sotu",
    "samples": 32,
    "window": 256,
    "retrain": [],
    "steps": 100,
    "batch_size": 4,
    "learning_rate": 5e-4,
    "rank": 16,
    "seed": 0,
}


class _Stopped(Exception):
    """The user asked the run to stop."""


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with defaults filled in, checked as far as that goes without a model.

    Raises:
        UserError: for a setting that does not exist or cannot work.
    """
    from workbench.compress.perp_train import check_parts
    from workbench.compress.prune import check_arguments

    full = with_defaults("prune", config, DEFAULTS)
    full["scope"] = check_arguments(full["method"], full["sparsity"], full["pattern"], full["scope"])
    if full["retrain"]:
        check_parts(full["retrain"])
    for name, least in (("samples", 1), ("window", 2), ("steps", 1), ("batch_size", 1), ("rank", 1)):
        if not isinstance(full[name], int) or full[name] < least:
            raise UserError(f"{name} is {full[name]!r}; give a whole number of {least} or more.")
    if not 0 < full["learning_rate"] < 10:
        raise UserError(f"learning_rate is {full['learning_rate']!r}; give a number above 0, 5e-4 is usual.")
    return full


def texts(full: dict[str, Any], tokenizer) -> tuple[list | None, Any]:
    """Calibration windows (None when nothing needs them), and rows to retrain on (None without retraining)."""
    from workbench import data
    from workbench.compress.prune import NEED_TEXT

    if full["method"] not in NEED_TEXT and not full["retrain"]:
        return None, None
    examples = data.split(data.load(full["data"]), evaluation=0, seed=full["seed"])["train"]
    windows = None
    if full["method"] in NEED_TEXT:
        windows = data.calibration(examples, tokenizer, full["samples"], full["window"], full["seed"])
    return windows, training_rows(examples, tokenizer, full) if full["retrain"] else None


def training_rows(examples, tokenizer, full: dict[str, Any]):
    """Full windows of the training part (n, window), as many as the steps can come to see, int64."""
    import torch

    from workbench import data

    encoded = data.encode(examples, tokenizer, window=full["window"])
    rows = [row["input_ids"] for row in encoded if len(row["input_ids"]) == full["window"]]
    if not rows:
        raise UserError(f"No row of {examples.source} fills a window of {full['window']} tokens; use a shorter one.")
    keep = torch.randperm(len(rows), generator=torch.Generator().manual_seed(full["seed"]))
    return torch.tensor([rows[i] for i in keep[: full["steps"] * full["batch_size"]].tolist()])


def run(run_context: RunContext) -> dict[str, Any]:
    """Prune, and retrain, as the run's settings say.

    Args:
        run_context: of the job store.

    Returns:
        {method, bits, bytes, bits_per_weight, packed_bits_per_weight, sparsity, layers, seconds, peak_bytes, notes,
        settings, retrained, path}; only {stopped: True} when the run was stopped.

    Raises:
        UserError: for settings that do not fit the model or the data.
        JobError: when the disk is too small, or retraining diverges.
    """
    full = settings(run_context.config)
    from workbench import models
    from workbench.compress.masks import sparsity_of
    from workbench.compress.perp_train import retrain
    from workbench.compress.prune import prune_model

    def report(done: float, total: float, text: str) -> None:
        if run_context.should_stop():
            raise _Stopped
        run_context.progress(done, total, text)

    report(0, 1, "loading the model")
    if is_adapter(full["model"]):
        from workbench.training import load_tuned

        model, tokenizer = load_tuned(full["model"], merged=True)
        windows, rows = texts(full, tokenizer)
    else:
        models.resolve(full["model"])
        tokenizer = models.load_tokenizer(full["model"])
        windows, rows = texts(full, tokenizer)  # before the weights load: bad text shows early
        model = models.load_model(full["model"])
    half = 0.3 if full["retrain"] else 1.0
    options = {key: full[key] for key in ("method", "sparsity", "pattern", "scope", "seed")}
    try:
        found = prune_model(model, calibration=windows, progress=stretch(report, 0, half), **options)
        result = found.to_dict()
        if full["retrain"]:
            after = retrain(
                model, found.masks, rows, train=full["retrain"], steps=full["steps"], batch_size=full["batch_size"],
                learning_rate=full["learning_rate"], rank=full["rank"], seed=full["seed"],
                progress=stretch(report, half, 1),
            )  # fmt: skip
            result["retrained"] = after.to_dict()
            result["seconds"] += after.seconds
    except _Stopped:
        return {"stopped": True}
    result["sparsity"] = max(result["sparsity"], sparsity_of(model))  # survivors may be zero besides
    free = shutil.disk_usage(run_context.directory).free
    if free < 1.1 * result["bytes"]:
        raise JobError(
            f"The pruned model takes {result['bytes'] / 1e6:.0f} MB, but the disk of {run_context.directory} has "
            f"{free / 1e6:.0f} MB left; free some space and resume the run."
        )
    result["path"] = str(write(model, tokenizer, run_context.directory / "pruned", result))
    return result


def write(model, tokenizer, folder: Path, report: dict[str, Any]) -> Path:
    """Save model, tokenizer and report; the folder gets its name last, when everything is in it."""
    part = folder.with_name(folder.name + ".part")
    for stale in (part, folder):
        shutil.rmtree(stale, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    text = json.dumps({**report, "path": str(folder)}, indent=1, ensure_ascii=False)
    (part / "pruning_report.json").write_text(text, encoding="utf-8")
    os.replace(part, folder)
    return folder


def forecast(config: dict[str, Any]) -> dict[str, Any]:
    """What a run would cost, from the model's shapes alone (no weights are read).

    Args:
        config: settings of the job.

    Returns:
        {layers, weights, removed, bytes (dense file), packed_bits_per_weight, calibration_tokens, tokens_needed,
        trainable, peak_bytes}.

    Raises:
        UserError: for settings that do not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from workbench import models
    from workbench.compress.masks import check_fits, parse_pattern
    from workbench.compress.perp_train import LORAS, prepare
    from workbench.compress.prune import NEED_TEXT, packed_bits
    from workbench.compress.targets import find_targets, sizes
    from workbench.compress.walk import BUDGET, part_tokens

    full = settings(config)
    name = full["model"]
    if is_adapter(name):
        name = json.loads((Path(name) / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.load_config(name))
    targets = find_targets(model)
    for layer, module in targets.items():
        check_fits(sizes(module)[1], full["pattern"], layer)
    group = parse_pattern(full["pattern"])
    share = group[0] / group[1] if group else full["sparsity"]
    weights = sum(out * width for out, width in map(sizes, targets.values()))
    total = sum(parameter.numel() for parameter in model.parameters())
    widest, hidden = max(sizes(module)[1] for module in targets.values()), model.get_input_embeddings().weight.shape[1]
    needs = full["method"] in NEED_TEXT
    tokens = full["samples"] * full["window"] if needs else 0
    inside = min(1.0, tokens / part_tokens(model, targets)) * BUDGET
    activations = 2 * tokens * hidden * 4 + inside + 5 * 8 * widest**2 if needs else 0
    trainable = 0
    if full["retrain"]:
        with torch.device("meta"):
            masks = dict.fromkeys(targets) if set(full["retrain"]) & set(LORAS) else {}
            trainable = sum(p.numel() for p in prepare(model, masks, full["retrain"], full["rank"], 1.0, 0))
        step = full["batch_size"] * full["window"] * 4
        stream = 16 * hidden * len(targets) / 4 + 3 * model.config.vocab_size  # numbers a token leaves for backward
        activations = max(activations, step * stream + 16 * trainable)
    return {
        "layers": len(targets),
        "weights": weights,
        "removed": round(share * weights),
        "bytes": 4 * total,
        "packed_bits_per_weight": packed_bits(32, share, full["pattern"]),
        "calibration_tokens": tokens,
        "tokens_needed": widest if full["method"] == "sparsegpt" else 0,
        "trainable": trainable,
        "peak_bytes": int(4 * total + activations),
    }
