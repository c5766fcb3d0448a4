"""Measure variants of a model on the same held-out text, one finished cell at a time, then judge them together.

    variants × { perplexity, passage choice, bytes, speed } ─► cells (JSON, item-level answers kept) ─► rows, tests, ties

A cell is a file named by the hash of everything that decides its numbers: the variant's description, the texts, the
settings, the versions and the machine. It is written beside and renamed over; an interrupted comparison reads what is
there and measures only the rest.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.data.examples import Examples
from workbench.errors import JobError, UserError
from workbench.evaluation import cells as store
from workbench.evaluation.judging import judge, paired_tests
from workbench.progress import Progress, part, silent

FORMAT = 1  # part of every key: raise it when the measuring changes

Loader = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Variant:
    """One model of a comparison.

    Attributes:
        load: () → (model, tokenizer); called only when the cell is missing.
        description: JSON data that changes whenever the weights do (model, method, bits, file dates …).
        files: folders or files whose weights count as its size on disk; none where it was never saved.
    """

    load: Loader
    description: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What is measured of every variant: the equal budget. See `compare`."""

    window: int = 256
    tokens: int = 12_000
    items: int = 48
    choices: int = 4
    seed: int = 0
    prompt_tokens: int = 128
    new_tokens: int = 16
    repeats: int = 3


@dataclass(frozen=True)
class Comparison:
    """A judged comparison.

    Attributes:
        rows: one row per variant: name, perplexity, accuracy (each with _low, _high, _n, _tied), bits_per_byte, disk_bytes,
            ram_bytes, prefill_tps, decode_tps.
        tied_best: variants tied with the best on perplexity.
        tests: per variant and measure: name, reference, measure, difference, p, p_holm.
        cells: what was measured, by name, down to single answers.
        budget: what every variant was given.
        stopped: True when a stop was asked for before all cells were there; rows then hold the finished ones.
    """

    rows: pd.DataFrame
    tied_best: list[str]
    tests: list[dict[str, Any]]
    cells: dict[str, dict[str, Any]]
    budget: dict[str, Any]
    stopped: bool = False


