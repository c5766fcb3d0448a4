"""The job store: a folder per run, a detached worker per job, one heavy job at a time. Standard library only.

    from workbench.runs import Store
    run = Store().submit("finetune", {"model": "tiny-lm", "data": "moby-dick"})
    run.status, run.progress, run.metrics()[-1]

Command line, notebook and app read the same folders; none of them has to stay open while a job runs.
"""

from workbench.runs.compare import compare_configs, differences
from workbench.runs.context import RunContext
from workbench.runs.execute import RunStopped
from workbench.runs.hardware import hardware, require_space
from workbench.runs.jobs import JOBS
from workbench.runs.metrics import Rows, merge
from workbench.runs.run import Run
from workbench.runs.store import Store

__all__ = [
    "JOBS",
    "Rows",
    "Run",
    "RunContext",
    "RunStopped",
    "Store",
    "compare_configs",
    "differences",
    "hardware",
    "merge",
    "require_space",
]
