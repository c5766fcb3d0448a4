"""The laboratory of the page `sparse-finetuning`: a planted sparse change, and sparse arms on the task `python`.

`planted`: a linear map W (64 × 64) and a target that differs from it in 80 entries; pairs (x, y) with noise. The adapter has
80 deltas. How many of the planted places does it hold at the end?
`sparse_train` trains like `_transfer.train` (same batches, schedule, clipping and output layer), with the optimizer that a
selection needs; `run_arm` gives all arms of the page the same learning rates.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.adapters import SpielConfig
from workbench.adapters._sparse_delta_select import Reselector, choose_mask, spiel_layers, spiel_optimizer
from workbench.adapters.sparse import SpielLayer
from workbench.papers._transfer import HEAD, HEAD_RATE, Task, attach, batches, score, train, updates
from workbench.papers.nola import better
from workbench.progress import Progress

if TYPE_CHECKING:
    from peft import PeftConfig

SIDE, PLANTED = 64, 80


def planted_problem(
    seed: int, rows: int = 4096, noise: float = 0.1
) -> tuple[nn.Module, torch.Tensor, torch.Tensor, set[int]]:
    """A linear layer, inputs (rows, 64), noisy outputs of the changed layer, and the changed flat positions."""
    draw = torch.Generator().manual_seed(seed)
    base = nn.Sequential(nn.Linear(SIDE, SIDE, bias=False))
    with torch.no_grad():
        base[0].weight.copy_(torch.randn(SIDE, SIDE, generator=draw) / SIDE**0.5)
    places = torch.randperm(SIDE * SIDE, generator=draw)[:PLANTED]
    change = torch.zeros(SIDE * SIDE)
    change[places] = torch.randn(PLANTED, generator=draw).sign() * (0.5 + torch.rand(PLANTED, generator=draw))
    x = torch.randn(rows, SIDE, generator=draw)
    y = x @ (base[0].weight.detach() + change.view(SIDE, SIDE)).T + noise * torch.randn(rows, SIDE, generator=draw)
    return base, x, y, set(places.tolist())


def planted(
    selection: str, seed: int, steps: int = 300, rate: float = 0.05, batch: int = 64,
    seen: Callable[[int, list[int]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train 80 deltas on the planted problem.

    Args:
        selection: gradient, momentum or static.
        seed: problem, first positions, batches.
        steps, rate, batch: of the training; the rate falls to zero.
        seen: called with the step and the present positions, before training and after every move.

    Returns:
        recovered (share of planted places held), loss (mean squared error on all rows).
    """
    base, x, y, places = planted_problem(seed)
    config = SpielConfig(num_weights=PLANTED, selection=selection, seed=seed, target_modules=["0"])
    model = attach(base, config)
    layer = model.base_model.model[0]
    optimizer = spiel_optimizer(model, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    selector, order = Reselector(model, optimizer, steps), torch.Generator().manual_seed(seed)
    held = layer.spiel_indices["default"]
    if seen is not None:
        seen(0, held.tolist())
    for step in range(1, steps + 1):
        rows = torch.randint(0, len(x), (batch,), generator=order)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows], reduction="sum").div(batch).backward()
        optimizer.step()
        schedule.step()
        moves = len(selector.log)
        selector.after_step()
        if seen is not None and len(selector.log) > moves:
            seen(step, held.tolist())
    with torch.no_grad():
        loss = nn.functional.mse_loss(model(x), y).item()
    return {"recovered": len(places & set(held.tolist())) / PLANTED, "loss": loss, "moves": selector.log}


class Fresh(Reselector):
    """Newcomers start with empty averages and age 0, instead of the averages of the gradients they were chosen by."""

    def _exchange(self, key: str, layer: SpielLayer) -> int:
        values, held = layer.spiel_values[self.name], layer.spiel_indices[self.name]
        before = held.clone()
        moved = super()._exchange(key, layer)
        new = ~torch.isin(held, before)
        for name in ("age", "exp_avg", "exp_avg_sq"):
            self.optimizer.state[values][name][new] = 0
        return moved


