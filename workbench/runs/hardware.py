"""What this machine has (cores, memory, GPUs, free disk), and the record kept beside every run."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

from workbench import __version__, paths
from workbench.errors import UserError
from workbench.runs.files import free_bytes

PACKAGES = ("accelerate", "datasets", "gradio", "numpy", "pandas", "peft", "plotly", "safetensors", "scikit-learn")


def nearest(path: Path) -> Path:
    """The nearest folder at or above `path` that exists."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


@functools.cache
def _ask_nvidia_smi() -> tuple[tuple[str, int], ...]:
    import shutil
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()  # the tool is there, the driver is not
    rows = (line.rpartition(",") for line in answer.splitlines() if "," in line)
    return tuple((name.strip(), int(size) * 2**20) for name, _, size in rows if size.strip().isdigit())


def gpus() -> list[dict[str, Any]]:
    """Name and memory (bytes) of each GPU; torch is asked only if something else has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": device.name, "memory_bytes": device.total_memory} for device in devices]
    return [{"name": name, "memory_bytes": size} for name, size in _ask_nvidia_smi()]


def hardware(path: Path | None = None) -> dict[str, Any]:
    """Cores this process may use, memory and free disk in bytes, GPUs.

    Args:
        path: whose disk is meant (default: the run folder's).
    """
    from workbench import machine

    return {
        "processor": machine.processor(),
        "cores": machine.cores(),
        "memory_bytes": machine.memory_bytes(),
        "gpus": gpus(),
        "disk_free_bytes": free_bytes(nearest(path or paths.runs_root())),
    }


def require_space(path: Path, needed: float, what: str = "This run") -> None:
    """Compare a forecast with the free disk before anything starts; a twentieth is kept in reserve.

    Args:
        path: folder to be written to (need not exist).
        needed: forecast of the files, in bytes.
        what: subject of the sentence.

    Raises:
        UserError: when the disk of `path` has less.
    """
    free = free_bytes(nearest(path))
    if needed * 1.05 > free:
        raise UserError(
            f"{what} writes about {needed / 1e6:,.0f} MB and the disk of {path} has {free / 1e6:,.0f} MB free; "
            "free some space, or set WORKBENCH_RUNS to a folder on a larger disk."
        )


def environment(config: dict[str, Any], command: str) -> dict[str, Any]:
    """The record of one attempt: machine, versions, seed, command. No environment variables: they may hold secrets."""
    from workbench import machine

    return {
        **machine.describe(),
        "workbench": __version__,
        "packages": machine.versions(*PACKAGES),
        "hardware": hardware(),
        "seed": config.get("seed"),
        "command": command,
        "executable": sys.executable,
        "folder": os.getcwd(),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def command() -> str:
    """Program and subcommand of this process; its other arguments may hold a password and stay out of the record."""
    return " ".join([Path(sys.argv[0]).name, *(word for word in sys.argv[1:2] if word.isalpha())])
