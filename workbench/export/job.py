"""The `export` job: a model by name, a format, a folder; everything that can be refused is refused before weights are read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError, choose, with_defaults
from workbench.progress import Progress
from workbench.progress import part as stretch

if TYPE_CHECKING:
    from workbench.export.facts import Facts
    from workbench.export.source import Source
    from workbench.runs.context import RunContext

DEFAULTS: dict[str, Any] = {
    "model": "smollm2-135m",
    "to": "gguf-q8_0",
    "destination": None,
    "dtype": None,
    "embeddings": None,
    "requantize": False,
    "base": None,
    "data": None,
    "samples": 4,
    "window": 128,
    "max_loss_change": 0.5,
    "seed": 0,
}
TEXT = "sotu"  # where neither the user nor the tuned run names a text


class _Stopped(Exception):
    """The user asked the run to stop."""


@dataclass(frozen=True)
class Plan:
    """A checked export: settings, where the weights are, their outline in the file, options, bytes."""

    full: dict[str, Any]
    source: Source
    shape: Facts
    dtype: str
    embeddings: str | None
    bytes: int


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with defaults filled in, checked as far as that goes without a model.

    Raises:
        UserError: for a setting that does not exist or cannot work.
    """
    from workbench.export.formats import FORMATS

    full = with_defaults("export", config, DEFAULTS)
    choose("export format", full["to"], FORMATS)
    for name, least in (("samples", 1), ("window", 2), ("seed", 0)):
        if not isinstance(full[name], int) or isinstance(full[name], bool) or full[name] < least:
            raise UserError(f"{name} is {full[name]!r}; give a whole number of {least} or more.")
    if not full["max_loss_change"] > 0:
        raise UserError(f"max_loss_change is {full['max_loss_change']!r}; give nats a token above 0, 0.5 is usual.")
    return full


def plan(config: dict[str, Any]) -> Plan:
    """Check everything that shapes and JSON files can tell.

    Raises:
        UserError: a model, format or option that does not fit.
    """
    from workbench.export import formats, size, source
    from workbench.export.facts import outline, skeleton

    full = settings(config)
    found = source.find(full["model"])
    codes = formats.FORMATS[full["to"]].family in ("gptq", "compressed")
    packed_adapter = found.adapter is not None and found.packing is not None
    if full["requantize"] and not packed_adapter:
        raise UserError(
            f"--requantize is for an adapter on quantized weights, and {full['model']} is none; leave it out"
            + (" (an adapter on dense weights merges without loss)." if found.adapter else ".")
        )
    if full["base"] is not None and not full["requantize"]:
        raise UserError("--base names the float model for --requantize; add --requantize, or leave --base out.")
    if packed_adapter and codes and not full["requantize"]:
        raise UserError(
            f"The adapter of {full['model']} sits on quantized weights, and the sum of both is not on the grid of the codes: "
            f"{full['to']} would lose most of it. Add --requantize (merges into the float base, quantizes again and reports "
            "the change in loss), or export to safetensors or a gguf format, which hold the merged weights."
        )
    kept = found.packing if found.adapter is None or full["requantize"] else {"quant_method": "none"}
    shape = outline(skeleton(found.float_base or found.weights if found.adapter else found.weights, kept))
    formats.check(full["to"], shape)
    dtype, embeddings = size.check_options(full["to"], shape, full["dtype"], full["embeddings"])
    return Plan(full, found, shape, dtype, embeddings, size.file_bytes(full["to"], shape, dtype, embeddings))


def forecast(config: dict[str, Any]) -> dict[str, Any]:
    """What an export would give, from shapes alone (no weights are read).

    Args:
        config: settings of the job.

    Returns:
        {to, engines, layers, packed_layers, bytes, peak_bytes, can_hold (formats that fit the model)}.

    Raises:
        UserError: for what a run would refuse.
    """
    from workbench.export.formats import FORMATS, holders

    found = plan(config)
    weights = sum(layer.out * layer.width for layer in found.shape.layers)
    table = found.shape.embedding[0] * found.shape.embedding[1] * (2 if found.shape.head else 1)
    tokens = found.full["samples"] * found.full["window"]
    return {
        "to": found.full["to"],
        "engines": FORMATS[found.full["to"]].engines,
        "layers": len(found.shape.layers),
        "packed_layers": len(found.shape.packed),
        "bytes": found.bytes,
        "peak_bytes": int(8 * (weights + table + found.shape.rest) + 12 * tokens * found.shape.embedding[0]),
        "can_hold": holders(found.shape),
    }


