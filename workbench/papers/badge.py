"""Badges are computed, never typed: `assets/findings/<slug>.json` is written by `reproduce` and judged by one rule.

Rule: at scale `small` with at least three seeds, `holds` = every seed's margin is positive; `partly` = their mean is;
else `fails`. Anything less, or a badge whose claim or threshold is no longer the card's, is `not run`.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.paths import assets, home

MIN_SEEDS = 3


def status(margins: Sequence[float], scale: str = "small") -> str:
    """The verdict on a list of margins, one per seed.

    Args:
        margins: signed distance to the threshold per seed; NaN (diverged) counts as not holding.
        scale: the scale that was run; `smoke` never gives a verdict.

    Returns:
        `holds`, `partly`, `fails` or `not run`.
    """
    if scale == "smoke" or len(margins) < MIN_SEEDS:
        return "not run"
    if all(margin > 0 for margin in margins):
        return "holds"
    mean = sum(margins) / len(margins)
    return "partly" if math.isfinite(mean) and mean > 0 else "fails"


def path_of(slug: str, folder: Path | None = None) -> Path:
    """Where a badge is written: `folder` (default: the shipped findings), or the cache when that is read-only."""
    folder = folder or assets() / "findings"
    return folder / f"{slug}.json" if os.access(folder, os.W_OK) or not folder.is_dir() else own_path(slug)


def own_path(slug: str) -> Path:
    """Where a badge goes when the installed findings cannot be written."""
    return home() / "findings" / f"{slug}.badge.json"


def read(slug: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The newest stored badge of a paper with its rows, or None when it was never run."""
    places = [folder / f"{slug}.json"] if folder else [assets() / "findings" / f"{slug}.json", own_path(slug)]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in places if path.is_file()]
    return max(records, key=lambda record: record["date"], default=None)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file in one step: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_current(record: dict[str, Any], card: dict[str, Any]) -> bool:
    """True while the badge speaks of the claim, metric and threshold that stand in the card."""
    return all(record.get(key) == card[key] for key in ("slug", "claim", "metric", "threshold"))


def status_of(card: dict[str, Any], folder: Path | None = None) -> str:
    """Status of a card from its stored badge, recomputed from the seeds' margins."""
    record = read(card["slug"], folder)
    if record is None or not is_current(record, card):
        return "not run"
    return status([math.nan if seed["margin"] is None else seed["margin"] for seed in record["seeds"]], record["scale"])
