"""The main job: fine-tune a real language model, compress it seven ways, compare all nine, write one report.

    base ─► LoRA on one text, split by document ─► merged "tuned" ─► { RTN, GPTQ } × { 8, 4, 3 bits } and NF4
                                                                └► each: perplexity, passage choice, bytes, speed, samples

Every part leaves a finished file in the run's folder (`tuned/`, `models/<name>/`, `cells/<name>.json`), written beside
and renamed over; a demo that was interrupted anywhere skips what is there. Each compressed model is measured after it was
saved and loaded again, so its numbers are those of the file.

SmolLM2's weights come from a Q4_1 file (blocks of 32): asymmetric 4 bits at group 32 would reproduce them exactly. The
demo therefore compresses at group 64, where nothing is given away.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import machine
from workbench.progress import Progress, part, silent

if TYPE_CHECKING:
    from workbench.runs import RunContext

GROUP = 64
WINDOW = 128
COMPRESSED = ("rtn-8", "rtn-4", "rtn-3", "gptq-8", "gptq-4", "gptq-3", "nf4")
ORDER = ("base", "tuned", *COMPRESSED)
# Share of the whole time for the base model's cell and for fine-tuning; the rest goes in equal parts to the others.
SHARES = {"base": 0.05, "finetune": 0.32}
TRAINING = {
    "batch_size": 4,
    "window": WINDOW,
    "method": "lora",
    "learning_rate": 1e-3,
    "eval_rows": 12,
    "eval_every": 20,
}
TOKENS, ITEMS, SAMPLES, NEW_TOKENS = 2560, 32, 3, 16
NOTHING = {"seconds": 0.0, "peak_bytes": 0, "layers": []}  # what making a model cost that was not compressed
CALIBRATION = {"samples": 16, "window": 256}


def start_or_continue(config: dict[str, Any], *, fresh: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Run the demo, continue the unfinished one with the same settings, or return the finished one's result.

    Args:
        config: {model, data, steps, seed}.
        fresh: start anew whatever is there.
        progress: live line.
    """
    from workbench.runs import Store

    check(config)
    if fresh:
        return Store().run_here("demo", config, name="demo", progress=progress)
    return Store().continue_here("demo", config, name="demo", progress=progress, hint=", or start another with --fresh")


def check(config: dict[str, Any]) -> None:
    """Everything that can be wrong, before a run is made.

    Raises:
        UserError: model or data that is not at hand.
    """
    from workbench.data import load
    from workbench.models import resolve

    resolve(config["model"])
    load(config["data"])


def run(context: RunContext) -> dict[str, Any]:
    """The job `demo` of the run store; returns {rows, tied_best, samples, training, report, seconds}."""
    from workbench.data import load, split

    config, folder = context.config, context.directory
    (folder / "cells").mkdir(exist_ok=True)
    parts = split(load(config["data"]), seed=config["seed"])
    cells = {"base": cell(context, "base", str(_base(context)), parts, part(context.progress, 0, SHARES["base"]))}
    _say(context, cells["base"])
    if context.should_stop():
        return {"stopped": True}
    start = SHARES["base"] + SHARES["finetune"]
    training = _tune(context, part(context.progress, SHARES["base"], start))
    step = (1 - start) / (len(COMPRESSED) + 1)
    for i, name in enumerate(ORDER[1:]):
        if context.should_stop():
            return {"stopped": True}
        middle, end = start + (i + 0.45) * step, start + (i + 1) * step
        made = _compress(context, name, parts, part(context.progress, start + i * step, middle))
        cells[name] = cell(
            context, name, str(folder / "models" / name), parts, part(context.progress, middle, end), made
        )
        _say(context, cells[name])
    return _finish(context, cells, training)


def cell(
    context: RunContext, name: str, folder: str, parts: dict, progress: Progress, made: dict | None = None
) -> dict[str, Any]:
    """Measure one model, or read what was measured before the interruption."""
    path = context.directory / "cells" / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    begun = time.monotonic()
    from workbench.evaluation import continue_text, disk_bytes, passage_choice
    from workbench.evaluation.compare import Settings, measure
    from workbench.models import fingerprint, load_model, load_tokenizer

    seed = context.config["seed"]
    progress(0, 1, f"{name}: loading")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    items = passage_choice(parts["test"], tokenizer, items=ITEMS, seed=seed)
    settings = Settings(window=WINDOW, tokens=TOKENS, items=ITEMS, seed=seed, prompt_tokens=64)
    record = measure(name, model, tokenizer, parts["test"], items, settings, part(progress, 0, 0.9))
    progress(0.9, 1, f"{name}: samples")
    beginnings = prompts(parts["test"])
    samples = [continue_text(model, tokenizer, text, NEW_TOKENS, seed=seed) for text in beginnings]
    made = made or NOTHING
    record["row"] |= {
        "disk_bytes": disk_bytes(folder),
        "seconds": made["seconds"],
        "peak_bytes": max(record["memory"]["peak_bytes"], made["peak_bytes"]),
        "fingerprint": fingerprint(model),
    }
    record |= {
        "samples": samples,
        "prompts": beginnings,
        "layers": made["layers"],
        "measuring_seconds": time.monotonic() - begun,
    }
    _write(path, json.dumps(record, default=float))
    row = record["row"]
    context.log_metrics(name=name, **{key: row[key] for key in ("perplexity", "accuracy", "disk_bytes")})
    progress(1, 1, f"{name}: perplexity {row['perplexity']:.1f}, accuracy {row['accuracy']:.2f}")
    del model
    gc.collect()
    return record


