"""The job `frontier`: every method and number of bits for one model, in one table of size, quality, speed and cost.

    base, rtn-8, rtn-4 … gptq-4 (seeds 0, 1, 2) …  ─► cells/<name>-<seed>.json, one as each finishes ─► rows, report

A run that was killed reads the cells that are there and makes the rest. Methods that look at calibration text are made once per
seed; their row is the mean over the seeds of every document's loss and of every answer, and lists the seeds one by one. Which
rows are tied with the best is decided over documents (questions), as everywhere.

Speed is measured last, all formats in turn (`frontier_speed`), and set beside its bound, bandwidth / bytes that a token reads:
the gap is overhead, not memory.
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.variant import BASE, Variant, parse
from workbench.errors import UserError, with_defaults
from workbench.progress import part

if TYPE_CHECKING:
    from workbench.runs import RunContext

DEFAULTS: dict[str, Any] = {
    "model": "smollm2-135m",
    "variants": [
        "base", "rtn-8", "rtn-4", "rtn-3", "rtn-2", "gptq-4", "gptq-3", "gptq-2", "awq-4", "awq-3", "nf4", "fp4", "int8-mixed",
    ],
    "group_size": 64,
    "calibration": "sotu",
    "samples": 16,
    "window": 256,
    "seeds": 1,
    "data": "moby-dick",
    "tokens": 12_000,
    "eval_window": 128,
    "items": 48,
    "seed": 0,
}  # fmt: skip
ORIGIN = (
    "The weights of smollm2-135m come from a file with 4 bits in blocks of 32 (Q4_1): its base is itself a 4-bit model. "
    "Asymmetric 4 bits in groups of 32 would give it back exactly, so everything here uses groups of 64. What 4 bits cost here "
    "is what a second, different grid costs."
)


class _Stopped(Exception):
    """The user asked the run to stop."""


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with defaults filled in and every variant read.

    Raises:
        UserError: for a setting or variant that does not exist or cannot work.
    """
    full = with_defaults("frontier", config, DEFAULTS)
    for key, least in (("samples", 1), ("window", 8), ("seeds", 1), ("tokens", 64), ("eval_window", 2), ("items", 2)):
        if not isinstance(full[key], int) or isinstance(full[key], bool) or full[key] < least:
            raise UserError(f"{key} is {full[key]!r}; give a whole number of {least} or more.")
    if not isinstance(full["variants"], list) or not full["variants"]:
        raise UserError("variants is empty; name at least one, such as rtn-4 or gptq-3.")
    names = [parse(name).name for name in full["variants"]]
    full["variants"] = list(dict.fromkeys([BASE, *names]))  # the base is what all are compared with
    return full


def cells(full: dict[str, Any]) -> list[tuple[Variant, int]]:
    """(variant, seed of its calibration) of every cell, in order: all of seed 0 first."""
    variants = [parse(name) for name in full["variants"]]
    seeds = range(full["seed"], full["seed"] + full["seeds"])
    return [(v, seed) for seed in seeds for v in variants if v.seeded or seed == full["seed"]]


