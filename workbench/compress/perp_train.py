"""Training after pruning: the whole model on text, or one block after another on the dense block's outputs.

    retrain        min over the chosen numbers of the language-model loss        all layers at once
    reconstruct    min of ‖block_pruned(h) − block_dense(h)‖² / tokens             h: what the blocks before give

AdamW without weight decay, learning rate linear up over the first tenth of the steps and linear down to zero. After
both, every low-rank change is merged and every pruned weight is +0.0.

Full fine-tuning (`full`) is the baseline: all weights move, and the mask falls on them after every step, since Adam
moves a weight whose gradient is not zero wherever it is.

Source: Zimmer, Andoni, Spiegel & Pokutta 2023, arXiv 2312.15230, §3 and §3.3 (reconstruction: inputs from the pruned and
reconstructed blocks before, targets from the dense block on these same inputs). Departure: gradients are clipped at
norm 1.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress.perp import (
    ALPHA,
    RANK,
    attach_lora,
    head_name,
    merge_lora,
    select_perp_params,
    stored,
)
from workbench.compress.targets import check_dense
from workbench.compress.walk import Block, _embed, _record, find_blocks
from workbench.errors import JobError, UserError, choose
from workbench.progress import Progress, silent

LORAS = {"masklora": "mask", "scalelora": "scale", "loraprune": "prune"}
PARTS = ("biases", "norms", "head", *LORAS, "full")


@dataclass
class RetrainReport:
    """What retraining did.

    Attributes:
        train: what was trained.
        trainable: numbers that trained; total: all parameters of the model.
        losses: training loss of every step, nats per token (of reconstruction: one {block, before, after}, mean squares).
        seconds: wall time.
    """

    train: list[str]
    trainable: int = 0
    total: int = 0
    losses: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def check_parts(train: tuple[str, ...] | list[str]) -> list[str]:
    """Refuse an unknown or contradictory choice of what trains.

    Raises:
        UserError: with the names there are.
    """
    if not train:
        raise UserError(f"nothing to retrain; name some of: {', '.join(PARTS)}.")
    parts = [choose("part to retrain", part, PARTS) for part in train]
    loras = [part for part in parts if part in LORAS]
    if len(loras) > 1:
        raise UserError(f"{' and '.join(loras)} would change the same weights; choose one of them.")
    if "full" in parts and len(parts) > 1:
        raise UserError("'full' trains every weight already; name it alone.")
    return parts


def prepare(
    model: nn.Module, masks: dict[str, Tensor], train: tuple[str, ...] | list[str], rank: int, alpha: float, seed: int
) -> list[nn.Parameter]:
    """Freeze, attach, and return what trains.

    Raises:
        UserError: when the model has none of it.
    """
    parts = check_parts(train)
    check_dense(model)
    wrong = [name for name in masks if name not in dict(model.named_modules())]
    if wrong:
        raise UserError(f"these masks belong to another model: they name {wrong[0]}, which this one does not have.")
    if parts == ["full"]:
        model.requires_grad_(True)
        return list(model.parameters())
    head = {head_name(model): None} if "head" in parts else {}
    found = select_perp_params(model, biases="biases" in parts, norms="norms" in parts)
    for part in parts:
        if part in LORAS:
            found += attach_lora(model, masks, LORAS[part], rank=rank, alpha=alpha, seed=seed)
    if head:
        found += attach_lora(model, head, "mask", rank=rank, alpha=alpha, seed=seed)
    if not found:
        raise UserError(
            f"{type(model).__name__} has no {' or '.join(parts)} to retrain; add norms or masklora, "
            "or give it biases first (add_biases)."
        )
    return found


def factor_of_rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step (0 … steps − 1): a tenth up, then linearly down to zero."""
    warm = max(1, steps // 10)
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def apply_masks(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set every pruned weight to +0.0."""
    with torch.no_grad():
        for name, mask in masks.items():
            module = model.get_submodule(name)
            module.weight.masked_fill_(~stored(module, mask), 0)


def retrain(
    model: nn.Module,
    masks: dict[str, Tensor],
    rows: Tensor,
    *,
    train: tuple[str, ...] | list[str] = ("biases", "norms", "masklora"),
    steps: int = 200,
    batch_size: int = 4,
    learning_rate: float = 5e-4,
    rank: int = RANK,
    alpha: float = ALPHA,
    seed: int = 0,
    progress: Progress = silent,
) -> RetrainReport:
    """Retrain a pruned model on text and merge; the zeros stay.

    Args:
        model: a pruned model, changed in place and left in evaluation mode.
        masks: name → bool [out, in], of `prune_model` or `masks_of`.
        rows: token ids (n, tokens), one window each, visited in random order again and again.
        train: some of biases, norms, head, and one of masklora, scalelora, loraprune; or full alone.
        steps: optimizer steps.
        batch_size: rows per step.
        learning_rate: its peak.
        rank, alpha: of the low-rank change.
        seed: order of the rows and random factors.
        progress: called after every step.

    Returns:
        The report.

    Raises:
        UserError: for a choice that does not fit the model.
        JobError: when the loss is not finite; the model is merged and its zeros are in place, but it is spoilt.
    """
    if steps < 1 or batch_size < 1 or len(rows) < 1:
        raise UserError(
            f"retraining needs steps, batch_size and rows of 1 or more, not {steps}, {batch_size}, {len(rows)}."
        )
    trained = prepare(model, masks, train, rank, alpha, seed)
    report = RetrainReport(list(train), sum(p.numel() for p in trained))
    begin = time.perf_counter()
    order = _order(len(rows), steps * batch_size, seed)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor_of_rate(step, steps))
    full = list(train) == ["full"]
    model.train()
    try:
        for step in range(steps):
            ids = rows[order[step * batch_size : (step + 1) * batch_size]].to(model.device)
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            if full:
                apply_masks(model, masks)
            report.losses.append(loss.item())
            if not torch.isfinite(loss):
                raise JobError(f"the loss of step {step + 1} is {loss.item()}; retrain with a lower learning rate.")
            progress(step + 1, steps, f"retraining, loss {loss.item():.3f}")
    finally:
        merge_lora(model)
        apply_masks(model, masks)
        model.requires_grad_(True)
        model.eval()
    report.total, report.seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - begin
    return report


def _order(count: int, wanted: int, seed: int) -> Tensor:
    """Row numbers: every row once in random order, then all again."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))])[:wanted]


def reconstruct_blocks(
    model: nn.Module,
    dense: nn.Module,
    masks: dict[str, Tensor],
    calibration: list[Tensor],
    *,
    kind: str = "mask",
    steps: int = 50,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    rank: int = RANK,
    alpha: float = ALPHA,
    seed: int = 0,
    progress: Progress = silent,
) -> RetrainReport:
    """Fit every block of a pruned model to the dense model's block, from the first to the last, and merge.

    Args:
        model: a pruned model, changed in place.
        dense: the same model before pruning.
        masks: name → bool [out, in].
        calibration: windows of token ids, each (1, tokens), all of one length.
        kind: of the low-rank change: "mask", "scale" or "prune".
        steps: optimizer steps of every block.
        batch_size: windows per step.
        learning_rate: its peak.
        rank, alpha: of the low-rank change.
        seed: order of the windows and random factors.
        progress: called after every block.

    Returns:
        The report; `losses` holds the mean squared difference of every block before and after.

    Raises:
        UserError: without calibration text of one length.
        JobError: when the loss is not finite.
    """
    lengths = sorted({window.shape[-1] for window in calibration})
    if len(lengths) != 1:
        raise UserError(f"reconstruction needs calibration windows of one length, not {lengths or 'none'}.")
    check_dense(model)
    model.eval().requires_grad_(False)
    pairs = list(zip(_blocks(model, masks, calibration), _blocks(dense, masks, calibration), strict=True))
    report = RetrainReport([{v: k for k, v in LORAS.items()}[choose("kind of low-rank change", kind, LORAS.values())]])
    begin = time.perf_counter()
    with torch.no_grad():
        hidden = _embed(model, pairs[0][0], torch.cat(calibration))
    try:
        for index, (block, original) in enumerate(pairs):
            with torch.no_grad():
                wanted = original.run(hidden)
                before = nn.functional.mse_loss(block.run(hidden), wanted).item()
            own = {name: mask for name, mask in masks.items() if name.startswith(block.name + ".")}
            trained = attach_lora(model, own, kind, rank=rank, alpha=alpha, seed=seed + index)
            report.trainable += sum(p.numel() for p in trained)
            _fit(block, trained, hidden, wanted, steps, batch_size, learning_rate, seed + index)
            merge_lora(model)
            apply_masks(model, own)
            with torch.no_grad():
                hidden = block.run(hidden)
                after = nn.functional.mse_loss(hidden, wanted).item()
            report.losses.append({"block": block.name, "before": before, "after": after})
            progress(index + 1, len(pairs), f"block {index + 1} of {len(pairs)} reconstructed")
    finally:
        merge_lora(model)
        apply_masks(model, masks)
        model.requires_grad_(True)
    report.total, report.seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - begin
    return report


@torch.no_grad()
def _blocks(model: nn.Module, masks: dict[str, Tensor], windows: list[Tensor]) -> list[Block]:
    """The model's blocks with what each is called with."""
    targets = {name: model.get_submodule(name) for name in masks}
    blocks = find_blocks(model, targets)
    _record(model, blocks, targets, windows)
    return blocks


def _fit(
    block: Block, trained: list[nn.Parameter], hidden: Tensor, wanted: Tensor, steps: int, batch_size: int, rate: float,
    seed: int,
) -> None:  # fmt: skip
    """Train one block towards `wanted`; the loss is relative to the size of `wanted`, so one rate fits every block."""
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor_of_rate(step, steps))
    order, size = _order(len(hidden), steps * batch_size, seed), wanted.square().mean()
    for step in range(steps):
        rows = order[step * batch_size : (step + 1) * batch_size]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(block.run(hidden[rows]), wanted[rows]) / size
        if not torch.isfinite(loss):
            raise JobError(f"the loss of {block.name} is {loss.item()}; reconstruct with a lower learning rate.")
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
