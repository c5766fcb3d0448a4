"""The job `grow` of the run store: a grown copy of a model, and what further training makes of it and of the small one.

    RUN/grown            the model as it grew, before any further step
    RUN/growth.json      its size, cost and the layers it came from
    RUN/arms/ARM/        two fine-tunings of all weights, `small` and `grown`, at equal FLOP; a resumed run goes on in them

Arms are compared by training FLOP (three times twice the multiplications of a forward pass, counted), not by steps: a step of
the grown model costs more. What the small model cost before is the same for both and is left out.

Source: Du et al., NeurIPS 2024, arXiv 2405.15319.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError, check_whole, choose, with_defaults
from workbench.models.growth_plan import OPERATORS
from workbench.progress import part
from workbench.runs.files import read_json, write_json

if TYPE_CHECKING:
    from workbench.runs import RunContext

DEFAULTS: dict[str, Any] = {
    "model": "tiny-lm",
    "operator": "stack",
    "factor": 2,
    "noise": 0.01,
    "data": "moby-dick",
    "steps": 60,
    "learning_rate": 1e-3,
    "seed": 0,
}
ARMS = ("small", "grown")
WINDOW, BATCH, EVALUATIONS = 128, 8, 6
PASSES = 3  # a training step in forward passes: the backward one costs twice


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Settings filled up with the defaults.

    Args:
        config: model, operator, factor, noise and seed as for `grow`; data, steps of the grown model (0: only grow it),
            learning_rate of both.

    Raises:
        UserError: an unknown setting or a value that cannot be.
    """
    full = with_defaults("A growth", config, DEFAULTS)
    choose("growth operator", str(full["operator"]), OPERATORS)
    check_whole(full, {"factor": (2, 8), "steps": (0, 100_000), "seed": (0, 2**31)})
    for name, high in (("noise", 1.0), ("learning_rate", 1.0)):
        value = full[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
            raise UserError(f"{name} is {value!r}; it takes a number from 0 to {high:g}.")
    return full


def run(context: RunContext) -> dict[str, Any]:
    """Grow, then train both models on.

    Returns:
        {"path", "operator", "origins", "parameters", "flop_per_step", "steps", "start", "end"}: the middle ones by arm; "start"
        and "end" are held-out losses. `stopped` when it was asked to stop.
    """
    from workbench.training.config import FinetuneConfig
    from workbench.training.finetuning import finetune

    config = check(context.config)
    folder = context.directory
    context.progress(0.0, 1.0, "growing the model")
    facts = read_json(folder / "growth.json") or _grow(config, folder)
    cost, steps = facts["flop_per_step"], dict.fromkeys(ARMS, 0)
    result = {"path": str(folder / "grown"), **facts, "steps": steps, "start": {}, "end": {}, "stopped": False}
    if not config["steps"]:
        return result
    steps |= {"grown": config["steps"], "small": round(config["steps"] * cost["grown"] / cost["small"])}
    done, total = 0, sum(steps.values())
    for arm in ARMS:
        settings = FinetuneConfig(
            model=str(folder / "grown") if arm == "grown" else config["model"], data=config["data"], method="full",
            steps=steps[arm], batch_size=BATCH, window=WINDOW, learning_rate=config["learning_rate"],
            eval_every=max(1, math.ceil(steps[arm] / EVALUATIONS)), precision="fp32", seed=config["seed"],
        )  # fmt: skip

        def log(step: int, arm: str = arm, before: int = done, **values: float) -> None:
            context.log_metrics(step=before + step, arm=arm, arm_step=step, flop=step * cost[arm], **values)

        found = finetune(
            settings, folder / "arms" / arm, log=log, should_stop=context.should_stop,
            progress=part(context.progress, done / total, (done + steps[arm]) / total),
        )  # fmt: skip
        if found.stopped:
            return {**result, "stopped": True}
        losses = [row["eval_loss"] for row in found.curve if "eval_loss" in row]
        if losses:
            result["start"][arm], result["end"][arm] = losses[0], losses[-1]
        done += steps[arm] + 1  # step 0 of the next arm is a row of its own
    return result


def _grow(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch

    from workbench import models
    from workbench.models.growth import blocks_of, grow
    from workbench.models.growth_plan import origins
    from workbench.training.multiplications import count

    small = models.load_model(config["model"])
    grown = grow(small, config["operator"], config["factor"], noise=config["noise"], seed=config["seed"])
    tokens = torch.zeros(BATCH, WINDOW, dtype=torch.long)
    both = dict(zip(ARMS, (small, grown), strict=True))
    with torch.no_grad():
        cost = {arm: 2 * PASSES * count(lambda model=model: model(tokens)) for arm, model in both.items()}
    beside = folder / ".grown.part"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(folder / "grown", ignore_errors=True)
    grown.save_pretrained(beside)
    models.load_tokenizer(config["model"]).save_pretrained(beside)
    facts = {
        "operator": config["operator"],
        "origins": origins(config["operator"], len(blocks_of(small)[1]), config["factor"]),
        "parameters": {arm: sum(p.numel() for p in model.parameters()) for arm, model in both.items()},
        "flop_per_step": cost,
    }
    (beside / "growth.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    os.replace(beside, folder / "grown")
    write_json(folder / "growth.json", facts)
    return facts


def rows_of(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Held-out losses of a run's metrics: rows arm, step (of that arm), flop, loss."""
    return [
        {"arm": row["arm"], "step": row["arm_step"], "flop": row["flop"], "loss": row["eval_loss"]}
        for row in metrics
        if "eval_loss" in row and "arm" in row
    ]
