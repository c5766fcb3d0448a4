"""Two ways to make a model smaller, as the page Compress offers them: fewer bits a weight, or fewer weights.

A way knows its job, its form, the levels that start one run each, and what of a forecast is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from workbench.commands.jobs import quantize
from workbench.commands.prune import prune
from workbench.errors import UserError
from workbench.figures import formats

from . import catalogue, fields, submit

OPTIONS = {option.name: option.help for command in (quantize, prune) for option in command.params}
PRUNING = {option.name: option.help for option in prune.params}
FIXED = ("nf4", "fp4")  # quantizers whose bits are not a choice


@dataclasses.dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        job: of the run store.
        form: its settings beside the level.
        levels: (label, value) of the check boxes; usual: those that are ticked.
        label, info: of the check boxes.
        settings: (method, level, values of the form) → settings of the job, without the model.
        forecast: settings with places → words.
    """

    job: str
    form: list[fields.Field]
    levels: list[tuple[str, str]]
    usual: list[str]
    label: str
    info: str
    settings: Callable[[str, str, dict[str, Any]], dict[str, Any]]
    forecast: Callable[[dict[str, Any]], tuple[str, float]]


def quantizing(method: str, level: str, values: dict[str, Any]) -> dict[str, Any]:
    """Settings of one quantization."""
    return {**values, "method": method, "bits": int(level), "group_size": values["group_size"] or None}


def pruning(method: str, level: str, values: dict[str, Any]) -> dict[str, Any]:
    """Settings of one pruning."""
    part = {"pattern": level} if ":" in level else {"sparsity": float(level)}
    retrain = [word.strip() for word in values["retrain"].split(",") if word.strip()]
    return {**values, **part, "method": method, "scope": values["scope"], "retrain": retrain}


def quantized_words(config: dict[str, Any]) -> tuple[str, float]:
    """What a quantization will leave on disk, and its peak of memory in bytes."""
    from workbench.compress.job import forecast

    found = forecast(config)
    label = config["method"] if config["method"] in FIXED else f"{config['bits']} bits"
    words = f"{label}: {formats.size(found['bytes'])}, {found['bits_per_weight']:.2f} bits a weight"
    return words, found["peak_bytes"]


def pruned_words(config: dict[str, Any]) -> tuple[str, float]:
    """How many weights a pruning removes, and its peak of memory in bytes."""
    from workbench.compress.prune_job import forecast

    found = forecast(config)
    share = found["removed"] / found["weights"]
    removed = formats.parameters(found["removed"])
    words = f"{share:.0%} zeros: {removed} weights removed, {formats.size(found['bytes'])} as a dense file"
    return words, found["peak_bytes"]


BITS = Way(
    "quantize",
    fields.from_command(
        quantize, ("group_size", "symmetric", "data", "samples", "window", "seed"), more=("samples", "window", "seed")
    ),
    [(bits, bits) for bits in ("8", "4", "3", "2")],
    ["4"],
    "Bits",
    "Bits per weight. Fewer is smaller and worse. Several start one run each. Usual: 4.",
    quantizing,
    quantized_words,
)
WEIGHTS = Way(
    "prune",
    [
        fields.Field("retrain", "text", "", PRUNING["retrain"], label="Retrain"),
        *fields.from_command(
            prune, ("data", "steps", "batch_size", "learning_rate", "rank", "samples", "window", "seed"),
            more=("steps", "batch_size", "learning_rate", "rank", "samples", "window", "seed"),
        ),
        fields.Field(
            "scope", "choice", "", PRUNING["scope"],
            (("usual for the method", ""), ("a whole layer", "matrix"), ("one output", "row")), more=True, label="Scope",
            optional=True,
        ),
    ],
    [("30 %", "0.3"), ("50 %", "0.5"), ("70 %", "0.7"), ("2:4", "2:4"), ("4:8", "4:8")],
    ["0.5"],
    "Zeros",
    "Share of every layer's weights that becomes zero; 2:4 leaves two of every four inputs. Several start one run each. "
    "Zeros alone save neither disk nor time: they pay in formats that skip them. Usual: 50 %.",
    pruning,
    pruned_words,
)  # fmt: skip
WAYS = {way.job: way for way in (BITS, WEIGHTS)}


def way_of(method: str) -> Way:
    """The way a method belongs to.

    Raises:
        UserError: no such method.
    """
    for kind, way in (("quantizer", BITS), ("pruner", WEIGHTS)):
        if method in catalogue.methods(kind):
            return way
    known = ", ".join([*catalogue.methods("quantizer"), *catalogue.methods("pruner")])
    raise UserError(f"There is no method called {str(method)[:60]!r}; there are {known}.")


def collect(model: str, method: str, levels: list[str], form: str) -> list[dict[str, Any]]:
    """One checked set of settings for each level.

    Args:
        model: its key.
        method: a quantizer or a pruner.
        levels: of the way's check boxes.
        form: the way's form.

    Raises:
        UserError: nothing chosen, or values that cannot be used.
    """
    way = way_of(method)
    values = fields.read(way.form, form)
    if method in FIXED:
        levels = ["4"]
    if not levels:
        raise UserError(f"No box of {way.label} is ticked; tick at least one.")
    found = [{"model": model, **way.settings(method, level, values)} for level in levels]
    for config in found:
        submit.CHECKS[way.job](dict(config))
    return found
