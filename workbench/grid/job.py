"""The job `grid` of the run store: cells live in the run's folder, so resuming the run goes on with the next cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.grid.settings import DEFAULTS

if TYPE_CHECKING:
    from workbench.runs import RunContext

__all__ = ["DEFAULTS", "run"]


def run(context: RunContext) -> dict[str, Any]:
    """Run the grid of a run's settings.

    Args:
        context: its config holds keys of `DEFAULTS`.

    Returns:
        rows, tied_best, budget, failed, left_out, path (of grid.json), report, stopped.

    Raises:
        UserError: a plan that cannot work.
        JobError: a cell's process was killed.
    """
    from workbench.grid.command import words
    from workbench.grid.running import run_grid

    found = run_grid(
        context.config, context.directory, progress=context.progress, should_stop=context.should_stop,
        command=words(context.config),
    )  # fmt: skip
    kept = {name: found[name] for name in ("rows", "tied_best", "failed", "left_out", "stopped")}
    return {
        **kept, "budget": {"asked": found["settings"]["budget"], "seeds": found["settings"]["seeds"],
                           "trials": found["settings"]["trials"], "machine": found["machine"]},
        "path": str(context.directory / "grid.json"), "report": str(context.directory / "report.html"),
    }  # fmt: skip
