"""Which process works on a run, and is it still alive.

A process id alone lies: ids are reused. An owner is therefore (id, start time, where), with the start time as the
kernel counts it (field 22 of /proc/ID/stat) and `where` = host name, boot and process-id space. A zombie is dead. For
an owner on another host or in another container, whose ids mean nothing here, the age of its last sign of life decides
(the owner touches `worker.json` every two seconds).
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from workbench.runs.files import peek, read_json, write_json

OWNER = "worker.json"
STOP = "stop.json"
SIGN_OF_LIFE = 60.0  # seconds after which a silent owner elsewhere counts as gone


@functools.cache
def where() -> tuple[str, str, str]:
    """(host name, boot, process-id space) of this process."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    return (
        os.uname().nodename,
        boot.read_text().strip() if boot.is_file() else "",
        os.readlink(space) if space.is_symlink() else "",
    )


def start_time(pid: int) -> tuple[float, bool] | None:
    """(start time, is a zombie) of process `pid` on this machine, None when there is none."""
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
        return float(fields[19]), fields[0] in "ZX"
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time(), process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None


def identity(pid: int | None = None) -> dict[str, Any]:
    """The owner record of process `pid` (this one when None)."""
    pid = os.getpid() if pid is None else pid
    found = start_time(pid)
    return {"pid": pid, "started": found[0] if found else None, "where": list(where())}


def is_me(owner: dict[str, Any] | None) -> bool:
    """Whether `owner` is this process."""
    return owner is not None and owner == identity()


def alive(directory: Path) -> bool:
    """Whether the process that owns the run in `directory` still lives."""
    path = directory / OWNER
    owner = peek(path)
    there = owner and owner.get("where")
    if owner and there == list(where()):
        found = start_time(owner["pid"]) if isinstance(owner.get("pid"), int) else None
        return found is not None and found[0] == owner.get("started") and not found[1]
    if isinstance(there, list) and there[:1] == [where()[0]] and there[1:2] != [where()[1]]:
        return False  # this machine has been started anew since
    try:
        return time.time() - path.stat().st_mtime < SIGN_OF_LIFE
    except OSError:
        return False


def request_stop(directory: Path, by: str, grace: float) -> None:
    """Leave the request that `should_stop()` answers to; an earlier request keeps its time."""
    if read_json(directory / STOP) is None:
        write_json(directory / STOP, {"asked": time.time(), "by": by, "grace": grace})


def overdue(directory: Path) -> float:
    """How many grace periods have passed since a stop was asked for; 0 when none was."""
    request = peek(directory / STOP)
    if request is None:
        return 0.0
    try:
        return (time.time() - request["asked"]) / max(float(request["grace"]), 0.01)
    except (KeyError, TypeError, ValueError):
        return 0.0


def escalate(directory: Path) -> None:
    """Press a worker that does not stop: SIGTERM after one grace period, SIGKILL (its whole group) after two."""
    late = overdue(directory)
    owner = read_json(directory / OWNER)
    if late < 1 or owner is None or owner.get("where") != list(where()) or not alive(directory):
        return
    pid = owner["pid"]
    try:
        if late < 2:
            os.kill(pid, signal.SIGTERM)
        elif os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has just ended by itself


def spawn(directory: Path, cwd: str | None) -> dict[str, Any]:
    """Start the detached worker of a run: own session, no input, all output to its log. Returns its owner record."""
    import subprocess

    environment = {
        **os.environ,
        "WORKBENCH_RUNS": str(directory.parent),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with open(directory / "log.txt", "ab") as log:
        process = subprocess.Popen(
            # -P: neither the working folder nor the run folder is a place to import from.
            [sys.executable, "-P", "-m", "workbench.runs.worker", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd if cwd and os.path.isdir(cwd) else directory,
            env=environment,
            start_new_session=True,
        )
    owner = identity(process.pid)
    # Whoever started it must collect it when it ends, or it stays a zombie as long as this process lives.
    threading.Thread(target=process.wait, name=f"collect-{process.pid}", daemon=True).start()
    return owner
