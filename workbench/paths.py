"""Where things live: shipped assets, the user's cache, the run folder."""

from __future__ import annotations

import os
from pathlib import Path


def assets() -> Path:
    """Folder of shipped data and weights: `assets/` of a checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


def home() -> Path:
    """Cache for converted weights (environment variable `WORKBENCH_HOME`, default `~/.cache/workbench`)."""
    return Path(os.environ.get("WORKBENCH_HOME") or Path.home() / ".cache" / "workbench")


def runs_root() -> Path:
    """Folder that holds one folder per run (environment variable `WORKBENCH_RUNS`, default `./runs`)."""
    return Path(os.environ.get("WORKBENCH_RUNS") or "runs")