def compare(
    variants: Mapping[str, Variant | Loader],
    examples: Examples,
    *,
    settings: Settings | None = None,
    folder: Path | None = None,
    reference: str | None = None,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Comparison:
    """Measure and judge.

    Args:
        variants: name → `Variant`, or a bare loader (then its name is all that tells its cell from others: keep one
            folder per comparison).
        examples: held-out text rows, at least two documents.
        settings: the same for all.
        folder: where cells are kept; None keeps none.
        reference: the variant that the others are tested against; the first by default.
        progress: overall progress.
        should_stop: asked at every step; finished cells are kept, the one at work is not.

    Raises:
        UserError: no variants, an unknown reference, data that cannot be measured on.
        JobError: variants that could not be measured; the cells of all others are finished and kept.
    """
    if not variants:
        raise UserError("There is nothing to compare; name at least one model.")
    reference = next(iter(variants)) if reference is None else reference
    if reference not in variants:
        raise UserError(f"The reference {reference!r} is not compared; choose one of: {', '.join(variants)}.")
    settings = settings or Settings()
    given = {name: v if isinstance(v, Variant) else Variant(v, {"name": name}) for name, v in variants.items()}
    store.prepare(folder)
    common = _common(examples, settings)
    ask = _Questions(examples, settings, folder, "questions-" + store.key(common))
    cells, failed = {}, []
    for number, (name, variant) in enumerate(given.items()):
        key = store.key(common, dict(variant.description))
        cell = store.read(folder, key)
        if cell is None and should_stop():
            break
        inner = part(progress, number / len(given), (number + 1) / len(given))
        if cell is None:
            try:
                cell = _measure(name, variant, examples, settings, ask, _interruptible(inner, should_stop))
            except _Stop:
                break
            except JobError as error:
                failed.append(f"{name}: {error}")
                continue
            store.write(folder, key, {"key": key, "description": dict(variant.description), **cell})
        # What this comparison calls it, and the file it has now, are no part of the measurement.
        cells[name] = {**cell, "row": {**cell["row"], "name": name, "disk_bytes": _disk(variant)}}
        inner(1, 1, f"{name}: perplexity {cell['row']['perplexity']:.4g}, accuracy {cell['row']['accuracy']:.2f}")
    if failed:
        raise JobError(
            f"{len(failed)} of {len(given)} variants could not be measured; the others are kept. " + " ".join(failed)
        )
    rows = judge(cells)
    return Comparison(
        rows=pd.DataFrame(rows), tied_best=[row["name"] for row in rows if row["perplexity_tied"]],
        tests=paired_tests(cells, reference) if reference in cells else [], cells=cells,
        budget=_budget(examples, settings, cells), stopped=len(cells) < len(given),
    )  # fmt: skip


def _disk(variant: Variant) -> int | None:
    from workbench.evaluation.meters import disk_bytes

    return sum(map(disk_bytes, variant.files)) if variant.files else None


def measure(
    name: str,
    model: Any,
    tokenizer: Any,
    examples: Examples,
    items: list,
    settings: Settings,
    progress: Progress = silent,
) -> dict[str, Any]:
    """One cell: {"row", "documents", "items", "speed", "memory"} of plain data.

    Args:
        name: of the variant, for errors and progress.
        model, tokenizer: loaded.
        examples: held-out text.
        items: questions from `passage_choice`; the same for all variants.
        settings: the budget.
        progress: over this cell.
    """
    from workbench.evaluation.choice import multiple_choice
    from workbench.evaluation.meters import PeakMemory, speed, weight_bytes
    from workbench.evaluation.perplexity import perplexity

    def step(start: float, stop: float) -> Progress:
        inner = part(progress, start, stop)
        return lambda done, total, text: inner(done, total, f"{name}: {text}")

    with PeakMemory() as peak:
        text = perplexity(
            model,
            tokenizer,
            examples,
            window=settings.window,
            max_tokens=settings.tokens,
            name=name,
            progress=step(0, 0.75),
        )
        choice = multiple_choice(model, tokenizer, items, step(0.75, 0.9), name=name)
        step(0.9, 1)(0, 1, "speed")
        fast = speed(model, tokenizer, settings.prompt_tokens, settings.new_tokens, settings.repeats)
    row = {
        "name": name, "perplexity": text.value, "perplexity_low": text.low, "perplexity_high": text.high,
        "perplexity_n": len(text.documents), "bits_per_byte": text.bits_per_byte, "accuracy": choice.value,
        "accuracy_low": choice.low, "accuracy_high": choice.high, "accuracy_n": len(choice.items), "disk_bytes": None,
        "ram_bytes": weight_bytes(model), "prefill_tps": fast.prefill_tps, "decode_tps": fast.decode_tps,
    }  # fmt: skip
    return store.plain({
        "row": row, "documents": text.documents.to_dict("records"), "items": choice.items.to_dict("records"),
        "speed": {**dataclasses.asdict(fast), "measured": fast.sentence()},
        "memory": {"peak_bytes": peak.bytes, "added_bytes": peak.added_bytes, "measured": peak.sentence()},
        "tokens": text.tokens, "stride": text.stride, "chance": choice.chance,
    })  # fmt: skip


class _Stop(Exception):
    """Raised from progress inside a cell when a stop is asked for."""


def _interruptible(progress: Progress, should_stop: Callable[[], bool]) -> Progress:
    def inner(done: float, total: float, text: str) -> None:
        if should_stop():
            raise _Stop
        progress(done, total, text)

    return inner


class _Questions:
    """The questions: made with the first variant's tokenizer, then the same for all, also after an interruption."""

    def __init__(self, examples: Examples, settings: Settings, folder: Path | None, key: str) -> None:
        self.examples, self.settings, self.folder, self.key = examples, settings, folder, key
        self.kept = store.read(folder, key)

    def __call__(self, tokenizer: Any) -> list:
        from workbench.evaluation.passages import Item, passage_choice

        if self.kept is None:
            s = self.settings
            made = passage_choice(self.examples, tokenizer, items=s.items, choices=s.choices, seed=s.seed)
            self.kept = {"items": [dataclasses.asdict(item) for item in made]}
            store.write(self.folder, self.key, self.kept)
        return [Item(**{**item, "choices": tuple(item["choices"])}) for item in self.kept["items"]]


def _measure(
    name: str, variant: Variant, examples: Examples, settings: Settings, ask: _Questions, progress: Progress
) -> dict[str, Any]:
    progress(0, 1, f"{name}: loading")
    begun = time.monotonic()
    model, tokenizer = variant.load()
    loaded = time.monotonic()
    try:
        cell = measure(name, model, tokenizer, examples, ask(tokenizer), settings, part(progress, 0.05, 1))
    finally:
        del model
        gc.collect()
    return {**cell, "loading_seconds": loaded - begun, "measuring_seconds": time.monotonic() - loaded}


def _common(examples: Examples, settings: Settings) -> dict[str, Any]:
    from workbench.machine import describe

    machine = {key: value for key, value in describe().items() if key != "date"}
    return {
        "format": FORMAT,
        "texts": store.key(examples.rows),
        "settings": dataclasses.asdict(settings),
        "machine": machine,
    }


def _budget(examples: Examples, settings: Settings, cells: Mapping[str, dict]) -> dict[str, Any]:
    from workbench.machine import describe

    first = next(iter(cells.values()), {})
    return {
        **dataclasses.asdict(settings), "data": examples.source, "documents": len(first.get("documents", [])),
        "predicted_tokens": first.get("tokens"), "stride": first.get("stride"), "chance": first.get("chance"),
        "machine": describe(),
    }  # fmt: skip
