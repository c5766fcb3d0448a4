"""What a user may name, as keys that never are paths: models, data sets, uploads. The server turns keys into places.

    tiny-lm                     a bundled model or data set
    run:20250611-…-a1b2         what a run made (`/NAME` picks one of several)
    folder:NAME                 a model folder inside the directory WORKBENCH_MODELS names when the app starts
    upload:HASH/NAME            a file that was uploaded; it is kept beside the runs that use it
    owner/name                  a hub id

Nothing typed is ever opened as a path: a key that is none of these is refused, also when a file of that name exists.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from workbench.errors import UserError, choose
from workbench.paths import runs_root
from workbench.runs import Run, Store

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".md", ".parquet")
DOOR = (*SUFFIXES, ".ply", ".obj", ".xyz", ".pts")  # what any page takes: texts, tables, clouds of points
KEPT_BYTES = 2_000_000_000  # of all uploads together
HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
HUB_DATA = re.compile(HUB.pattern + r"(?::[\w.-]{1,96})?(?:#[\w.\[\]:%-]{1,96})?")
UPLOAD = re.compile(r"upload:([0-9a-f]{12})/([\w. -]{1,120})")


# ---- models


def made_by(run: Run) -> dict[str, Path]:
    """Name → folder of the models in a run's folder; the name is empty where there is only one."""
    if run.job == "demo":
        folder = run.directory / "models"
        names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        return {name: folder / name for name in names if not name.startswith(".")}
    if run.job == "grow":
        places = {"grown": run.directory / "grown", "trained": run.directory / "arms" / "grown" / "tuned"}
        return {name: folder for name, folder in places.items() if folder.is_dir()}
    folder = {"finetune": "tuned", "quantize": "packed", "prune": "pruned"}.get(run.job)
    return {"": run.directory / folder} if folder and (run.directory / folder).is_dir() else {}


def run_models(runs: Iterable[Run], title) -> list[tuple[str, str]]:
    """(label, key) of every model that runs have made."""
    return [
        (" · ".join(filter(None, [title(run), name])), f"run:{run.id}" + (f"/{name}" if name else ""))
        for run in runs
        for name in made_by(run)
    ]


def folders() -> dict[str, Path]:
    """Model folders the server offers: those inside the directory that WORKBENCH_MODELS names."""
    root = os.environ.get("WORKBENCH_MODELS")
    if not root or not Path(root).is_dir():
        return {}
    return {p.name: p for p in sorted(Path(root).iterdir()) if p.is_dir() and not p.name.startswith(".")}


def base_models(encoders: bool = False) -> list[tuple[str, str]]:
    """(label, key) of bundled models at hand and offered folders."""
    from workbench.figures.formats import parameters
    from workbench.models import list_models

    bundled = [m for m in list_models() if m.at_hand and (encoders or "CausalLM" in m.architecture)]
    return [(f"{m.name} · {parameters(m.parameters)} parameters", m.name) for m in bundled] + [
        (f"{name} · folder", f"folder:{name}") for name in folders()
    ]


def model_place(key: str | None) -> str:
    """What a loader takes for a key: a name, a hub id, or a folder of this server.

    Raises:
        UserError: a key that names nothing the app offers.
    """
    from workbench.models import list_models

    key = str(key or "").strip()
    if key.startswith("run:"):
        id, _, name = key[4:].partition("/")
        made = made_by(Store().get(id))
        if not made:
            raise UserError(f"The run {id} has made no model yet; wait for it, or choose another.")
        return str(made[choose(f"model in run {id}", name, made)])
    if key.startswith("folder:"):
        known = folders()
        return str(known[choose("model folder", key[7:], known)])
    if key in {model.name for model in list_models()}:
        return key
    if HUB.fullmatch(key) and not Path(key).exists():
        return key
    raise UserError(
        f"{key[:80]!r} is not a model the app knows; choose one from the list, or give a hub id such as owner/name."
    )


# ---- data


def data_sets(kind: str | None = None) -> list[tuple[str, str]]:
    """(label, key) of bundled data sets and of uploads."""
    from workbench.data import list_data

    bundled = [(f"{d.name} · {d.kind}, {d.documents} documents", d.name) for d in list_data() if kind in (None, d.kind)]
    return bundled + [(f"{name} · uploaded", key) for key, name in uploads().items()]


def upload_folder() -> Path:
    """Where uploads are kept: beside the runs that use them."""
    return runs_root().absolute() / ".uploads"


