"""Point clouds as keys: shapes that are generated here, and files that were uploaded. Keys never are paths.

    shape:bunny             a known surface; points are drawn from it, with noise and outliers as asked
    cloud:HASH/NAME.ply     an uploaded file, kept beside the runs that use it

Which endings an upload may have is decided at the door (`choices`); this page takes those of them that hold points.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from workbench.errors import UserError, choose
from workbench.figures import formats
from workbench.geometry.cloud import check_cloud
from workbench.geometry.files import KNOWN, read_mesh
from workbench.geometry.shapes import SHAPES

from . import choices

KEY = re.compile(r"cloud:([0-9a-f]{12})/([\w. -]{1,120})")
LARGEST = 100_000_000  # bytes of one cloud


def endings() -> list[str]:
    """Endings of files of points that the app's door lets in."""
    return [ending for ending in KNOWN if ending in choices.DOOR]


def folder() -> Path:
    """Where uploaded clouds are kept: beside other uploads, one level deeper, so that no list of texts shows them."""
    return choices.upload_folder() / "clouds"


def known() -> list[tuple[str, str]]:
    """(label, key) of the shapes, and of uploaded clouds, newest first."""
    files = [p for p in folder().glob("*/*") if p.is_file() and not p.name.startswith(".")]
    files.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    return [(f"{name} · generated", f"shape:{name}") for name in SHAPES] + [
        (f"{p.name} · uploaded", f"cloud:{p.parent.name}/{p.name}") for p in files
    ]


def settings(key: str | None) -> dict[str, Any]:
    """The part of a reconstruction's settings that a key stands for.

    Raises:
        UserError: a key that names nothing.
    """
    key = str(key or "").strip()
    if key.startswith("shape:"):
        return {"shape": choose("shape", key[6:], SHAPES), "cloud": None}
    found = KEY.fullmatch(key)
    path = folder() / found[1] / found[2] if found else None
    if path is None or not path.is_file():
        raise UserError(f"{key[:80]!r} is no cloud the app knows; choose one from the list, or upload a file.")
    return {"cloud": str(path)}


def keep(path: str | Path) -> tuple[str, str]:
    """Check an uploaded file and keep it.

    Args:
        path: where Gradio has put it.

    Returns:
        Its key, and one sentence about what it holds.

    Raises:
        UserError: another kind of file, too large, unreadable, or points that make no surface.
    """
    path = Path(path)
    if path.suffix.lower() not in KNOWN:
        raise UserError(f"{path.name[:80]} is no file of points; give one of {', '.join(endings())}.")
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path.name[:80]} has {path.stat().st_size / 1e6:.0f} MB and {LARGEST / 1e6:.0f} are taken; thin it."
        )
    used = sum(p.stat().st_size for p in choices.upload_folder().rglob("*") if p.is_file())
    if used + path.stat().st_size > choices.KEPT_BYTES:
        raise UserError(
            f"Uploads already take {used / 1e6:.0f} MB of {choices.KEPT_BYTES / 1e6:.0f}; delete runs that use them."
        )
    given = read_mesh(path)
    if len(given.faces):
        words = f"{path.name} is a mesh of {formats.count(len(given.faces))} triangles; points are drawn from it."
    else:
        words = f"{path.name} holds {formats.count(len(check_cloud(given.vertices, path.name)))} distinct points."
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    name = re.sub(r"[^\w. -]", "_", path.name)[-100:].lstrip(". ") or "cloud.xyz"
    target = folder() / digest / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        half = target.with_name(f".{name}.part")
        shutil.copyfile(path, half)
        os.replace(half, target)
    return f"cloud:{digest}/{name}", words
