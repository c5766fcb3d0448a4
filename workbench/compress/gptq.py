"""GPTQ: round one input column after another, and let the columns still to come absorb the error.

For one linear layer with inputs X the output error of a change Δ of its weight is tr(Δ H Δᵀ) with H = Xᵀ X / n. Rounding
column j leaves e_j = (w_j − ŵ_j)/U_jj, and the best change of all later columns is w_k ← w_k − e_j U_jk, where U is upper
triangular with H⁻¹ = Uᵀ U (Frantar et al. 2022, arXiv 2210.17323, §3.3 and eq. 2–3). The loss is then exactly Σ e².

    weight [out, in] · H [in, in] · e, stored transposed [in, out] so that a column is contiguous

Departures from the reference code; none but the last two changes the result beyond rounding:
* updates are left-looking (a column gathers all earlier errors when its turn comes; whole chunks with one GEMM),
  which touches a third of the memory of pushing every error forward ("lazy batch updates", §3.3);
* U comes from one Cholesky of the reversed H and one triangular inverse, in float64, instead of three factorizations;
* act-order (largest diagonal of H first) uses scales fixed beforehand ("static groups"), so that groups stay
  contiguous in the file and no index is stored;
* damping λ·mean(diag H) starts at λ = 0.01 and is raised tenfold, with a note, while H is not positive definite;
* `quantize_model` lets every calibration token count equally (`Hessian`, `equal_tokens`); False is the published sum;
* `quantize_model` lets each group's grid reach less far than its extremes where that serves its inputs (`clip`, `ranges`);
  False is the published grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.compress.packing import check_bits
from workbench.compress.ranges import fit_ranges
from workbench.compress.records import IntWeight
from workbench.compress.rtn import resolve_group
from workbench.errors import UserError

CHUNK = 128  # columns between two GEMMs


class Hessian:
    """Mean of x xᵀ over calibration tokens, float32 [in, in] (float64 when the inputs are).

    Args:
        width: inputs of the layer.
        equal_tokens: scale every token's x to length 1 first, so that each counts by its relative error. In language
            models a few tokens have inputs a thousand times longer than the rest ("massive activations", Sun et al. 2024,
            arXiv 2402.17762) and would otherwise decide the sum alone.
    """

    def __init__(self, width: int, equal_tokens: bool = False) -> None:
        self.width, self.equal_tokens, self.tokens = width, equal_tokens, 0
        self.total: Tensor | None = None
        self._factored: tuple[tuple[float, bool], Factored] | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs [..., in]; only the upper block triangle is computed."""
        x = x.reshape(-1, self.width)
        x = x if x.dtype == torch.float64 else x.float()
        if self.equal_tokens:
            x = torch.nn.functional.normalize(x, dim=-1)
        if self.total is None:
            self.total = torch.zeros(self.width, self.width, dtype=x.dtype, device=x.device)
        step = max(256, -(-self.width // 6))
        for start in range(0, self.width, step):
            self.total[start : start + step, start:].addmm_(x[:, start : start + step].t(), x[:, start:])
        self.tokens += len(x)

    def matrix(self) -> Tensor:
        """The symmetric mean."""
        upper = torch.triu(self.total) / self.tokens
        return upper + torch.triu(upper, 1).t()

    def factored(self, damping: float = 0.01, act_order: bool = False, name: str = "this layer") -> Factored:
        """Everything that does not depend on the width, kept for the next one asked for with the same settings."""
        if self._factored is None or self._factored[0] != (damping, act_order):
            self._factored = (damping, act_order), prepare(self.matrix(), damping, act_order, name)
        return self._factored[1]


@dataclass(frozen=True)
class Factored:
    """A Hessian ready to quantize with: H, U of the (reordered, damped) H, the order, dead inputs, notes."""

    hessian: Tensor
    upper: Tensor
    order: Tensor | None
    dead: Tensor
    notes: tuple[str, ...]


def prepare(hessian: Tensor, damping: float = 0.01, act_order: bool = False, name: str = "this layer") -> Factored:
    """Factor a Hessian [in, in]; see `quantize_gptq` for the arguments.

    Raises:
        UserError: when it cannot be factored.
    """
    dead = hessian.diagonal() <= 0
    order = torch.argsort(hessian.diagonal(), descending=True) if act_order else None
    upper, used = factor(hessian if order is None else hessian[order][:, order], damping, name)
    notes = []
    if bool(dead.any()):
        notes.append(f"{name}: {int(dead.sum())} of {len(dead)} inputs were always zero; their weights were set to 0.")
    if used != damping:
        notes.append(f"{name}: damping raised from {damping:g} to {used:g} to make the Hessian positive definite.")
    return Factored(hessian, upper, order, dead, tuple(notes))


def factor(hessian: Tensor, damping: float = 0.01, name: str = "this layer") -> tuple[Tensor, float]:
    """Upper triangular U with (H + damping)⁻¹ = Uᵀ U.

    Args:
        hessian: H [in, in], symmetric.
        damping: share of the mean diagonal added to the diagonal at first.
        name: the layer, for messages.

    Returns:
        U in H's dtype, and the damping that worked. Inputs that were always zero get a diagonal of 1.

    Raises:
        UserError: when H is not finite, or not positive definite even with damping 1.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise UserError(f"the calibration inputs of {name} hold NaN or infinity; check the model in float32 first.")
    reverse = hessian.flip(0, 1).double()
    diagonal = reverse.diagonal()
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 1.0
    used = damping
    diagonal += used * mean
    while True:
        lower, failed = torch.linalg.cholesky_ex(reverse)
        if not int(failed):
            break
        if used >= 1:
            raise UserError(
                f"the Hessian of {name} is not positive definite even with damping {used:g}; "
                "give more calibration text, or use method 'rtn'."
            )
        more = min(1.0, max(used, 1e-3) * 10)
        diagonal += (more - used) * mean
        used = more
    return _invert_upper(lower.to(hessian.dtype).flip(0, 1)), used  # damping keeps the factor's condition small


def _invert_upper(upper: Tensor) -> Tensor:
    """Inverse of an upper triangular matrix by halves: a third of the arithmetic of solving against the identity."""
    size = len(upper)
    if size <= 256:
        eye = torch.eye(size, dtype=upper.dtype, device=upper.device)
        return torch.linalg.solve_triangular(upper, eye, upper=True)
    half = size // 2
    first, last = _invert_upper(upper[:half, :half]), _invert_upper(upper[half:, half:])
    inverse = torch.zeros_like(upper)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -(first @ (upper[:half, half:] @ last))
    return inverse


def _quadratic(weight: Tensor, hessian: Tensor, block: int = 512) -> Tensor:
    """w H wᵀ of every row of `weight` [out, in], from the lower blocks of the symmetric H: half of the arithmetic."""
    total = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    for start in range(0, weight.shape[1], block):
        rows = slice(start, start + block)
        own = weight[:, rows]
        mixed = own @ hessian[rows, rows]
        if start:
            mixed += 2 * (weight[:, :start] @ hessian[:start, rows])
        total += (mixed * own).sum(1)
    return total


def solve(
    weight: Tensor,
    upper: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    order: Tensor | None = None,
    clip: Tensor | None = None,
) -> tuple[IntWeight, Tensor]:
    """Quantize `weight` [out, in] column by column against U.

    Args:
        weight: float [out, in].
        upper: U [in, in], of the reordered H when `order` is given.
        bits: bits per weight.
        group_size: weights per scale; divides in.
        symmetric: no zero point.
        order: permutation of the inputs for act-order, or None.
        clip: H [in, in], not reordered, against which each group's range is fitted; None: it reaches to the extremes.

    Returns:
        The record, and the loss Σ e² of every output row [out].
    """
    out, width = weight.shape
    dtype = weight.dtype
    columns = (weight if order is None else weight[:, order]).t().contiguous()  # [in, out]
    lower = upper.t().contiguous()
    inverse = (1.0 / upper.diagonal()).tolist()
    top = (1 << bits) - 1
    errors = torch.zeros_like(columns)
    codes = torch.empty(width, out, dtype=dtype, device=weight.device)

    def ranges(values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Scales and zeros [out, n] of `values` [out, n·g], inputs from `start` on."""
        inputs = slice(start, start + values.shape[1])
        return fit_ranges(values, None if clip is None else clip[inputs, inputs], bits, group_size, symmetric)

    if order is None:
        shape = (out, width // group_size)
        scales = torch.empty(shape, dtype=torch.float16, device=weight.device)
        zeros = torch.empty(shape, dtype=torch.uint8, device=weight.device)
    else:
        scales, zeros = ranges(weight, 0)

    def current(start: int, stop: int) -> Tensor:
        """Columns start … stop with all earlier errors absorbed."""
        if not start:
            return columns[:stop].clone()
        return torch.addmm(columns[start:stop], lower[start:stop, :start], errors[:start], alpha=-1)

    step_of = zero_of = None
    for start in range(0, width, group_size):
        if order is None:
            group = current(start, start + group_size)
            index = slice(start // group_size, start // group_size + 1)
            scales[:, index], zeros[:, index] = ranges(group.t(), start)
            step_of, zero_of = scales[:, index].to(dtype).squeeze(1), zeros[:, index].to(dtype).squeeze(1)
        for begin in range(start, start + group_size, CHUNK):
            end = min(begin + CHUNK, start + group_size)
            chunk = group if order is None and begin == start else current(begin, end)
            for j in range(begin, end):
                column = chunk[j - begin]
                if j > begin:
                    column = torch.addmv(column, errors[begin:j].t(), lower[j, begin:j], alpha=-1)
                if order is not None:
                    index = int(order[j]) // group_size
                    step_of, zero_of = scales[:, index].to(dtype), zeros[:, index].to(dtype)
                torch.div(column, step_of, out=codes[j]).round_().add_(zero_of).clamp_(0, top)  # as `round_to_grid`
                torch.sub(codes[j], zero_of, out=errors[j]).mul_(step_of)  # ŵ
                torch.sub(column, errors[j], out=errors[j]).mul_(inverse[j])
    loss = errors.square().sum(0)
    integers = codes.to(torch.uint8).t()
    if order is not None:
        integers = integers[:, torch.argsort(order)]
    return IntWeight(integers.contiguous(), scales, zeros, bits, group_size, symmetric), loss


def quantize_gptq(
    weight: Tensor,
    hessian: Tensor | Factored,
    *,
    bits: int = 4,
    group_size: int | None = 64,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
    clip: bool = False,
    name: str = "this layer",
) -> tuple[IntWeight, Tensor, list[str]]:
    """Quantize one weight matrix (or several on the same inputs, stacked along the outputs).

    Args:
        weight: float [out, in].
        hessian: mean of x xᵀ [in, in] over the calibration inputs; or that, factored (`act_order` and `damping` are
            then already decided).
        bits: bits per weight: 2, 3, 4 or 8.
        group_size: weights that share a scale along the input; None: one scale per output channel.
        symmetric: no zero point.
        act_order: columns with the largest inputs first, with scales fixed beforehand.
        damping: share of the mean diagonal of H added to it at first.
        clip: fit the range of each group to its inputs; False: it reaches to the extremes, as published.
        name: the layer, for messages.

    Returns:
        The record, the relative output error of every row [out, 2] as (Σ e², w H wᵀ), and notes for the report.

    Raises:
        UserError: for a width or group that does not fit, or an H that cannot be factored.
    """
    check_bits(bits)
    group = resolve_group(weight.shape[1], group_size, name)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight = weight.to(dtype)
    if isinstance(hessian, Tensor):
        hessian = prepare(hessian.to(dtype), damping, act_order, name)
    weight = weight.masked_fill(hessian.dead, 0)
    record, loss = solve(
        weight, hessian.upper, bits=bits, group_size=group, symmetric=symmetric, order=hessian.order,
        clip=hessian.hessian if clip else None,
    )  # fmt: skip
    energy = _quadratic(weight, hessian.hessian)
    return record, torch.stack([loss, energy], 1), list(hessian.notes)
