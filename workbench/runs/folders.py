"""The folder that holds the runs: find one by its id, make one, sweep away what was left half-made or half-deleted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.runs.files import locked, trouble, write_json
from workbench.runs.processes import OWNER, identity
from workbench.runs.run import ID, Run

ABANDONED = 3600.0  # seconds after which a half-made or half-deleted folder is swept away
OWN = frozenset(  # what the store itself writes, before the job has made anything
    (
        "config.json",
        "status.json",
        "progress.json",
        "environment.json",
        "differences.json",
        "log.txt",
        "checkpoints",
        OWNER,
    )
)


def runs_in(root: Path) -> list[Run]:
    """All runs under `root`, unordered. Links and folders of other names are not runs.

    Raises:
        UserError: when `root` cannot be read or is no folder.
    """
    try:
        with os.scandir(root) as entries:
            return [
                Run(root / entry.name)
                for entry in entries
                if ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(trouble(error, root)) from error


def records_in(root: Path) -> list[tuple[Run, dict[str, Any]]]:
    """All runs with their record as it is now; a folder that vanishes meanwhile is left out."""
    found = []
    for run in runs_in(root):
        with suppress(UserError):
            found.append((run, run.record()))
    return found


def find(root: Path, id: str) -> Run:
    """The run called `id`, which a user may have typed: it is compared with names, never made into a path.

    Raises:
        UserError: when it is not a run id, or there is no such run.
    """
    if not isinstance(id, str) or not ID.fullmatch(id):
        raise UserError(f"{str(id)[:80]!r} is not a run id; they look like 20250611-143055-finetune-a1b2.")
    known = {run.id: run for run in runs_in(root)}
    if id not in known:
        import difflib

        near = difflib.get_close_matches(id, known, n=2, cutoff=0.8)
        hint = f"did you mean {' or '.join(near)}?" if near else "see: workbench runs"
        raise UserError(f"There is no run {id} in {root}; {hint}")
    return known[id]


def create(root: Path, job: str, config: dict[str, Any], last_place: Callable[[], int], **fields: Any) -> Run:
    """Make a whole folder beside the others, then rename it into place: nobody ever sees half of one.

    Args:
        root: the folder of runs, made when absent.
        job: a known job.
        config: plain settings.
        last_place: asked, with the lock held, for the place at the end of the queue.
        fields: more of the status (name, held, foreground).

    Raises:
        OSError: when the disk is full or read-only; nothing is left behind.
    """
    root.mkdir(parents=True, exist_ok=True)
    now = time.time()
    id = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{job}-{os.urandom(2).hex()}"
    folder = root / f".new-{id}-{os.getpid()}"
    try:
        (folder / "checkpoints").mkdir(parents=True)
        write_json(folder / "config.json", config)
        if fields.get("foreground"):
            write_json(folder / OWNER, identity())
        with locked(root):
            record = {
                "status": "queued",
                "created": now,
                "attempt": 0,
                "position": last_place(),
                "error": None,
                "cwd": os.getcwd(),
                "history": [{"status": "queued", "time": now, "process": os.getpid()}],
                **fields,
            }
            write_json(folder / "status.json", record)
            os.rename(folder, root / id)
    except BaseException:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Run(root / id)


def remove_if_untouched(run: Run) -> None:
    """After bad input: a folder in which the job has done nothing is not worth keeping."""
    import shutil

    if not run.directory.is_dir():
        return
    extra = {path.name for path in run.directory.iterdir()} - OWN
    if not extra and not any((run.directory / "checkpoints").iterdir()):
        shutil.rmtree(run.directory)


def sweep(root: Path) -> None:
    """Remove what a crash left in the middle of making or deleting a run."""
    import shutil

    for path in (*root.glob(".trash-*"), *root.glob(".new-*")):
        with suppress(OSError):  # another process sweeps too
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path)


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings as JSON gives them back; a setting that JSON cannot hold is refused by name."""
    if not isinstance(config, dict):
        raise UserError(f"Settings are a dict of names and values, not {type(config).__name__}.")
    for key, value in config.items():
        try:
            json.dumps({key: value}, allow_nan=False, default=_path_text)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"The setting {key!r} cannot be stored ({error}); use numbers, text, lists and dicts."
            ) from None
    return json.loads(json.dumps(config, default=_path_text))


def _path_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def clean_name(name: str | None) -> str | None:
    """A name on one line, without control characters; empty becomes None."""
    if name is None:
        return None
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in str(name)).split())
    if len(name) > 80:
        raise UserError(f"The name is {len(name)} letters long; 80 is the limit.")
    return name or None
