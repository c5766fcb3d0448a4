"""AWQ: give the weights that meet large inputs a finer grid, by scaling columns up before rounding.

Rounding errs by about the same step Δ in every column of a group, but a column's error counts with the size of its input.
Multiply column j by s_j > 1 and divide input j by s_j: the step hardly changes (one column seldom decides the range), the
error of that column shrinks by s_j (Lin et al. 2023, arXiv 2306.00978, §3.2, eq. 2 and 4–5):

    W x = (W·diag s)(x/s)      s = a^α, a_j the size of input j, α ∈ {0, 1/20 … 19/20} with the least ‖(Ŵ − W) X‖²

    weight [out, in] · H = mean of x xᵀ [in, in] · a = √diag H [in] · s [in], normalized so that √(max·min) = 1

Then the range of every group is clipped to c times its extremes, for the least ‖(ŵ − w) X‖² of that group alone (`ranges`).

α = 0 and c = 1 are plain rounding, and a row keeps its clipped ranges only where its output gains, so the search never does
worse than rounding on the calibration text. Layers with the same input share s, and s goes where it costs nothing
(`awq_fold`): into the norm or the linear layer before, else into the layer's record.

Departures: a is the root mean square, not the mean magnitude (H is there already, and one `Calibration` serves GPTQ and AWQ);
the loss is the relative output error of the layers, summed over those that share s, not that of the module around them (sums
of plain squares would give up the values for the sake of the much larger queries and keys); queries and keys are clipped too.
Every calibration token counts equally, as in `gptq`.

How it fares beside rounding and GPTQ stands in `assets/findings/compression.json`. Trying the loss of the module around the
layers, as the authors do, changed nothing there: perplexity 113.5 instead of 114.4 at 3 bits, for twice the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.compress.awq_fold import Fold, find_folds
from workbench.compress.gptq import Hessian, _quadratic
from workbench.compress.linear import IntLinear
from workbench.compress.ranges import fit_ranges
from workbench.compress.records import IntWeight
from workbench.compress.rtn import quantize_rtn, round_to_grid
from workbench.compress.targets import matrix, set_matrix
from workbench.compress.walk import find_blocks

STEPS = 20
Place = Callable[[str, IntWeight, float, str], None]


def candidate(hessian: Tensor, alpha: float, tie: Tensor | None = None) -> Tensor:
    """s [in] for one α, in float16 steps; inputs with equal `tie` [in] get one value, from their mean square."""
    square = hessian.diagonal().double().clamp(min=0)
    if tie is not None:
        tie = tie.to(square.device)
        rows = torch.zeros(int(tie.max()) + 1, dtype=square.dtype, device=square.device)
        square = (rows.index_add(0, tie, square) / torch.bincount(tie).clamp(min=1))[tie]
    if not bool(square.any()):
        return torch.ones_like(hessian.diagonal())
    size = square.clamp(min=1e-8 * square.max()).sqrt()
    scale = size**alpha
    return (scale / (scale.max() * scale.min()).sqrt()).half().to(hessian.dtype)


def clipped(weight: Tensor, hessian: Tensor, record: IntWeight) -> IntWeight:
    """`weight` [out, in] rounded again, each group's range shrunk by the factor that suits its own inputs best.

    Args:
        weight: what `record` rounds.
        hessian: mean of x xᵀ [in, in] of its inputs.
        record: plain rounding; gives bits, group size and symmetry.
    """
    scales, zeros = fit_ranges(weight, hessian, record.bits, record.group_size, record.symmetric)
    step, zero = (part.to(weight.dtype).repeat_interleave(record.group_size, 1) for part in (scales, zeros))
    codes = round_to_grid(weight, step, zero, record.bits).to(torch.uint8)
    return replace(record, codes=codes, scales=scales, zeros=zeros)


def quantize_awq(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int = 4,
    group_size: int | None = 64,
    symmetric: bool = False,
    steps: int = STEPS,
    tie: Tensor | None = None,
    rows: list[int] | None = None,
) -> tuple[IntWeight, Tensor]:
    """Find the scales of one weight matrix (or several on the same inputs, stacked along the outputs), and round it.

    Args:
        weight: float [out, in].
        hessian: mean of x xᵀ [in, in] over the calibration inputs.
        bits: bits per weight: 2, 3, 4 or 8.
        group_size: weights that share a scale along the input; None: one scale per output channel.
        symmetric: no zero point.
        steps: values of α that are tried.
        tie: int64 [in], inputs with the same number share a scale; None: each has its own.
        rows: output rows of each of the stacked matrices, which count equally; None: one matrix.

    Returns:
        The record of W with s as its input scale, and the output error of every row [out, 2] as (error, w H wᵀ).

    Raises:
        UserError: for a width or group that does not fit.
    """
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight, hessian = weight.to(dtype), hessian.to(dtype)
    energy = _quadratic(weight, hessian)
    share = torch.cat(
        [1 / part.sum().clamp(min=1e-30).expand(len(part)) for part in energy.split(rows or [len(weight)])]
    )
    best, least = None, float("inf")
    for step in range(steps):
        scale = candidate(hessian, step / steps, tie)
        record = quantize_rtn(weight * scale, bits=bits, group_size=group_size, symmetric=symmetric)
        error = _quadratic(record.dequantize(dtype) / scale - weight, hessian)
        loss = float((error * share).sum())
        if best is None or loss < least:
            best, least = (replace(record, input_scale=scale.half()), error), loss
    record, error = best
    scale = record.input_scale.to(dtype)
    narrow = clipped(weight * scale, hessian / torch.outer(scale, scale), record)
    after = _quadratic(narrow.dequantize(dtype) - weight, hessian)
    gains = (after < error).unsqueeze(1)
    chosen = {
        part: torch.where(gains, getattr(narrow, part), getattr(record, part)) for part in ("codes", "scales", "zeros")
    }
    return replace(record, **chosen), torch.stack([torch.minimum(error, after), energy], 1)


class Scaling:
    """AWQ over a model: solves one group of layers after the other, in calling order, and folds its scales away.

    While a block is passed, its dense layers hold the weights that the records stand for in the inputs as they were. Records
    and divided norms come in together once the block is left (`settle`): a pass looks up its second layer after the first was
    solved, and a record that expects divided inputs would meet them undivided.

    Args:
        model: the model whose layers are replaced as they are solved.
        targets: name → dense layer.
        settings: bits, group_size, symmetric.
    """

    def __init__(self, model: nn.Module, targets: dict[str, nn.Module], **settings) -> None:
        self.model, self.targets, self.settings = model, targets, settings
        self.folds: dict[str, Fold] = find_folds(model, targets)
        self.blocks = [block.name + "." for block in find_blocks(model, targets, "awq")]
        self.block: str | None = None
        self.due: list[Callable[[], None]] = []

    def solve(self, place: Place, names: list[str], hessian: Hessian) -> None:
        """Scale and round the layers `names`, which share an input.

        `place(name, record, error, "output")` will put each record into the model. Call `settle` after the last group.
        """
        block = next((name for name in self.blocks if names[0].startswith(name)), None)
        if block != self.block:
            self.settle()
            self.block = block
        fold = self.folds.get(names[0])
        weights = [matrix(self.targets[name]).float() for name in names]
        tie = None if fold is None else fold.tie
        record, cost = quantize_awq(
            torch.cat(weights), hessian.matrix(), tie=tie, rows=[len(weight) for weight in weights], **self.settings
        )
        scale = record.input_scale.float()
        start = 0
        for name, weight in zip(names, weights, strict=True):
            rows = slice(start, start + len(weight))
            start += len(weight)
            part = replace(record, codes=record.codes[rows], scales=record.scales[rows], zeros=record.zeros[rows])
            set_matrix(self.targets[name], part.dequantize())
            loss, energy = cost[rows].sum(0).tolist()
            kept = part if fold is None else replace(part, input_scale=None)
            error = (loss / max(energy, 1e-30)) ** 0.5
            self.due.append(functools.partial(place, name, kept, error, "output"))
        if fold is not None:
            self.due.append(functools.partial(self._divide, fold, scale))

    def settle(self) -> None:
        """Put the records of the block that was passed last into the model, and divide what makes their inputs."""
        for act in self.due:
            act()
        self.due.clear()

    def _divide(self, fold: Fold, scale: Tensor) -> None:
        source = self.model.get_submodule(fold.source)
        if not isinstance(source, IntLinear):
            fold.divide(source, scale)
            return
        rows = fold.reduce(scale)  # codes do not change: a row divided by s is a row of steps divided by s
        record = source.record()
        record = replace(record, scales=(record.scales.float() / rows.unsqueeze(1)).half())
        layer = IntLinear.from_record(record, None if source.bias is None else source.bias.data / rows)
        layer.was_conv1d = source.was_conv1d
        self.model.set_submodule(fold.source, layer.train(source.training))
