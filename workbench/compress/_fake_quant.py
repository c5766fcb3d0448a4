"""The quantizer that training sees: a float weight that is rounded on the way forward and moved on the way back.

One group of neighbours along the input shares a step s and a zero point z; M = 2^bits − 1, ~ is "rounded and clamped":

    q = clamp(round(w/s) + z~, 0, M)          ŵ = (q − z~) · s

Rounding has no slope, so the backward pass takes it as the identity (a straight-through estimator). What is left:

                       ∂ŵ/∂w    ∂ŵ/∂s           ∂ŵ/∂z
    0 ≤ q ≤ M inside     1      (q − z) − w/s     0
    outside              0      q − z             −s          q is the edge, 0 or M

    w [out, in] · s, z [out, in/g], all float while they train; frozen they are an `IntWeight`

The start is the grid of round-to-nearest (`rtn.py`), so an untrained one freezes to exactly what `quantize_rtn` gives; or,
given the inputs' Hessian, that grid with fitted ranges (`ranges.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.compress.ranges import fit_ranges
from workbench.compress.records import IntWeight
from workbench.compress.rtn import SMALLEST, resolve_group, round_to_grid

LARGEST = 65504.0  # of float16


class _Round(torch.autograd.Function):
    """ŵ of groups [out, groups, g], with the gradients of the table above."""

    @staticmethod
    def forward(ctx, groups: Tensor, scales: Tensor, zeros: Tensor, top: int) -> Tensor:
        step = scales.clamp(SMALLEST, LARGEST).unsqueeze(-1)
        zero = zeros.round().clamp(0, top).unsqueeze(-1)
        ratio = groups / step
        code = ratio.round().add_(zero)
        inside = (code >= 0) & (code <= top)
        code.clamp_(0, top).sub_(zero)
        ctx.save_for_backward(torch.where(inside, code - ratio, code), inside, step)
        return code.mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        slope, inside, step = ctx.saved_tensors
        to_zero = None
        if ctx.needs_input_grad[2]:
            to_zero = grad.masked_fill(inside, 0).sum(-1).mul_(-step.squeeze(-1))
        to_scale = (grad * slope).sum(-1) if ctx.needs_input_grad[1] else None
        to_weight = grad * inside if ctx.needs_input_grad[0] else None
        return to_weight, to_scale, to_zero, None


def fake_quant(weight: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """ŵ [out, in], with gradients to all three as in the table.

    Args:
        weight: w [out, in].
        scales: s [out, groups], clamped to what float16 can hold.
        zeros: z [out, groups], rounded and clamped to 0 … 2^bits − 1.
        bits: bits per weight.
    """
    groups = weight.reshape(*scales.shape, -1)
    return _Round.apply(groups, scales, zeros, (1 << bits) - 1).reshape(weight.shape)


class FakeQuant(nn.Module):
    """A parametrization (`torch.nn.utils.parametrize`) that quantizes a layer's weight whenever it is used.

    Args:
        weight: the float weight [out, in] that sets the first grid.
        bits: 2, 3, 4 or 8.
        group_size: weights that share a step along the input; None: one step per output channel.
        symmetric: the zero point stays in the middle and is not stored.
        transposed: the layer stores its weight as [in, out], as GPT-2's Conv1D does.
        name: the layer, for messages.
        hessian: mean of x xᵀ [in, in], to which the first ranges are fitted; None: they reach to the extremes.

    Raises:
        UserError: for a group that does not divide the inputs.
    """

    def __init__(
        self, weight: Tensor, bits: int, group_size: int | None = 64, symmetric: bool = False, transposed: bool = False,
        name: str = "this layer", hessian: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.bits, self.symmetric, self.transposed = bits, symmetric, transposed
        self.group_size = resolve_group(weight.shape[1], group_size, name)
        scales, zeros = fit_ranges(weight.detach(), hessian, bits, self.group_size, symmetric)
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.scales = nn.Parameter(scales.to(dtype))
        self.zeros = nn.Parameter(zeros.to(dtype), requires_grad=not symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        """ŵ, laid out as the layer stores its weight."""
        rounded = fake_quant(weight.t() if self.transposed else weight, self.scales, self.zeros, self.bits)
        return rounded.t() if self.transposed else rounded

    @torch.no_grad()
    def record(self, weight: Tensor) -> IntWeight:
        """Freeze: steps to float16 first, then codes against the stored steps, zero points clamped onto the grid.

        Args:
            weight: the trained float weight [out, in].
        """
        groups = weight.detach().reshape(len(weight), -1, self.group_size)
        scales = self.scales.detach().clamp(SMALLEST, LARGEST).to(torch.float16)
        zeros = self.zeros.detach().round().clamp(0, (1 << self.bits) - 1)
        steps = scales.to(groups.dtype).unsqueeze(-1)
        codes = round_to_grid(groups, steps, zeros.to(groups.dtype).unsqueeze(-1), self.bits)
        return IntWeight(
            codes.to(torch.uint8).view(weight.shape), scales, zeros.to(torch.uint8), self.bits, self.group_size,
            self.symmetric,
        )  # fmt: skip