def run(run_context: RunContext) -> dict[str, Any]:
    """Export as the run's settings say.

    Args:
        run_context: of the job store.

    Returns:
        {to, path, file, bytes, check, seconds, engines, notes, settings, requantized}; only {stopped: True} when the run
        was stopped.

    Raises:
        UserError: for settings that do not fit the model.
        JobError: the disk is too small, or the second reader does not confirm the file.
    """
    from workbench.export import destination as places
    from workbench.export.export import REPORT, export_model

    def report(done: float, total: float, text: str) -> None:
        if run_context.should_stop():
            raise _Stopped
        run_context.progress(done, total, text)

    ready = plan(run_context.config)
    full = ready.full
    if full["destination"] is None:
        place = run_context.directory / "exported"
        shutil.rmtree(place, ignore_errors=True)
    else:
        place = Path(full["destination"])
        if getattr(run_context, "resumed", False) and (place / REPORT).is_file():
            from workbench.models.checks import read_json

            stored = read_json(place / REPORT)
            if stored.get("asked") == full:  # it was complete, only the run's own record was not
                return {key: value for key, value in stored.items() if key != "asked"}
        place = places.check_free(place)
    places.check_space(place, ready.bytes)
    try:
        report(0, 1, "loading the model")
        model, tokenizer, text, extra = load(ready, stretch(report, 0, 0.4))
        result = export_model(
            model, tokenizer, place, to=full["to"], text=text, name=ready.source.label, dtype=full["dtype"],
            embeddings=full["embeddings"], max_loss_change=full["max_loss_change"], extra={"asked": full, **extra},
            progress=stretch(report, 0.4, 1),
        )  # fmt: skip
    except _Stopped:
        return {"stopped": True}
    return result.to_dict() | extra


def load(ready: Plan, progress: Progress) -> tuple[Any, Any, list, dict[str, Any]]:
    """Model, tokenizer, windows of text, and what requantizing reports."""
    from workbench import models
    from workbench.export import gguf_tokenizer
    from workbench.training import load_tuned

    full, source = ready.full, ready.source
    if source.adapter is None:
        tokenizer = models.load_tokenizer(source.weights)
        text = windows(ready, tokenizer, full["samples"])  # before the weights load: bad text shows early
        if full["to"].startswith("gguf"):
            gguf_tokenizer.metadata(tokenizer, ready.shape.embedding[0])
        return models.load_model(source.weights), tokenizer, text, {}
    model, tokenizer = load_tuned(source.adapter)
    text = windows(ready, tokenizer, full["samples"])
    if not full["requantize"]:
        return model, tokenizer, text, {}
    from workbench.compress.quantizers import NEED_TEXT
    from workbench.export.requantize import requantize_tuned

    needs = getattr(model.get_base_model().config.quantization_config, "method", "rtn") in NEED_TEXT
    widest = max(layer.width for layer in ready.shape.layers)
    samples = max(32, -(-2 * widest // full["window"]))
    model, found = requantize_tuned(
        model, source.adapter, base=full["base"] or source.float_base, text=text,
        calibration=windows(ready, tokenizer, samples, "train") if needs else None, progress=progress,
    )  # fmt: skip
    return model, tokenizer, text, {"requantized": found}


def windows(ready: Plan, tokenizer: Any, samples: int, part: str = "test") -> list:
    """Windows of real text: of what the run was tuned on, the part it never saw; for calibration the part it did.

    Where the user names no text and the run's own is too short (or gone), a bundled one takes its place.
    """
    from workbench import data

    full, source = ready.full, ready.source
    length = min(full["window"], getattr(ready.shape.config, "max_position_embeddings", full["window"]))
    if source.data and full["data"] in (None, source.data):
        try:
            examples = data.split(data.load(source.data), seed=source.seed)[part]
            return data.calibration(examples, tokenizer, samples, length, full["seed"])
        except UserError:
            if full["data"] is not None:
                raise
    return data.calibration(data.load(full["data"] or TEXT), tokenizer, samples, length, full["seed"])
