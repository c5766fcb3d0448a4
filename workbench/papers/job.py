"""The job `reproduce` of the run store: the same function, with live metrics, stop and resume per seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.papers.reproduction import reproduce

if TYPE_CHECKING:
    from workbench.runs import RunContext

OPTIONS = ("slug", "scale", "seeds", "device")


class Stopped(Exception):
    """Raised inside the experiment when the user asked the run to stop."""


def run(context: RunContext) -> dict[str, Any]:
    """Reproduce `context.config["slug"]`; finished seeds stay in the run folder, so resuming skips them.

    Args:
        context: the run; its config holds slug and, when not the defaults, scale, seeds, device.

    Returns:
        The result of `reproduce`, or `{"stopped": True, "slug": …}` when the user stopped it.

    Raises:
        UserError: when the config has no slug or a key nobody knows.
    """
    config = dict(context.config)
    unknown = sorted(set(config) - set(OPTIONS))
    if unknown or "slug" not in config:
        what = f"does not know {', '.join(unknown)}" if unknown else "needs a slug"
        raise UserError(f"The job reproduce {what}; its options are {', '.join(OPTIONS)}.")

    def progress(done: float, total: float, text: str) -> None:
        if context.should_stop():
            raise Stopped
        context.progress(done, total, text)

    def each(seed: dict[str, Any]) -> None:
        context.log_metrics(seed=seed["seed"], margin=seed["margin"], seconds=seed["seconds"])

    try:
        return reproduce(**config, progress=progress, keep=context.directory / "seeds.json", each=each)
    except Stopped:
        return {"stopped": True, "slug": config["slug"]}
