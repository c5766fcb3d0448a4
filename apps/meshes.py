"""Pieces of the page Shapes that come from a run: the table of methods, the mesh to take home, and the figures' cells."""

from __future__ import annotations

import os
import re
from html import escape
from pathlib import Path
from typing import Any

from workbench.figures import formats
from workbench.geometry import job
from workbench.runs import Run

from . import html, live

PREVIEW = """from workbench.figures.shapes import surfaces
from workbench.geometry.job import DEFAULTS, cloud_of
from workbench.geometry.cloud import frame_of
from workbench.paths import runs_root

points = cloud_of({{**DEFAULTS, **{settings!r}, "cloud": {source}}})
surfaces({{"points": frame_of(points).inside(points)}}, title={title!r}, columns=1)"""
MESHES = """from workbench.figures.shapes import surfaces
from workbench.geometry.job import views
from workbench.runs import Store

surfaces(views(Store().get({id!r}).directory))"""
PLANE = """from workbench.figures.shapes import udf_slice
from workbench.geometry.job import slice_through
from workbench.runs import Store

cut = slice_through(Store().get({id!r}).directory, {method!r}, {axis!r}, {at!r})
udf_slice(**cut)"""


def rows_of(run: Run) -> list[dict[str, Any]]:
    """What was measured, a row per method."""
    return [row for row in live.metrics(run) if "method" in row]


def table_of(run: Run) -> str:
    """The rows as a table, and what a peer that gave no surface said."""
    rows = rows_of(run)
    known = any("f1" in row for row in rows)
    scores = ("F-score at 1 %", "Chamfer (10⁻³)", "Open edge kept") if known else ()
    head = ("Method", "Triangles", "Open edge", "Time", *scores)
    table = []
    for row in rows:
        cells = [row["method"], row.get("triangles"), row.get("open_edge"), formats.seconds(row["seconds"])]
        if known:
            rim = row.get("rim")
            cells += [row.get("f1"), row.get("chamfer"), "closed shape" if rim is None else f"{rim:.0%}"]
        table.append(cells)
    failed = "".join(html.note(f"{row['method']}: {row['failed']}", "caution") for row in rows if row.get("failed"))
    words = "Against the known surface: F-score is the share within 1 % of the longest side, Chamfer a mean distance."
    note = f'<p class="wb-small wb-muted" style="margin-top: 8px">{escape(words)}</p>' if known else ""
    return html.table(head, table, label="Methods") + note + failed


def download(run: Run, ending: str) -> str | None:
    """A copy of the run's own mesh where Gradio serves files from; its name is made from the run's."""
    from workbench.geometry.files import read_mesh, write_mesh

    source = run.directory / "meshes" / f"{job.OURS}.ply"
    if not source.is_file():
        return None
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", live.title(run)).strip("-")[:40] or "mesh"
    target = Path(os.environ["GRADIO_TEMP_DIR"]) / "meshes" / run.id / f"{stem}{ending}"
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mesh(read_mesh(source), target)
    return str(target)
