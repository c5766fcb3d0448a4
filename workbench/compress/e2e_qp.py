"""E2E-QP, the second phase of EfficientQAT: train the step sizes of a packed model end to end, and nothing else.

    ŵ = (q − z) · s          ∂ŵ/∂s = q − z exactly: the integers q and zero points z are constants, so no estimator is needed

    s float32 [out, in/g] while it trains, one number in g weights (1.6 % at g = 64); float16 again afterwards

Works on every model of `IntLinear` layers, whichever method chose the integers. Memory: the integers as one byte a weight
(two at 8 bits), steps with their optimizer, and the activations of one batch; ŵ is built again in the backward pass.

Source: Chen, Shao, Xu, Wang, Gao, Zhang & Luo 2024, arXiv 2407.11062, §3.3 and the authors' code (AdamW without weight decay,
cosine with 3 % warm-up, gradients clipped at norm 0.3). Departures: the rate is a share of a layer's median step
(`efficientqat.py`), the same at every width: the published one doubles at 2 bits, where steps do too; the text is the
calibration text again, in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from workbench.compress.linear import IntLinear
from workbench.compress.rtn import SMALLEST
from workbench.errors import JobError, UserError
from workbench.progress import Progress, silent

RATE = 4e-3  # share of a layer's median step an update
CLIP, WARM = 0.3, 0.03


class _Product(torch.autograd.Function):
    """x · ŵᵀ with gradients to x and to the steps; ŵ is never kept."""

    @staticmethod
    def forward(ctx, x: Tensor, scales: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(x, scales, codes)
        return x @ _weight(scales, codes, x.dtype).t()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, scales, codes = ctx.saved_tensors
        to_x = grad @ _weight(scales, codes, grad.dtype) if ctx.needs_input_grad[0] else None
        to_scales = None
        if ctx.needs_input_grad[1]:
            slope = (grad.t() @ x).to(scales.dtype).view(codes.shape)
            to_scales = slope.mul_(codes).sum(-1)
        return to_x, to_scales, None


def _weight(scales: Tensor, codes: Tensor, dtype: torch.dtype) -> Tensor:
    """ŵ [out, in] from steps [out, groups] and centred codes [out, groups, g]."""
    return (codes.to(scales.dtype) * scales.unsqueeze(-1)).flatten(1).to(dtype)


class StepLinear(nn.Module):
    """An `IntLinear` whose steps train.

    Args:
        layer: the packed layer; it is not changed until `put_back`.
    """

    def __init__(self, layer: IntLinear) -> None:
        super().__init__()
        self.layer = [layer]  # in a list: not a submodule
        record = layer.record()
        small = torch.int8 if record.bits < 8 else torch.int16
        centred = record.codes.view(*record.scales.shape, -1).to(small) - record.zeros.to(small).unsqueeze(-1)
        self.register_buffer("codes", centred, persistent=False)
        self.scales = nn.Parameter(record.scales.float())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _Product.apply(flat, self.scales, self.codes)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def put_back(self) -> IntLinear:
        """The packed layer with the trained steps; its integers and zero points are what they were."""
        layer = self.layer[0]
        layer.restore()
        layer.scales = self.scales.detach().clamp(SMALLEST, 65504.0).to(torch.float16)
        return layer


def e2e_qp(
    model: nn.Module,
    windows: list[Tensor],
    *,
    epochs: int = 1,
    batch_size: int = 4,
    rate: float = RATE,
    progress: Progress = silent,
) -> list[float]:
    """Train the steps of a packed model on the next-token loss of `windows`.

    Args:
        model: a model of `IntLinear` layers, changed in place; its other parameters stay.
        windows: token ids, each (1, tokens); order as given.
        epochs: passes over them.
        batch_size: windows per update.
        rate: peak change of a step per update, as a share of its layer's median step.
        progress: called after every update.

    Returns:
        Loss of every update before it was made, nats per token.

    Raises:
        UserError: for a model without such layers, or no text.
        JobError: when the loss is not finite; the model then keeps the steps it came with.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, IntLinear)}
    if not layers:
        raise UserError(f"{type(model).__name__} has no integer layers; quantize it first (rtn, gptq or block_ap).")
    if not windows or epochs < 1 or batch_size < 1:
        raise UserError(
            f"e2e_qp needs windows, epochs and batch_size of 1 or more, not {len(windows)}, {epochs}, {batch_size}."
        )
    for name, layer in layers.items():
        if not layer.record().plain:
            raise UserError(
                f"{name} divides its inputs or keeps columns apart; e2e_qp trains plain integer layers only."
            )
    was_training, flags = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval().requires_grad_(False)
    trained = {name: StepLinear(layer) for name, layer in layers.items()}
    for name, layer in trained.items():
        model.set_submodule(name, layer)
    done = False
    try:
        losses = _train(model, trained, windows, epochs, batch_size, rate, progress)
        done = True
    finally:
        for name, layer in trained.items():
            model.set_submodule(name, layer.put_back() if done else layer.layer[0])
            model.get_submodule(name).prepare()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.train(was_training)
    return losses


@torch.enable_grad()
def _train(
    model: nn.Module, trained: dict[str, StepLinear], windows: list[Tensor], epochs: int, batch_size: int,
    rate: float, progress: Progress,
) -> list[float]:  # fmt: skip
    groups = []
    for layer in trained.values():
        groups.append({"params": [layer.scales], "lr": rate * float(layer.scales.detach().median())})
    scales = [layer.scales for layer in trained.values()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-12)
    lengths = sorted({window.shape[1] for window in windows})
    batches = [
        part
        for length in lengths
        for part in torch.cat([window for window in windows if window.shape[1] == length]).split(batch_size)
    ]
    steps = epochs * len(batches)
    warm = max(1, math.ceil(WARM * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))),
    )
    losses = []
    for step in range(steps):
        ids = batches[step % len(batches)].to(model.device)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise JobError(f"the loss of update {step + 1} is {losses[-1]}; use a lower rate.")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scales, CLIP)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, f"steps end to end, loss {losses[-1]:.3f}")
    return losses