def prompts(test: Any) -> list[str]:
    """The opening words of three held-out documents."""
    seen: dict[str, str] = {}
    for row in test.rows:
        if len(row["text"].split()) > 60:
            seen.setdefault(row["group"], " ".join(row["text"].split()[:16]))
    return list(seen.values())[:SAMPLES]


def _named(progress: Progress, name: str, start: float, stop: float) -> Progress:
    inner = part(progress, start, stop)
    return lambda done, total, text: inner(done, total, f"{name}: {text}")


def _base(context: RunContext) -> Path:
    """The untouched model stored like all others, 16 bits a weight, as `models/base`."""
    from workbench.models import load_model, load_tokenizer

    folder, name = context.directory / "models" / "base", context.config["model"]
    if not folder.is_dir():
        model = load_model(name)
        _halve(model)
        _keep(folder, lambda target: (model.save_pretrained(target), load_tokenizer(name).save_pretrained(target)))
    return folder


def _tune(context: RunContext, progress: Progress) -> dict[str, Any]:
    """Fine-tune (resumes by itself) and keep the merged model as `models/tuned`."""
    from workbench.models import load_tokenizer
    from workbench.training import FinetuneConfig, finetune, load_tuned

    config = context.config
    settings = FinetuneConfig(
        model=config["model"], data=config["data"], steps=config["steps"], seed=config["seed"], **TRAINING
    )
    result = finetune(
        settings, context.directory / "finetune", progress=_named(progress, "fine-tuning", 0, 1),
        should_stop=context.should_stop, log=context.log_metrics,
    )  # fmt: skip
    tuned = context.directory / "models" / "tuned"
    if not result.stopped and not tuned.is_dir():
        model, _ = load_tuned(result.path, merged=True)
        tokenizer = load_tokenizer(config["model"])
        _halve(model)
        _keep(tuned, lambda folder: (model.save_pretrained(folder), tokenizer.save_pretrained(folder)))
    return {
        "method": settings.method, "forecast": result.forecast, "measured": result.measured, "metrics": result.metrics,
        "curve": result.curve, "stopped": result.stopped,
    }  # fmt: skip


def _compress(context: RunContext, name: str, parts: dict, progress: Progress) -> dict[str, Any]:
    """Quantize the tuned model into `models/<name>`; returns seconds, peak_bytes and the layers' errors."""
    folder = context.directory / "models" / name
    record = context.directory / "models" / f"{name}.json"
    if name == "tuned":
        return dict(NOTHING)
    if folder.is_dir() and record.is_file():
        return json.loads(record.read_text())
    from workbench.compress import quantize_model
    from workbench.data import calibration
    from workbench.models import load_model, load_tokenizer

    source = str(context.directory / "models" / "tuned")
    method, _, bits = name.partition("-")
    model, tokenizer = load_model(source), load_tokenizer(source)
    windows = (
        calibration(parts["train"], tokenizer, **CALIBRATION, seed=context.config["seed"]) if method == "gptq" else None
    )
    report = quantize_model(
        model, method=method, bits=int(bits or 4), group_size=GROUP, calibration=windows,
        progress=_named(progress, name, 0, 1),
    )  # fmt: skip
    _halve(model)
    _keep(folder, lambda target: (model.save_pretrained(target), tokenizer.save_pretrained(target)))
    made = {"seconds": report.seconds, "peak_bytes": report.peak_bytes, "layers": report.layers}
    _write(record, json.dumps(made, default=float))
    return made


def _finish(context: RunContext, cells: dict[str, dict], training: dict[str, Any]) -> dict[str, Any]:
    from workbench.demo_report import write
    from workbench.evaluation.judging import judge

    rows = judge({name: cells[name] for name in ORDER})
    seconds = training["measured"]["seconds"] + sum(
        c["measuring_seconds"] + c["row"]["seconds"] for c in cells.values()
    )
    result = {
        "rows": rows,
        "tied_best": [row["name"] for row in rows if row["perplexity_tied"]],
        "samples": [
            {"prompt": prompt, "texts": {name: cells[name]["samples"][i] for name in ORDER}}
            for i, prompt in enumerate(cells["base"]["prompts"])
        ],
        "training": {key: value for key, value in training.items() if key != "curve"},
        "seconds": seconds,
        "config": dict(context.config),
        "tokens": cells["base"]["tokens"],
        "machine": machine.describe(),
    }
    result["report"] = str(write(context.directory / "report.html", result, training["curve"], cells))
    return result


def summary(result: dict[str, Any]) -> str:
    """The table and the two lines that a reader of the terminal needs."""
    import shutil

    from workbench.figures.table import render
    from workbench.progress import span

    wide = min(160, max(60, shutil.get_terminal_size((100, 24)).columns))
    shown = [{k: v for k, v in row.items() if k not in ("bits_per_byte", "fingerprint")} for row in result["rows"]]
    return f"{render(shown, wide)}\n\nTotal {span(result['seconds'])}. Report: {result['report']}"


def _say(context: RunContext, record: dict) -> None:
    row = record["row"]
    context.log(f"{row['name']}: perplexity {row['perplexity']:.2f}, accuracy {row['accuracy']:.2f}")


def _halve(model: Any) -> None:
    """Store what is not packed (embeddings, norms; all of the base and tuned models) in 16 bits."""
    import torch

    for parameter in model.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)


def _keep(folder: Path, save: Any) -> None:
    """Save beside and rename over: a folder under its final name is whole."""
    half = folder.with_name(f".{folder.name}-half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    save(half)
    os.replace(half, folder)


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}-half")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)