def uploads() -> dict[str, str]:
    """Key → file name of every upload, newest first."""
    folder = upload_folder()
    files = [p for p in folder.glob("*/*") if p.is_file()] if folder.is_dir() else []
    files.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    return {f"upload:{p.parent.name}/{p.name}": p.name for p in files}


def data_place(key: str | None) -> str:
    """What `workbench.data.load` takes for a key.

    Raises:
        UserError: a key that names nothing the app offers.
    """
    from workbench.data import list_data

    key = str(key or "").strip()
    if not key:
        raise UserError("No data is chosen; choose a bundled text, upload a file, or give a hub id such as owner/name.")
    if key.startswith("upload:"):
        found = UPLOAD.fullmatch(key)
        path = upload_folder() / found[1] / found[2] if found else None
        if path is None or not path.is_file():
            raise UserError(f"{key[:80]!r} is not an uploaded file any more; upload it again.")
        return str(path)
    if key in {entry.name for entry in list_data()}:
        return key
    suffix = Path(re.split("[#:]", key)[0]).suffix.lower()
    if HUB_DATA.fullmatch(key) and suffix not in SUFFIXES and not Path(key).exists():
        return key
    raise UserError(
        f"{key[:80]!r} is not a data set the app knows; choose one from the list, upload a file, or give a hub id "
        "such as owner/name."
    )


def keep_upload(path: str | Path) -> str:
    """Check an uploaded file and keep it; returns its key.

    Args:
        path: where Gradio has put it.

    Raises:
        UserError: a type that is not text or a table, content that is not what the name says, no room.
    """
    path = Path(path)
    check_type(path.name)
    check_content(path)
    folder = upload_folder()
    used = sum(p.stat().st_size for p in folder.glob("*/*")) if folder.is_dir() else 0
    if used + path.stat().st_size > KEPT_BYTES:
        raise UserError(
            f"Uploads already take {used / 1e6:.0f} MB of {KEPT_BYTES / 1e6:.0f}; delete runs that use them."
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    name = re.sub(r"[^\w. -]", "_", path.name)[-100:].lstrip(". ") or "data.txt"
    target = folder / digest / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        half = target.with_name(f".{name}.part")
        shutil.copyfile(path, half)
        os.replace(half, target)
    return f"upload:{digest}/{name}"


def for_page(sentence: str) -> str:
    """A complaint about data as a page says it: without the folder of uploads, and with the page's form in place of options."""
    text = re.sub(re.escape(f"{upload_folder()}{os.sep}") + r"[0-9a-f]{12}[/\\]", "", sentence)
    text = re.sub(
        r" or say which to use, for example columns=.*", " or choose one under “What is a row?”.", text, flags=re.S
    )
    return re.sub(r" Else name them: --column .*", " Else choose them under “More” below the law.", text, flags=re.S)


def check_type(name: str, endings: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse a file whose ending is none of those a page takes.

    Args:
        name: of the file.
        endings: texts and tables, or everything that some page takes (`DOOR`).

    Raises:
        UserError: with the endings that are taken.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in endings:
        raise UserError(
            f"{Path(name).name[:80]} ends in {suffix or 'nothing'}; the app takes text and tables: {', '.join(endings)}."
        )


def check_content(path: Path) -> None:
    """Refuse a file whose content is not what its ending says.

    Raises:
        UserError: nothing in it, binary content under a text ending, or a .parquet file that is none.
    """
    if not path.stat().st_size:
        raise UserError(f"{path.name} is empty; give a file with data.")
    with path.open("rb") as file:
        start = file.read(65_536)
    if path.suffix.lower() == ".parquet":
        if start[:4] != b"PAR1":
            raise UserError(f"{path.name} is not a parquet file; save the table as .parquet, .csv or .jsonl again.")
    elif b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path.name} holds binary data, not text; export it as UTF-8 text, .csv or .jsonl.")


def shown(value: object) -> object:
    """A setting as pages show it: a folder of this server becomes the key that stands for it."""
    if isinstance(value, list):
        return [shown(entry) for entry in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path = Path(value)
    root = runs_root().absolute()
    if path.is_relative_to(root / ".uploads"):
        return path.name
    if path.is_relative_to(root):
        parts = path.relative_to(root).parts
        name = {"models": parts[2:3], "grown": ("grown",), "arms": ("trained",)}.get(parts[1] if parts[1:] else "")
        return f"run:{parts[0]}" + (f"/{name[0]}" if name else "")
    return path.name
