"""Files of a run folder: JSON that is never half-written, one lock per store, plain data only.

A JSON file is written beside its place, flushed, and renamed over it, so a reader sees the old or the new content and
never a mixture, also after `kill -9`. The lock is `flock` on `<root>/.lock`: the system releases it when its process
ends, however it ends. Nothing is imported or unpickled from here; a file that cannot be read counts as absent.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
ALMOST_NOTHING = 1_000_000  # bytes: a disk with less free is called full, whatever words the failed library used

_seen: dict[str, tuple[tuple[int, int, int], dict[str, Any] | None]] = {}


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The object in `path`, or None when the file is absent, torn or not an object."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def peek(path: Path | str) -> dict[str, Any] | None:
    """`read_json` that reads a file again only when its inode, time or size changed: polling a thousand runs is cheap.

    The answer is shared; callers read it or copy it.
    """
    name = str(path)
    try:
        stat = os.stat(name)
    except OSError:
        return None
    stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    known = _seen.get(name)
    if known is None or known[0] != stamp:
        if len(_seen) > 20_000:
            _seen.clear()
        known = _seen[name] = (stamp, read_json(path))
    return known[1]


def write_json(path: Path, value: Any, *, flush: bool = True) -> None:
    """Replace `path` by `value` as JSON, all or nothing.

    Args:
        path: the file to replace.
        value: plain data (see `plain`).
        flush: wait until the disk has it; off for what is rewritten several times a second.

    Raises:
        OSError: when the disk is full or the folder read-only; `path` is then untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers of numpy and torch unpacked, NaN and infinity as null, paths as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "to_dict"):
        return plain(value.to_dict("records") if hasattr(value, "columns") else value.to_dict())
    return str(value)


@contextmanager
def locked(root: Path, seconds: float = 20.0) -> Iterator[None]:
    """Hold the store's lock; it is held for milliseconds, so waiting `seconds` means something hangs.

    Raises:
        UserError: when another process does not give it back in time.
        OSError: when the folder cannot be written to.
    """
    handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"Another process has held {root / '.lock'} for {seconds:.0f} s; end it, then try again."
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """Bytes this user may still write to the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether `error` means that the disk of `folder` has no room (some libraries say so in words only)."""
    number = getattr(error, "errno", None)
    if number in FULL or "No space left" in str(error) or "os error 28" in str(error):
        return True
    try:
        return free_bytes(folder) < ALMOST_NOTHING
    except OSError:
        return False


def trouble(error: OSError, root: Path) -> str:
    """One sentence for a run folder that cannot be written to."""
    if is_full(error, root if root.is_dir() else root.parent):
        return (
            f"The disk that holds {root} is full; free some space, or set WORKBENCH_RUNS to a folder on another disk."
        )
    return (
        f"Cannot write to the run folder {root} ({error.strerror or error}); "
        "set WORKBENCH_RUNS to a folder you can write to."
    )
