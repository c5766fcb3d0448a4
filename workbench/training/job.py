"""The job `finetune` of the run store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.training.config import FinetuneConfig

if TYPE_CHECKING:
    from workbench.runs import RunContext


def run(context: RunContext) -> dict[str, Any]:
    """Fine-tune into the run's folder; resuming the run continues the same curve.

    Args:
        context: the run; its config holds the fields of `FinetuneConfig`.

    Returns:
        run, forecast, measured, metrics, path (of the tuned folder), stopped.

    Raises:
        UserError: settings that cannot work.
        JobError: training that could not go on.
    """
    from workbench.training.finetuning import finetune

    result = finetune(
        FinetuneConfig.from_dict(dict(context.config)),
        context.directory,
        progress=context.progress,
        should_stop=context.should_stop,
        log=context.log_metrics,
    )
    return {
        "run": context.directory.name,
        "forecast": result.forecast,
        "measured": result.measured,
        "metrics": result.metrics,
        "path": str(result.path),
        "stopped": result.stopped,
    }
