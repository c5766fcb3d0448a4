"""The main job: fine-tune a real language model, compress it nine ways, compare everything, write one report.

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
# Share of the whole time, measured on two cores: base cell, fine-tuning, then the rest in equal parts.
SHARES = {"base": 0.06, "finetune": 0.26}
TRAINING = {
    "batch_size": 4,
    "window": WINDOW,
    "method": "lora",
    "learning_rate": 1e-3,
    "eval_rows": 16,
    "eval_every": 20,
}
TOKENS, ITEMS, SAMPLES, NEW_TOKENS = 4096, 32, 3, 24
CALIBRATION = {"samples": 24, "window": 256}


def start_or_continue(config: dict[str, Any], *, fresh: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Run the demo, continue the unfinished one with the same settings, or return the finished one's result.

    Args:
        config: {model, data, steps, seed}.
        fresh: start anew whatever is there.
        progress: live line.
    """
    from workbench.runs import Store

    check(config)
    store = Store()
    found = None if fresh else store.find("demo", config)
    if found is not None and found.status == "done":
        return found.result()
    if found is not None and found.status in ("stopped", "interrupted", "failed"):
        return store.resume_here(found.id, progress)
    return store.run_here("demo", config, name="demo", progress=progress)


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
    cells = {"base": cell(context, "base", config["model"], parts, part(context.progress, 0, SHARES["base"]))}
    _say(context, cells["base"])
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
    context: RunContext, name: str, model_name: str, parts: dict, progress: Progress, made: dict | None = None
) -> dict[str, Any]:
    """Measure one model, or read what was measured before the interruption."""
    path = context.directory / "cells" / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    from workbench.evaluation import (
        PeakMemory,
        continue_text,
        disk_bytes,
        multiple_choice,
        passage_choice,
        perplexity,
        speed,
        weight_bytes,
    )
    from workbench.models import fingerprint, load_model, load_tokenizer, resolve

    seed = context.config["seed"]
    begun = time.monotonic()
    progress(0, 1, f"{name}: loading")
    model, tokenizer = load_model(model_name), load_tokenizer(model_name)
    with PeakMemory() as peak:
        text = perplexity(
            model,
            tokenizer,
            parts["test"],
            window=WINDOW,
            max_tokens=TOKENS,
            progress=_named(progress, name, 0.0, 0.45),
        )
        items = passage_choice(parts["test"], tokenizer, items=ITEMS, seed=seed)
        choice = multiple_choice(model, tokenizer, items, progress=_named(progress, name, 0.45, 0.75))
        progress(0.75, 1, f"{name}: speed")
        fast = speed(model, tokenizer, prompt_tokens=64, new_tokens=16, repeats=3)
        progress(0.9, 1, f"{name}: samples")
        samples = [continue_text(model, tokenizer, prompt, NEW_TOKENS, seed=seed) for prompt in prompts(parts["test"])]
    made = made or {"seconds": 0.0, "peak_bytes": 0}
    folder = resolve(model_name).path
    row = {
        "name": name,
        "perplexity": text.value,
        "perplexity_low": text.low,
        "perplexity_high": text.high,
        "perplexity_n": len(text.documents),
        "tokens": text.tokens,
        "accuracy": choice.value,
        "accuracy_low": choice.low,
        "accuracy_high": choice.high,
        "accuracy_n": len(choice.items),
        "disk_bytes": disk_bytes(folder),
        "ram_bytes": weight_bytes(model),
        "prefill_tps": fast.prefill_tps,
        "decode_tps": fast.decode_tps,
        "seconds": made["seconds"],
        "peak_bytes": max(peak.peak_bytes, made["peak_bytes"]),
        "fingerprint": fingerprint(model),
    }
    record = {
        "row": row,
        "documents": text.documents.to_dict("records"),
        "items": choice.items.to_dict("records"),
        "measuring_seconds": time.monotonic() - begun,
        "samples": samples,
        "prompts": prompts(parts["test"]),
        "layers": made.get("layers", []),
    }
    _write(path, json.dumps(record, default=float))
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
        _keep(
            tuned,
            lambda folder: (model.save_pretrained(folder), load_tokenizer(config["model"]).save_pretrained(folder)),
        )
    return {
        "method": settings.method, "forecast": result.forecast, "measured": result.measured, "metrics": result.metrics,
        "curve": result.curve, "stopped": result.stopped,
    }  # fmt: skip


def _compress(context: RunContext, name: str, parts: dict, progress: Progress) -> dict[str, Any]:
    """Quantize the tuned model into `models/<name>`; returns seconds, peak_bytes and the layers' errors."""
    folder = context.directory / "models" / name
    record = context.directory / "models" / f"{name}.json"
    if name == "tuned":
        return {"seconds": 0.0, "peak_bytes": 0}
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
        "machine": machine.describe(),
    }
    result["report"] = str(write(context.directory / "report.html", result, training["curve"], cells))
    return result


def judge(cells: dict[str, dict]) -> list[dict[str, Any]]:
    """The rows, each with `perplexity_tied` and `accuracy_tied`: what a paired test cannot tell from the best."""
    from workbench.evaluation import tied_with_best

    records = list(cells.values())
    documents = [item["group"] for item in records[0]["items"]]
    tied = {
        "perplexity": tied_with_best(
            [[d["nll"] for d in r["documents"]] for r in records], higher_is_better=False
        ).tied,
        "accuracy": tied_with_best([[float(i["correct"]) for i in r["items"]] for r in records], groups=documents).tied,
    }
    return [
        {**record["row"], **{f"{key}_tied": bool(mask[i]) for key, mask in tied.items()}}
        for i, record in enumerate(records)
    ]


def summary(result: dict[str, Any]) -> str:
    """The table and the two lines that a reader of the terminal needs."""
    import shutil

    from workbench.figures.table import render
    from workbench.progress import span

    wide = min(160, max(60, shutil.get_terminal_size((100, 24)).columns))
    shown = [{k: v for k, v in row.items() if k not in ("tokens", "fingerprint")} for row in result["rows"]]
    return (
        f"{render(shown, wide)}\n\n≈ tied with the best by a paired test over the same documents or questions.\n"
        f"Total {span(result['seconds'])}. Report: {result['report']}"
    )


def _say(context: RunContext, record: dict) -> None:
    row = record["row"]
    context.log(f"{row['name']}: perplexity {row['perplexity']:.2f}, accuracy {row['accuracy']:.2f}")


def _halve(model: Any) -> None:
    """Store what is not packed (embeddings, norms; all of the tuned model) in 16 bits, as the base model is stored."""
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
