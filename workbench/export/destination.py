"""Where an export goes: complete under its final name, or not there at all.

Everything is written into a hidden folder beside the destination, read back there, and renamed at the end. A killed export
leaves that folder; the next one to the same destination removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import JobError, UserError


def check_free(destination: Path) -> Path:
    """The absolute path, when nothing is there yet.

    Raises:
        UserError: it exists (an empty folder is fine), or its parent is no folder.
    """
    path = Path(destination).expanduser().absolute()
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another destination, or delete it first.")
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{above} is not a folder that can be written to; choose another destination.")
    return path


def check_space(destination: Path, needed: int) -> None:
    """Refuse before the first byte what the disk cannot take.

    Args:
        destination: where the export will lie.
        needed: its bytes.

    Raises:
        JobError: fewer than 1.1 times that are free.
    """
    above = next(parent for parent in (destination, *destination.parents) if parent.is_dir())
    free = shutil.disk_usage(above).free
    if free < 1.1 * needed:
        raise JobError(
            f"The export takes {needed / 1e6:.3g} MB, but the disk of {above} has {free / 1e6:.3g} MB left; free some "
            "space or choose another destination (-o)."
        )


@contextmanager
def draft(destination: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `destination` when the block ends well and removed when it does not.

    Raises:
        JobError: the disk filled up meanwhile, or somebody made the destination.
    """
    import psutil

    for stale in destination.parent.glob(f".{destination.name}.part-*"):
        owner = stale.name.rpartition("-")[2]
        if not owner.isdigit() or int(owner) == os.getpid() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(stale, ignore_errors=True)
    part = destination.with_name(f".{destination.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.rglob(
            "*"
        ):  # safetensors writes files that only their owner reads; engines run as somebody else
            file.chmod(file.stat().st_mode | (part.stat().st_mode & 0o444))
        os.replace(part, destination)
    except OSError as error:
        reason = error.strerror or str(error)
        raise JobError(
            f"{destination} could not be written ({reason}); free some space or choose another place."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
