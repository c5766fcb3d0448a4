"""What a fine-tuning will cost and what came out of it, in words."""

from __future__ import annotations

from html import escape
from typing import Any

from workbench.figures import formats
from workbench.progress import span
from workbench.runs import Run

from . import choices, html


def forecast_words(found: dict[str, Any]) -> str:
    """`≈ 3 min 10 s, 1.2 GB of memory, 4.6 MB file, 1.2 M (0.31 %) of the parameters`."""
    return escape(
        f"≈ {span(found['seconds'])}, {formats.size(found['peak_bytes'])} of memory, "
        f"{formats.size(found['file_bytes'])} file, {formats.parameters(found['trainable'], found['total'])} trained, "
        f"{found['precision']}"
    )


def result(run: Run) -> str:
    """What came out: numbers, forecast beside measurement, and the ways on."""
    found = run.result() or {}
    metrics, measured, before = found.get("metrics", {}), found.get("measured", {}), found.get("forecast", {})
    pairs = {}
    if "eval_loss" in metrics:
        start = formats.number(metrics.get("eval_loss_start"))
        pairs["Held-out loss"] = f"{start} → {formats.number(metrics['eval_loss'])} nats"
    if "perplexity" in metrics:
        pairs["Perplexity"] = formats.number(metrics["perplexity"])
    if "eval_accuracy" in metrics:
        pairs["Accuracy"] = formats.number(metrics["eval_accuracy"])
    if "best_step" in metrics:
        pairs["Best checkpoint"] = f"step {formats.count(metrics['best_step'])}"
    if measured and before:
        pairs["Time"] = f"{span(measured['seconds'])} (forecast {span(before['seconds'])})"
        peaks = formats.size(measured["peak_bytes"]), formats.size(before["peak_bytes"])
        pairs["Peak memory"] = f"{peaks[0]} (forecast {peaks[1]})"
        pairs["File"] = formats.size(measured["file_bytes"])
        pairs["Trained"] = formats.parameters(measured["trainable"], measured["total"])
    ways = ""
    if choices.made_by(run):
        key = f"run:{run.id}"
        ways = (
            f'<p><a class="wb-button wb-primary" href="chat?model={key}">Chat with it</a>'
            f'<a class="wb-button" href="compress?model={key}">Compress it</a>'
            f'<a class="wb-button" href="compare?models={key}">Compare it</a>'
            f'<a class="wb-button" href="runs?run={run.id}">Log and settings</a></p>'
        )
    return (html.facts(pairs) + ways) if pairs or ways else ""
