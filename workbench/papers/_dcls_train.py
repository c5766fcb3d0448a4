"""Training of one arm of the page `dcls`, and what is recorded on the way: accuracy, where positions stand, one channel's path.

AdamW, weight decay 0.05, one-cycle schedule (a tenth of the steps upwards), cross-entropy; DCLS with the recipe's groups
(positions at a multiple of the rate, no decay) and clamping after each step. Every arm of a seed sees the same pictures in
the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.papers._dcls_task import ARMS, SIZE, Plan, digit_pictures, motif_pictures, network

if TYPE_CHECKING:
    import torch
    from torch import nn

SNAPSHOTS = 4  # of one channel: at the start, after one and two thirds, at the end
DIGITS_TEST = 500


def run(
    arm: str, task: str, plan: Plan, seed: int, device: str = "cpu", told: Callable[[int], None] = lambda step: None
) -> list[dict[str, Any]]:
    """Train one network and test it.

    Args:
        arm: one of ARMS.
        task: `motifs` or `digits`.
        plan: steps, rates, sizes.
        seed: of network, pictures and order.
        device: torch device.
        told: called with the number of steps done.

    Returns:
        A row with the accuracy in percent; for DCLS on motifs also the rows of `positions` and `path`.
    """
    import torch

    from workbench.layers.dcls import layers_of

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(arm, task, plan).to(device).train()
        optimizer, schedule = build_optimizer(model, arm, plan, plan.steps[task])
        stream, test = pictures(task, plan, seed)
        watched = list(layers_of(model)) if arm == ARMS[-1] and task == "motifs" else []
        start = [layer.P.detach().clone() for layer in watched]
        snaps = [snapshot(watched)]
        for step in range(plan.steps[task]):
            x, y = (part.to(device) for part in next(stream))
            optimizer.zero_grad()
            model(pixel_values=x, labels=y).loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) * (SNAPSHOTS - 1) // plan.steps[task] > step * (SNAPSHOTS - 1) // plan.steps[task]:
                snaps.append(snapshot(watched))
            if step % 5 == 0:
                told(step)
    place = {"task": task, "arm": arm}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = [{"part": "accuracy", **place, "accuracy": accuracy(model, test, device), "parameters": trained}]
    if watched:
        rows += positions(start, watched) + path(snaps)
    return rows


def build_optimizer(model: nn.Module, arm: str, plan: Plan, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with its schedule; the hook that clamps positions belongs to DCLS only."""
    import torch

    from workbench.layers.dcls import clamp_after_steps, position_groups

    rate, decay = plan.rates[arm], 0.05
    if arm == ARMS[-1]:
        optimizer = torch.optim.AdamW(position_groups(model, rate, decay, plan.faster), rate)
        clamp_after_steps(optimizer, model)
    else:
        many = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        few = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
        optimizer = torch.optim.AdamW(
            [{"params": many, "weight_decay": decay}, {"params": few, "weight_decay": 0.0}], rate
        )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, pct_start=0.1,
        cycle_momentum=False,
    )  # fmt: skip
    return optimizer, schedule


def pictures(task: str, plan: Plan, seed: int) -> tuple[Iterator[tuple], tuple[torch.Tensor, torch.Tensor]]:
    """An endless stream of batches, and the test; motifs are drawn anew for each batch, digits shuffled each pass."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    if task == "motifs":
        test = motif_pictures(plan.test, torch.Generator().manual_seed(10**6 + seed), plan.noise)
        return iter(lambda: motif_pictures(plan.batch, generator, plan.noise), None), test
    x, y = digit_pictures()
    order = torch.randperm(len(x), generator=generator)
    train, held = order[DIGITS_TEST:], order[:DIGITS_TEST]

    def stream() -> Iterator[tuple]:
        while True:
            for batch in train[torch.randperm(len(train), generator=generator)].split(plan.batch):
                yield x[batch], y[batch]

    return stream(), (x[held], y[held])


def accuracy(model: nn.Module, test: tuple[torch.Tensor, torch.Tensor], device: str) -> float:
    """Percent of the test pictures that are told right."""
    import torch

    right = 0
    model.eval()
    with torch.no_grad():
        for x, y in zip(test[0].split(250), test[1].split(250), strict=True):
            right += int((model(pixel_values=x.to(device)).logits.argmax(1).cpu() == y).sum())
    return 100 * right / len(test[1])


def positions(start: list[torch.Tensor], layers: list) -> list[dict[str, Any]]:
    """How many positions stand how far from the centre along an axis, before and after, in bins of one pixel; and mean |P|."""
    import torch

    rows = []
    for stage, (before, layer) in enumerate(zip(start, layers, strict=True), 1):
        for when, P in (("start", before), ("end", layer.P.detach())):
            away = P.abs().flatten().cpu()
            counts = torch.histc(away, SIZE // 2, 0, SIZE // 2)
            place = {"part": "bin", "task": "motifs", "arm": ARMS[-1], "stage": stage, "when": when}
            rows += [{**place, "pixel": i, "share": float(c) / len(away)} for i, c in enumerate(counts)]
            rows.append({**place, "part": "mean", "away": float(away.mean())})
    return rows


def snapshot(layers: list) -> Any:
    """Weights and positions of the first layer, (m, C) and (2, m, C) as they are now; None where there is none."""
    if not layers:
        return None
    first = layers[0]
    return first.weight.detach()[:, 0].cpu().clone(), first.P.detach()[:, :, 0].cpu().clone()


def path(snaps: list) -> list[dict[str, Any]]:
    """Rows of the channel whose positions travelled farthest: x, y, weight of each element at each snapshot."""
    travelled = (snaps[-1][1] - snaps[0][1]).norm(dim=0).mean(-1)  # (C,)
    channel = int(travelled.argmax())
    rows = []
    for moment, (weight, P) in enumerate(snaps):
        for element, (w, x, y) in enumerate(zip(weight[channel], *P[:, channel], strict=True)):
            rows.append(
                {"part": "point", "task": "motifs", "arm": ARMS[-1], "channel": channel, "moment": moment,
                 "element": element, "x": float(x), "y": float(y), "weight": float(w)}
            )  # fmt: skip
    return rows