def forecast(config: dict[str, Any]) -> dict[str, Any]:
    """What every variant would weigh and cost, before anything starts.

    Args:
        config: settings of the job.

    Returns:
        {rows: [{name, bits_per_weight, disk_bytes, calibration_tokens, seconds, peak_bytes, runs}], seconds (making all of
        them), measuring_seconds}. Bytes of int8-mixed leave out its float columns, which only the text can tell.

    Raises:
        UserError: for settings that do not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from workbench import models
    from workbench.compress import job
    from workbench.compress.frontier_cells import product_speed, work
    from workbench.compress.targets import find_targets, sizes

    full = settings(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(models.load_config(full["model"]))
    shapes = [sizes(module) for module in find_targets(model).values()]
    total, weights = sum(p.numel() for p in model.parameters()), sum(out * width for out, width in shapes)
    speed, rows = product_speed(), []
    for variant in map(parse, full["variants"]):
        row = {"name": variant.name, "bits_per_weight": 16.0, "disk_bytes": 2 * total, "calibration_tokens": 0,
               "seconds": 0.0, "peak_bytes": 4 * total, "runs": full["seeds"] if variant.seeded else 1}  # fmt: skip
        if variant.method != BASE:
            plan = job.forecast(
                {"model": full["model"], "method": variant.method, "bits": variant.bits, "group_size": full["group_size"],
                 "samples": full["samples"], "window": full["window"]}
            )  # fmt: skip
            row |= {key: plan[key] for key in ("bits_per_weight", "calibration_tokens", "peak_bytes")}
            row["disk_bytes"] = int(2 * (total - weights) + weights * plan["bits_per_weight"] / 8)
            row["seconds"] = work(variant.method, shapes, plan["calibration_tokens"]) / speed
        rows.append(row)
    tokens = 1.3 * full["tokens"] + full["items"] * 64 + 4 * 80  # text, questions, speed; windows that overlap
    count = len(cells(full))
    return {
        "rows": rows,
        "seconds": sum(row["seconds"] * row["runs"] for row in rows),
        "measuring_seconds": count * (2.0 * total * tokens / speed + 5.0),
    }


def run(context: RunContext) -> dict[str, Any]:
    """Make and measure every cell that is missing, then judge them.

    Args:
        context: of the job store; cells stay in its folder.

    Returns:
        {rows, tied_best, tests, budget, report, csv, stopped}.

    Raises:
        UserError: settings that cannot work, before a model is loaded.
        JobError: a variant that cannot be measured.
    """
    from workbench.compress.frontier_cells import measure_cell
    from workbench.compress.frontier_speed import measure_speeds
    from workbench.data import load, split
    from workbench.evaluation.cells import plain, prepare, read, write
    from workbench.evaluation.compare import Settings
    from workbench.models import resolve

    full = settings(context.config)
    resolve(full["model"])
    examples = load(full["data"])
    if examples.kind != "text":
        raise UserError(f"{full['data']} holds {examples.kind} rows; models are compared on plain text.")
    test = split(examples, seed=full["seed"])["test"]
    plan = {row["name"]: row for row in forecast(context.config)["rows"]}
    measured = Settings(
        window=full["eval_window"], tokens=full["tokens"], items=full["items"], seed=full["seed"], prompt_tokens=8,
        new_tokens=1, repeats=1,
    )  # fmt: skip
    folder = Path(context.directory) / "cells"
    prepare(folder)

    def watch(done: float, total: float, text: str) -> None:
        if context.should_stop():
            raise _Stopped
        context.progress(done, total, text)

    asked = cells(full)
    share = 0.9 / len(asked)  # of the progress; the rest is for speed
    for number, (variant, seed) in enumerate(asked):
        name = f"{variant.name}-{seed}"
        if read(folder, name) is not None:
            continue
        inner = part(watch, number * share, (number + 1) * share)
        try:
            cell = measure_cell(variant, full, seed, folder, test, measured, inner)
        except _Stopped:
            return {"stopped": True}
        cell["forecast"] = plan[variant.name]
        write(folder, name, plain(cell))
        row = cell["row"]
        context.log_metrics(name=name, perplexity=row["perplexity"], accuracy=row["accuracy"], seconds=row["seconds"])
        context.log(f"{name}: perplexity {row['perplexity']:.2f}, {row['disk_bytes'] / 1e6:.1f} MB")
        gc.collect()
    speeds = read(folder, "speed")
    if speeds is None:
        try:
            speeds = measure_speeds(full, part(watch, 0.9, 1))
        except _Stopped:
            return {"stopped": True}
        write(folder, "speed", speeds)
    found = {(v.name, s): read(folder, f"{v.name}-{s}") for v, s in asked}
    return finish(Path(context.directory), full, found, speeds)


def finish(
    directory: Path, full: dict[str, Any], found: dict[tuple[str, int], dict], speeds: dict[str, Any]
) -> dict[str, Any]:
    """Judge the cells; write rows.csv, result.json and report.html into `directory`."""
    import json

    import pandas as pd

    from workbench import machine
    from workbench.compress import frontier_report
    from workbench.compress.frontier_speed import add_speeds
    from workbench.evaluation.judging import judge, paired_tests

    groups = {name: [cell for (own, _), cell in found.items() if own == name] for name in full["variants"]}
    merged = {name: merge(group) for name, group in groups.items()}
    add_speeds({name: cell["row"] for name, cell in merged.items()}, speeds)
    rows = judge(merged)
    here = machine.describe()
    result = {
        "rows": rows,
        "tied_best": [row["name"] for row in rows if row["perplexity_tied"]],
        "tests": paired_tests(merged, BASE),
        "blocks": {name: group[0]["blocks"] for name, group in groups.items()},
        "layers": {name: group[0]["layers"] for name, group in groups.items() if group[0]["layers"]},
        "notes": sorted({note for group in groups.values() for cell in group for note in cell["notes"]}),
        "budget": {**full, "predicted_tokens": merged[BASE]["tokens"], "documents": len(merged[BASE]["documents"]),
                   "chance": merged[BASE]["chance"], "speed": speeds["measured"]},
        "origin": ORIGIN if full["model"] == "smollm2-135m" else "",
        "machine": here,
        "stopped": False,
    }  # fmt: skip
    result["csv"], result["report"] = str(directory / "rows.csv"), str(directory / "report.html")
    pd.DataFrame(rows).to_csv(result["csv"], index=False)
    (directory / "report.html").write_text(frontier_report.build(result), encoding="utf-8")
    (directory / "frontier.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


def merge(group: list[dict[str, Any]]) -> dict[str, Any]:
    """One cell from the cells of several calibration seeds: losses and answers averaged document by document.

    The perplexity of the mean loss is the geometric mean of the seeds' perplexities. Intervals are over documents and
    questions; the spread over seeds stands in `perplexity_seeds`.
    """
    import pandas as pd

    from workbench.evaluation.cells import plain
    from workbench.evaluation.statistics import bootstrap_mean, bootstrap_ratio

    row = dict(group[0]["row"])
    row["seeds"] = len(group)
    row["perplexity_seeds"] = [cell["row"]["perplexity"] for cell in group]
    for key in ("seconds", "bits_per_weight"):
        row[key] = sum(cell["row"][key] for cell in group) / len(group)
    row["disk_bytes"] = round(sum(cell["row"]["disk_bytes"] for cell in group) / len(group))
    row["peak_bytes"] = max(cell["row"]["peak_bytes"] for cell in group)
    row |= {f"predicted_{key}": group[0]["forecast"][key] for key in ("seconds", "disk_bytes", "peak_bytes")}
    documents, items = pd.DataFrame(group[0]["documents"]), pd.DataFrame(group[0]["items"])
    if len(group) > 1:
        documents["nll"] = sum(pd.DataFrame(cell["documents"])["nll"] for cell in group) / len(group)
        items["correct"] = sum(pd.DataFrame(cell["items"])["correct"].astype(float) for cell in group) / len(group)
        mean = bootstrap_ratio(documents["nll"], documents["tokens"], method="percentile", widen=True)
        ends = [math.exp(value) for value in (mean.value, mean.low, mean.high)]
        row |= dict(zip(("perplexity", "perplexity_low", "perplexity_high"), ends, strict=True))
        row["bits_per_byte"] = float(documents["nll"].sum() / (math.log(2) * documents["bytes"].sum()))
        share = bootstrap_mean(items["correct"], groups=items["group"].tolist(), method="percentile", widen=True)
        row |= {"accuracy": share.value, "accuracy_low": share.low, "accuracy_high": share.high}
    return {**group[0], "row": plain(row), "documents": documents.to_dict("records"), "items": items.to_dict("records")}


def start_or_continue(config: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Run the job, continue the unfinished run with the same settings, or return the finished one's result.

    Args:
        config: settings of the job.
        options: name and progress, as `Store.run_here` takes them.
    """
    from workbench.runs import Store

    settings(config)
    return Store().continue_here("frontier", config, **options)
