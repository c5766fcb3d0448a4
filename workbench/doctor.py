"""`workbench doctor`: is this machine ready, and which command closes each gap."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
from typing import Any

from workbench import machine, paths
from workbench.errors import JobError, UserError

ROOM_FOR_DEMO = 3_000_000_000  # bytes: tuned and compressed copies of a 135 M-parameter model, with checkpoints
MEMORY_FOR_DEMO = 4_000_000_000  # bytes


def check(name: str, ok: bool, found: str, fix: str = "", optional: bool = False) -> dict[str, Any]:
    """One line of the report."""
    return {"name": name, "ok": bool(ok), "found": found, "fix": "" if ok else fix, "optional": optional}


def requirements() -> list[tuple[str, str, str]]:
    """(package, specifier, installed version or `absent`) of every hard dependency, read from our own metadata."""
    rows = []
    for line in importlib.metadata.requires("workbench") or []:
        text, _, marker = line.partition(";")
        if "extra ==" in marker:
            continue
        name, specifier = re.match(r"([A-Za-z0-9._-]+)\s*(.*)", text.strip()).groups()
        rows.append((name, specifier, machine.versions(name)[name]))
    return rows


def checks() -> list[dict[str, Any]]:
    """Every check, cheap ones only: nothing is imported that takes more than a second, nothing is trained."""
    from packaging.specifiers import SpecifierSet

    from workbench.models import list_models

    report = [
        check("python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
    ]
    for name, specifier, version in requirements():
        fits = version != "absent" and SpecifierSet(specifier).contains(version, prereleases=True)
        if not fits:
            report.append(check(name, False, f"{version}, needs {specifier}", f'pip install "{name}{specifier}"'))
    if len(report) == 1:
        report.append(check("packages", True, f"{len(requirements())} as required"))
    for model in list_models():
        report.append(
            check(
                model.name,
                model.at_hand,
                "at hand" if model.at_hand else "not installed",
                model.how_to_get,
                optional=model.name != "tiny-lm",
            )
        )
    memory = machine.memory_bytes()
    report.append(
        check(
            "memory",
            memory >= MEMORY_FOR_DEMO,
            f"{memory / 1e9:.1f} GB",
            "the demo needs about 4 GB; use --model tiny-lm",
            optional=True,
        )
    )
    root = paths.runs_root()
    report += [_runs_folder(root), _job_store()]
    nearest = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    report.append(
        check(
            "disk",
            free >= ROOM_FOR_DEMO,
            f"{free / 1e9:.1f} GB free",
            f"free {ROOM_FOR_DEMO / 1e9:.0f} GB, or set WORKBENCH_RUNS to a larger disk",
        )
    )
    report.append(
        check(
            "gpu",
            shutil.which("nvidia-smi") is not None,
            "found" if shutil.which("nvidia-smi") else "none: everything runs on the CPU",
            "nothing to fix; with an NVIDIA GPU: make demo GPU=1",
            optional=True,
        )
    )
    return report


def _runs_folder(root) -> dict[str, Any]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root):
            return check("run folder", True, str(root))
    except OSError as error:
        return check(
            "run folder", False, f"{root}: {error.strerror}", "set WORKBENCH_RUNS to a folder you can write to"
        )


def _job_store() -> dict[str, Any]:
    """Run a short real job (a digit classifier) in a throw-away store."""
    from workbench.runs import Store

    with tempfile.TemporaryDirectory() as folder:
        try:
            result = Store(folder).run_here("selftest", {"steps": 50})
        except (UserError, JobError) as error:
            return check("job store", False, str(error), "run the tests of the store: pytest tests/runs")
    return check("job store", True, f"a test job ran to its end (accuracy {result['accuracy']:.2f})")
