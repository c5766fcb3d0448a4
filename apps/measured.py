"""What comparisons have measured, also while one still works: rows per model, and the table with intervals and ties."""

from __future__ import annotations

from typing import Any

from workbench.figures import formats
from workbench.runs import Run
from workbench.runs.files import peek

from . import choices, html, live

SHOWN = (("perplexity", "Perplexity"), ("accuracy", "Accuracy"))


def cells(run: Run) -> dict[str, dict[str, Any]]:
    """Place of a model → its measured row, as far as the comparison `run` has come."""
    found = {}
    for path in sorted((run.directory / "cells").glob("[0-9a-f]*.json")):
        record = peek(path) or {}
        if "row" in record:
            found[record.get("description", {}).get("model", "")] = record["row"]
    return found


def rows(run: Run) -> list[dict[str, Any]]:
    """The judged rows of a finished comparison, or the unjudged ones that are there already, in the order asked for."""
    result = run.result() or {}
    if result.get("rows"):
        return result["rows"]
    from workbench.evaluation.job import labels

    there = cells(run)
    asked = live.config(run).get("models", [])
    return [{**there[place], "name": name} for name, place in labels(asked).items() if place in there]


def stamp(run: Run | None) -> str:
    """Changes when a cell is added or the run's state changes."""
    if run is None:
        return ""
    return f"{run.stamp()} {len(list((run.directory / 'cells').glob('*.json')))}"


def newest(place: str, runs: list[Run]) -> Run | None:
    """The newest comparison that `place` takes part in."""
    return next((r for r in runs if r.job == "compare" and place in live.config(r).get("models", [])), None)


def readable(run: Run) -> dict[str, str]:
    """The comparison's short names → words people know: titles of the runs behind them."""
    from workbench.evaluation.job import labels

    words = {}
    for name, place in labels(live.config(run).get("models", [])).items():
        key = str(choices.shown(place))
        made = live.find(key[4:].partition("/")[0]) if key.startswith("run:") else None
        part = key.partition("/")[2]
        words[name] = " · ".join(filter(None, [live.title(made), part])) if made else key
    return words if len(set(words.values())) == len(words) else {name: f"{w} ({name})" for name, w in words.items()}


def named(run: Run) -> list[dict[str, Any]]:
    """`rows` with readable names and, for the look of figures, the method of each model."""
    words, methods = readable(run), looks(run)
    return [
        {**row, "name": words.get(row["name"], row["name"]), "method": methods.get(row["name"], "")}
        for row in rows(run)
    ]


def looks(run: Run) -> dict[str, str]:
    """The comparison's short names → the method that decides a model's look."""
    from workbench.evaluation.job import labels

    return {name: look_of(place) for name, place in labels(live.config(run).get("models", [])).items()}


def look_of(place: str) -> str:
    """The method whose colour and marker a model has in figures: base, lora, gptq-4 …"""
    key = str(choices.shown(place))
    run = live.find(key[4:].partition("/")[0]) if key.startswith("run:") else None
    if run is None:
        return "base"
    config, part = live.config(run), key.partition("/")[2]
    if run.job == "quantize":
        method = config.get("method", "gptq")
        return method if method in ("nf4", "fp4") else f"{method}-{config.get('bits', 4)}"
    return part or config.get("method", "wanda" if run.job == "prune" else "lora")


def table(run: Run) -> str:
    """All models side by side: intervals, bytes, speed; tied with the best is shaded."""
    found = named(run)
    if not found:
        return html.empty("A row appears here as soon as its model is measured.")
    head = ("Model", "Perplexity", "Accuracy", "On disk", "In memory", "Reads (tokens/s)", "Writes (tokens/s)")
    lines, tied = [], set()
    for r, row in enumerate(found):
        values = [formats.interval(row[k], row[f"{k}_low"], row[f"{k}_high"]) for k, _ in SHOWN]
        sizes = [formats.size(row.get(key)) for key in ("disk_bytes", "ram_bytes")]
        lines.append([row["name"], *values, *sizes, row.get("prefill_tps"), row.get("decode_tps")])
        tied |= {(r, c) for c, (k, _) in enumerate(SHOWN, 1) if row.get(f"{k}_tied")}
    note = "≈ tied with the best by a paired test, 95 %." if tied else "Ties are tested when all are measured."
    return html.table(head, lines, label="Comparison", tied=tied) + f'<p class="wb-small wb-muted">{note}</p>'


def paired(run: Run) -> str:
    """Each model against the reference: difference, p, and p corrected for the number of tests."""
    result = run.result() or {}
    if not result.get("tests"):
        return ""
    words = readable(run)
    units = {"loss": "nats per token", "accuracy": "share right"}
    rows = [
        (
            words.get(t["name"], t["name"]),
            f"{t['measure']} ({units.get(t['measure'], '')})",
            t["difference"],
            t["p"],
            t["p_holm"],
        )
        for t in result["tests"]
    ]
    budget = result.get("budget", {})
    same = (
        f"The same for all: {formats.count(budget.get('predicted_tokens'))} held-out tokens of {budget.get('documents')} "
        f"documents, {budget.get('items')} questions, window {budget.get('window')}, seed {budget.get('seed')}."
    )
    return (
        f"<h2>Against {words.get(result['tests'][0]['reference'], 'the reference')}</h2>"
        + html.table(("Model", "Measure", "Difference", "p", "p, corrected"), rows, label="Paired tests")
        + f'<p class="wb-small wb-muted">{same} Sign-flip test over documents, Holm correction.</p>'
    )


def disk(place: str) -> int | None:
    """Bytes of a model on disk, where its files are here; an adapter counts with the model under it."""
    from workbench.evaluation import disk_bytes
    from workbench.evaluation.job import variant

    return sum(disk_bytes(path) for path in variant(place).files if path.exists()) or None
