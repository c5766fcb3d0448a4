"""Re-run a paper's claim over seeds; write its badge when the run is enough for a verdict.

Every finished seed, and every finished piece of the seed in work (see `cells`), is kept in the user's cache until all
seeds are done, so a run that was killed goes on where it was. What is kept is thrown away as soon as the page, its blocks,
the scale or the machine's versions differ.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench import machine
from workbench.errors import JobError, UserError, choose
from workbench.papers import badge, cells
from workbench.papers.catalogue import load_card, load_page, module_name
from workbench.paths import home
from workbench.progress import Progress, part, silent

SCALES = ("smoke", "small", "full")


def reproduce(
    slug: str,
    scale: str = "small",
    seeds: int | Sequence[int] = 3,
    progress: Progress = silent,
    device: str | None = None,
    *,
    badges: Path | None = None,
    keep: Path | None = None,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a page's experiment for several seeds.

    Args:
        slug: the paper.
        scale: `smoke` (plumbing only), `small` (gives the verdict) or `full` (the paper's own setting).
        seeds: how many (0, 1, …) or which.
        progress: called with done, total, text.
        device: torch device name; None lets the page choose.
        badges: folder the badge is written to, by default `assets/findings`.
        keep: file that holds what is finished until all is done, by default one in the user's cache.
        each: called with every seed's record as soon as it is there.

    Returns:
        slug, holds, badge, seeds, rows, seconds, machine, versions; also claim, metric, threshold, scale, ran, note,
        date, command.

    Raises:
        UserError: unknown slug or scale, fewer than one seed, repeated seeds, a device this machine does not have.
        JobError: another process is reproducing this page and keeps its work in the same file.
    """
    card = load_card(slug)
    choose("scale", scale, SCALES)
    wanted = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not wanted or len(set(wanted)) != len(wanted) or min(wanted) < 0:
        raise UserError(f"Seeds {seeds!r} cannot be run; give a number of at least 1, or distinct seeds from 0 up.")
    check_device(device)
    page = load_page(slug)
    keep = keep or home() / "findings" / f"{slug}-{scale}.json"
    with only_one(keep, slug):
        return _run(page, card, scale, wanted, progress, device, badges, keep, each)


def _run(
    page: ModuleType, card: dict[str, Any], scale: str, wanted: list[int], progress: Progress, device: str | None,
    badges: Path | None, keep: Path, each: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:  # fmt: skip
    """The seeds one after the other; `reproduce` has checked its arguments and holds the lock."""
    slug, where = card["slug"], machine.describe()
    kept = kept_work(keep, fingerprint(card, scale, device))
    done, pieces = kept["seeds"], kept["pieces"]
    for index, seed in enumerate(wanted):
        if str(seed) not in done:
            start = time.monotonic()
            inner = part(progress, index / len(wanted), (index + 1) / len(wanted))
            before = pieces.setdefault(str(seed), {"seconds": 0.0, "cells": {}})
            spent = before["seconds"]

            def save(start: float = start, spent: float = spent, before: dict[str, Any] = before) -> None:
                before["seconds"] = spent + time.monotonic() - start
                badge.write_json(keep, kept)

            with cells.keeping(before["cells"], save):
                finding = page.experiment(scale=scale, seed=seed, device=device, progress=inner)
            done[str(seed)] = {
                "seed": seed,
                "margin": float(finding.margin) if math.isfinite(finding.margin) else None,
                "holds": bool(finding.holds),
                "seconds": round(spent + time.monotonic() - start, 1),
                "rows": json.loads(finding.rows.assign(seed=seed).to_json(orient="records", double_precision=10)),
                "ran": finding.ran,
                "note": finding.note,
            }
            del pieces[str(seed)]
            badge.write_json(keep, kept)
        if each:
            each(done[str(seed)])
    progress(1.0, 1.0, f"{slug}: {len(wanted)} seeds done")
    records = [done[str(seed)] for seed in wanted]
    verdict = badge.status([math.nan if r["margin"] is None else r["margin"] for r in records], scale)
    result = {
        "slug": slug,
        "holds": scale != "smoke" and all(record["holds"] for record in records),
        "badge": verdict if scale == "small" else "not run",
        **{key: card[key] for key in ("claim", "metric", "threshold")},
        "scale": scale,
        "seeds": [{key: record[key] for key in ("seed", "margin", "holds", "seconds")} for record in records],
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "machine": where.pop("machine"),
        "date": where.pop("date"),
        "versions": where,
        "command": f"workbench reproduce {slug} --scale {scale} --seeds {len(wanted)}",
        "ran": records[-1]["ran"],
        "note": records[-1]["note"],
        "rows": [row for record in records for row in record["rows"]],
    }
    if scale == "small" and verdict != "not run":
        badge.write_json(badge.path_of(slug, badges), result)
    keep.unlink(missing_ok=True)
    return result


@contextmanager
def only_one(keep: Path, slug: str) -> Iterator[None]:
    """Hold the kept work of a run alone: two processes would overwrite each other's finished pieces.

    Raises:
        JobError: when another process holds it; the system lets go when that process ends, however it ends.
    """
    keep.parent.mkdir(parents=True, exist_ok=True)
    with keep.with_suffix(".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobError(f"{slug} is being reproduced by another process; wait for it to end, or stop it.") from error
        yield


def check_device(device: str | None) -> None:
    """Refuse a device that this machine does not have, before anything is loaded."""
    if device is None or device == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"Device {device!r} is not available here ({error}); leave it out or write cpu.") from error


def fingerprint(card: dict[str, Any], scale: str, device: str | None) -> str:
    """16 hex digits of what kept work depends on: page and helpers, all sources beside its blocks, scale, device, versions."""
    digest = hashlib.sha256(json.dumps([scale, device, machine.versions("torch", "transformers", "peft")]).encode())
    folder = Path(__file__).parent
    sources = {folder / f"{module_name(card['slug'])}.py", *folder.glob("_[!_]*.py")}  # helpers of pages start with _
    for block in card["blocks"]:
        spec = importlib.util.find_spec(block)
        if spec is None or spec.origin is None:
            raise UserError(f"CARD of {card['slug']} names the block {block}, which does not exist; correct `blocks`.")
        sources.update(Path(spec.origin).parent.glob("*.py"))
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept_work(path: Path, print_of: str) -> dict[str, Any]:
    """What an interrupted run left behind, or nothing when it belongs to other sources."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if record.get("fingerprint") == print_of:
        return record
    return {"fingerprint": print_of, "seeds": {}, "pieces": {}}
