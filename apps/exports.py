"""Exports on the page Compress: a model as files for other engines, confirmed by a second reader before they are offered."""

from __future__ import annotations

import os
import re
import zipfile
from html import escape
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.export.formats import FORMATS
from workbench.figures import formats
from workbench.progress import span
from workbench.runs import Run

from . import choices, html, live

LARGEST = 2_000_000_000  # bytes that are packed for a download
CHOICES = [(f"{name} · {found.text.partition(',')[0]}", name) for name, found in FORMATS.items()]


def source(model: str, run: Run | None) -> str:
    """The key of what would be exported: what the run in view has made, else the model on the left."""
    if run is not None and choices.made_by(run):
        return f"run:{run.id}"
    return model


def compressed(run: Run | None) -> Run | None:
    """The run itself; of an export, the run whose model it wrote, where there is one."""
    if run is None or run.job != "export":
        return run
    key = str(choices.shown(live.config(run).get("model", "")))
    return live.find(key[4:].partition("/")[0]) if key.startswith("run:") else None


def report(run: Run) -> str:
    """What the second reader found, in words and numbers."""
    found = run.result() or {}
    if "check" not in found:
        return ""
    check = found["check"]
    pairs = {
        "Format": found["to"],
        "On disk": formats.size(found["bytes"]),
        "Time": span(found["seconds"]),
        "Read back by": check["reader"],
        "Differs from its weights by": f"{check['layout']:.1g}",
        "Loss before → after": f"{check['loss_before']:.3f} → {check['loss_after']:.3f} nats",
        "Same first word": f"{check['agreement']:.1%} of {formats.count(check['tokens'])} tokens",
    }
    good = f"Read back and compared: the file gives the model's own logits. It runs in {found['engines']}."
    notes = "".join(f'<p class="wb-small wb-muted">{escape(words)}</p>' for words in found.get("notes", []))
    return html.facts(pairs) + html.note(good, "good") + notes


def folder(run: Run) -> Path | None:
    """Where a finished export lies, inside the run's own folder."""
    place = Path((run.result() or {}).get("path", ""))
    return place if place.is_dir() and place.is_relative_to(run.directory) else None


def download(run: Run) -> str | None:
    """The one file of the export, or its folder as a zip, where Gradio serves files from; None when it is too large."""
    place = folder(run)
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place else []
    if not files or sum(path.stat().st_size for path in files) > LARGEST:
        return None
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", live.title(run)).strip("-")[:40] or "model"
    single = [path for path in files if path.suffix == ".gguf"]
    target = Path(os.environ["GRADIO_TEMP_DIR"]) / "exports" / run.id / (single[0].name if single else f"{stem}.zip")
    if target.is_file():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.part")
    if single:
        half.write_bytes(single[0].read_bytes())
    else:
        with zipfile.ZipFile(half, "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                archive.write(path, path.relative_to(place))
    os.replace(half, target)
    return str(target)


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of an export, with places for its keys; what the format cannot hold is refused from shapes alone.

    Raises:
        UserError: a folder as destination (the app exports into the run's own), or what the job refuses.
    """
    from workbench.export.job import plan
    from workbench.export.job import settings as check

    full = check(config)
    if full["destination"] is not None:
        raise UserError("The app exports into the run's own folder; leave the setting destination out.")
    full["model"] = choices.model_place(full["model"])
    if full["base"] is not None:
        full["base"] = choices.model_place(full["base"])
    if full["data"] is not None:
        full["data"] = choices.data_place(full["data"])
    plan(full)
    return full
