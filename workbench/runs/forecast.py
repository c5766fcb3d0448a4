"""The job `forecast`: what a fine-tuning with these settings will cost, from two real steps that change nothing.

A page asks for it before Start; as a job it waits its turn like any other, so it never competes with the run it measures
beside. Its settings are those of the job `finetune`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.runs.context import RunContext


def run(context: RunContext) -> dict[str, Any]:
    """Forecast seconds, peak memory, file size and trained parameters.

    Args:
        context: the run; its config holds the fields of `FinetuneConfig`.

    Returns:
        the fields of `workbench.training.Forecast`.

    Raises:
        UserError: settings that cannot work.
    """
    from workbench.training import FinetuneConfig, forecast

    context.progress(0, 1, "two steps that change nothing")
    found = forecast(FinetuneConfig.from_dict(dict(context.config)))
    context.progress(1, 1, "done")
    return dataclasses.asdict(found)