def sparse_train(
    task: Task, config: SpielConfig, rate: float, seed: int, calibrate: str | None = None, fresh: bool = False
) -> tuple[nn.Module, int]:
    """Train one sparse arm on a copy of the task's model.

    Args:
        task: what is learned.
        config: the adapter.
        rate: peak learning rate.
        seed: order of the batches, starting values.
        calibrate: place the deltas once by this score (`gradient`, `fisher`) over four batches first.
        fresh: newcomers start with empty averages.

    Returns:
        The trained model and how many numbers its adapter trains (output layer not counted).
    """
    torch.manual_seed(seed)
    plan = task.plan
    model = attach(copy.deepcopy(task.base).requires_grad_(False), config)
    adapter = [p for p in model.parameters() if p.requires_grad]
    if calibrate is not None:
        some = list(batches(task.parts["train"], plan.batch, min(4, plan.steps), seed))
        choose_mask(model, ((lambda batch=batch: model(**batch).loss) for batch in some), calibrate)
    optimizer = spiel_optimizer(model, rate)
    if task.metric == "accuracy":
        head = [p.requires_grad_(True) for name, p in model.named_parameters() if f"{HEAD}." in name]
        optimizer.add_param_group({"params": head, "lr": HEAD_RATE})
    trained = [p for p in model.parameters() if p.requires_grad]
    selector = (Fresh if fresh else Reselector)(model, optimizer, plan.steps)
    for _ in updates(task, model, optimizer, trained, seed):
        selector.after_step()
    return model, sum(p.numel() for p in adapter)


def run_arm(
    task: Task, arm: str, method: str, config: PeftConfig | None, rates: Sequence[float], seed: int, progress: Progress,
    calibrate: str | None = None, fresh: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train one arm at every rate; the best on the eval part is scored on the test part.

    Args:
        task: what is learned.
        arm, method: its name, and the method whose look it has.
        config: a `SpielConfig`, another adapter's configuration, or None for the output layer alone.
        rates: peak learning rates.
        seed: batches, starting values.
        progress: called before every run.
        calibrate, fresh: see `sparse_train`.

    Returns:
        One row per rate; sparse ones also say how many rows and columns their deltas touch (`spread`).
    """
    rows, best, kept = [], None, None
    for index, rate in enumerate(rates):
        progress(index, len(rates), f"seed {seed}: {task.name}, {arm}, learning rate {rate:g}")
        row = {"seed": seed, "task": task.name, "metric": task.metric, "arm": arm, "method": method, "rate": rate}
        if isinstance(config, SpielConfig):
            model, row["trainable"] = sparse_train(task, copy.deepcopy(config), rate, seed, calibrate, fresh)
            row["spread"] = spread(model)
        else:
            wrap = None if config is None else lambda base: attach(base, copy.deepcopy(config))
            model, row["trainable"] = train(task, wrap, rate, seed)
        row |= {"eval": score(model, task, "eval"), "chosen": False}
        rows.append(row)
        if better(row, best):
            best, kept = row, model
    best |= {"chosen": True, "test": score(kept, task, "test")}
    return rows


def spread(model: nn.Module) -> float:
    """Share of the rows and columns of the adapted weights that hold at least one delta, mean over layers."""
    shares = []
    for layer in spiel_layers(model).values():
        held, (d_out, d_in) = layer.spiel_indices["default"].long(), layer.shape
        shares.append((len((held // d_in).unique()) + len((held % d_in).unique())) / (d_out + d_in))
    return sum(shares) / len(shares)


def step_seconds(task: Task, configs: dict[str, PeftConfig], repeats: int) -> dict[str, float]:
    """Median processor seconds of a forward and backward pass, arms taking turns; sparse ones while they watch gradients."""
    batch = {name: tensor[: task.plan.batch] for name, tensor in task.parts["train"].items()}
    arms = {
        name: attach(copy.deepcopy(task.base).requires_grad_(False), copy.deepcopy(c)) for name, c in configs.items()
    }
    for model in arms.values():
        if isinstance(model.peft_config["default"], SpielConfig):
            Reselector(model, spiel_optimizer(model, 0.0), 100)
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, model in arms.items():
            start = time.process_time()
            model(**batch).loss.backward()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
