"""The demo's report.html: what was gained, what it cost, how sure that is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import machine
from workbench.figures import curve_rows, curves, intervals, layers, pareto
from workbench.figures.formats import number
from workbench.progress import span
from workbench.report import Section, build_report

ORIGIN = (
    "The weights of smollm2-135m come from a file with 4 bits in blocks of 32 (Q4_1). Asymmetric 4-bit rounding in groups "
    "of 32 would reproduce them exactly, so everything here is compressed in groups of 64."
)


def write(path: Path, result: dict[str, Any], curve: list[dict], cells: dict[str, dict]) -> Path:
    """Write the report beside the run and return its path.

    Args:
        path: where to.
        result: of `workbench.demo.run`.
        curve: training curve rows {step, loss | eval_loss}.
        cells: name → record of `workbench.demo.cell`.
    """
    rows = pd.DataFrame(result["rows"])
    by = rows.set_index("name")
    base, tuned = by.loc["base"], by.loc["tuned"]
    config, training = result["config"], result["training"]
    packed = rows[~rows["name"].isin(["base", "tuned"])]
    kept = packed[packed["perplexity"] <= tuned["perplexity"] * 1.1].sort_values("disk_bytes")
    best = kept.iloc[0] if len(kept) else packed.sort_values("perplexity").iloc[0]
    forecast, measured = training["forecast"], training["measured"]
    lead = f"Fine-tuning takes held-out perplexity from {number(base.perplexity)} to {number(tuned.perplexity)}. " + (
        f"The smallest file within 10 % of that is {best['name']}: perplexity {number(best.perplexity)} at "
        f"{best.disk_bytes / tuned.disk_bytes:.0%} of the size."
        if len(kept)
        else f"No compressed file stays within 10 % of that; the nearest is {best['name']} with {number(best.perplexity)}."
    )
    error = pd.DataFrame(
        [{"method": name, "layer": layer["name"], "error": layer["error"]}
         for name in ("gptq-4", "gptq-3") for layer in cells[name]["layers"]]
    )  # fmt: skip
    line = curve_rows(curve, "tuned", training["method"])
    sections = [
        Section(
            "What was gained and what it cost",
            f"Perplexity: {cells['base']['tokens']} held-out tokens of {config['data']}, windows of 128 inside one document, "
            f"interval over {int(base.perplexity_n)} documents. Accuracy: which of four passages continues the text, "
            f"{int(base.accuracy_n)} questions, chance 0.25. Reading is prefill, writing is decoding, at batch 1.",
            table=rows.drop(columns=["fingerprint", "bits_per_byte"]), data=rows,
            note=ORIGIN if config["model"] == "smollm2-135m" else "",
        ),
        Section("Quality against size", data=rows,
                figure=[pareto(rows, "disk_bytes", "perplexity"), pareto(rows, "decode_tps", "perplexity")]),
        Section("How sure that is", "Two models are called tied when a paired test over the same documents or questions cannot "
                "tell them apart (95 %, corrected for the number of comparisons).",
                figure=[intervals(rows, "perplexity", items="documents"), intervals(rows, "accuracy", items="questions")]),
        Section("Training", f"{training['method']}, {config['steps']} steps. Forecast from two steps: "
                f"{span(forecast['seconds'])}, {forecast['peak_bytes'] / 1e9:.2f} GB. Measured: {span(measured['seconds'])}, "
                f"{measured['peak_bytes'] / 1e9:.2f} GB.", figure=curves(line), data=line),
        Section("Where compression hurts", "Relative error of each layer's output on calibration text.",
                figure=layers(error), data=error),
        Section("What the models write", "Greedy continuations of the opening words of held-out chapters.",
                samples=result["samples"]),
    ]  # fmt: skip
    here = machine.describe()
    page = build_report(
        f"{config['model']}: tuned on {config['data']}, compressed, compared",
        sections,
        lead=lead,
        facts={
            "Perplexity, base → tuned": f"{number(base.perplexity)} → {number(tuned.perplexity)}",
            f"{best['name']}": f"{number(best.perplexity)} ({number(best.perplexity_low)}–{number(best.perplexity_high)})",
            "Size on disk": f"{number(tuned.disk_bytes / 1e6)} → {number(best.disk_bytes / 1e6)} MB",
            "Time in all": span(result["seconds"]),
        },
        footer={
            "Machine": here["machine"],
            "Versions": ", ".join(f"{key} {here[key]}" for key in ("python", "torch", "transformers", "peft")),
            "Seed": config["seed"],
            "Date": here["date"],
            "command": f"workbench demo --model {config['model']} --data {config['data']} --steps {config['steps']} "
            f"--seed {config['seed']}",
        },
    )
    half = path.with_name(f".{path.name}-half")
    half.write_text(page, encoding="utf-8")
    os.replace(half, path)
    return path
