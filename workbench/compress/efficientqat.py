"""EfficientQAT: train a quantized model at the price of one transformer block, then its step sizes end to end.

Phase 1, Block-AP ("all parameters"). Block by block from the first; two streams of hidden states go through the model:

    x̂ ← what the finished quantized blocks before give           x ← block(x), the untouched block: also the target
    min over weights, steps s, zero points z, norms of    mean over tokens of ‖block_q(x̂) − x‖² / ‖x‖²

Memory: one block with its optimizer, and the two streams. The block is then frozen to integers and x̂ goes through those.

Phase 2, E2E-QP (`e2e_qp.py`): integers and zero points stay, the steps of all layers train on the next-token loss.

Source: Chen, Shao, Xu, Wang, Gao, Zhang & Luo 2024, arXiv 2407.11062, §3 and the authors' code (AdamW, no weight decay,
cosine to a twentieth, no warm-up and no clipping in phase 1, two epochs in unchanged order). Departures:
* the loss of a token is relative to the size of its target (`equal_tokens`; False is the published sum of squares). A few
  tokens of a language model have hidden states thousands of times larger than the rest, and would decide it alone;
* learning rates are shares of a layer's own median step, so one number serves every model; the published 1e-4 (s, z) and
  1e-5 … 2e-5 (weights; twice at 2 bits, where steps double too) belong to thousands of updates, here tens have to do;
* the first grid has zero inside its range, steps are float16 when codes are computed, zero points are clamped before they
  are packed (the code packs them unclamped, and one that left the range would spoil its neighbours);
* the first ranges are fitted to the inputs (`clip`, `ranges`; False is the published grid, which reaches to the extremes): at
  2 bits training starts from a model instead of from noise;
* biases stay, as published, and so do layers that are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from workbench.compress._block_fit import PARTS, block_error, fit_block
from workbench.compress._fake_quant import FakeQuant
from workbench.compress.e2e_qp import RATE as END_RATE
from workbench.compress.e2e_qp import e2e_qp
from workbench.compress.gptq import Hessian
from workbench.compress.packing import check_bits
from workbench.compress.records import IntWeight
from workbench.compress.rtn import resolve_group
from workbench.compress.targets import check_dense, check_finite, find_targets, matrix, sizes
from workbench.compress.walk import Block, _embed, _record, check_tokens, find_blocks, part_tokens
from workbench.errors import UserError, choose
from workbench.progress import Progress, silent

Place = Callable[[str, IntWeight, float, str], None]
QUANT_RATE = 0.005  # of s: share of the layer's median step an update; of z: codes an update
WEIGHT_RATE = 0.01  # share of the layer's median step an update
PHASE_2 = 0.4  # share of phase 1's time that phase 2 is counted with in the progress


def block_ap(
    model: nn.Module,
    windows: list[Tensor],
    *,
    bits: int = 4,
    group_size: int | None = 64,
    symmetric: bool = False,
    skip: tuple[str, ...] | list[str] = ("lm_head",),
    train: tuple[str, ...] | list[str] = PARTS,
    epochs: int = 2,
    batch_size: int = 2,
    weight_rate: float = WEIGHT_RATE,
    quant_rate: float = QUANT_RATE,
    equal_tokens: bool = True,
    clip: bool = True,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Phase 1 alone, on a dense model: it is packed afterwards, saves and reloads.

    Args:
        model: a dense transformers model, changed in place.
        windows: calibration text: token ids, each (1, tokens).
        bits: bits per weight: 2, 3, 4 or 8.
        group_size: weights that share a scale along the input; None: one scale per output channel.
        symmetric: no zero point.
        skip: names or patterns that stay dense besides the head and tied weights.
        train: which of weights, scales and zeros train; the norms of the block go with the weights.
        epochs: passes over the text for every block; 0 is round-to-nearest.
        batch_size: windows per update.
        weight_rate: peak change of a weight per update, as a share of its layer's median step.
        quant_rate: the same for steps, and in codes for zero points.
        equal_tokens: every token counts by its relative error; False: by its squared error, as published.
        clip: start from ranges that are fitted to the inputs; False: from the extremes, as published.
        progress: called after every update.

    Returns:
        Per block {name, before, after}: its mean relative error on the first windows, rounded and trained.

    Raises:
        UserError: for anything that does not fit, before the first layer changes.
        JobError: when the loss is not finite; the model is then half packed, load it again.
    """
    from workbench.compress.packed_model import finish, packed_layer

    check_bits(bits)
    check_dense(model)
    targets = find_targets(model, skip)
    for name, module in targets.items():
        resolve_group(sizes(module)[1], group_size, name)
    check_finite(targets)
    check_tokens(targets, windows, "efficientqat")
    was_training = model.training
    model.eval()

    def place(name: str, record: IntWeight, error: float, of: str) -> None:
        model.set_submodule(name, packed_layer(targets[name], record))

    found = train_blocks(
        model, targets, windows, place, bits=bits, group_size=group_size, symmetric=symmetric, train=train, epochs=epochs,
        batch_size=batch_size, weight_rate=weight_rate, quant_rate=quant_rate, equal_tokens=equal_tokens, clip=clip,
        progress=progress,
    )  # fmt: skip
    finish(model, "block-ap", bits, group_size, symmetric, False)
    model.train(was_training)
    return found


def quantize_efficientqat(
    model: nn.Module,
    targets: dict[str, nn.Module],
    windows: list[Tensor],
    place: Place,
    *,
    bits: int = 4,
    group_size: int | None = 64,
    symmetric: bool = False,
    epochs: int = 2,
    batch_size: int = 2,
    weight_rate: float = WEIGHT_RATE,
    quant_rate: float = QUANT_RATE,
    equal_tokens: bool = True,
    clip: bool = True,
    end_epochs: int = 1,
    end_rate: float = END_RATE,
    progress: Progress = silent,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Both phases, for `quantize_model`, which has checked everything.

    Args:
        model: a dense transformers model in evaluation mode, changed in place.
        targets: name → layer, as `find_targets` gives them.
        windows: calibration text: token ids, each (1, tokens); both phases train on it.
        place: called with (name, record, error, "weight") for each layer; puts the packed layer into the model.
        bits: bits per weight: 2, 3, 4 or 8.
        group_size: weights that share a scale along the input; None: one scale per output channel.
        symmetric: no zero point.
        epochs: passes over the text for every block in phase 1.
        batch_size: windows per update.
        weight_rate: peak change of a weight per update, as a share of its layer's median step.
        quant_rate: the same for steps, and in codes for zero points.
        equal_tokens: every token counts by its relative error; False: by its squared error, as published.
        clip: start from ranges that are fitted to the inputs; False: from the extremes, as published.
        end_epochs: passes over the text in phase 2.
        end_rate: peak change of a step per update in phase 2, as a share of the layer's median step.
        progress: called after every update.

    Returns:
        What `block_ap` returns, and the losses of phase 2.

    Raises:
        UserError: for epochs below 1: a model with one phase or without training must not go by this name.
        JobError: when a loss is not finite; the model is then half packed, load it again.
    """
    if epochs < 1 or end_epochs < 1:
        raise UserError(
            f"efficientqat trains blocks and then all steps; epochs {epochs} and end_epochs {end_epochs} must be 1 or "
            "more. For one phase call block_ap or e2e_qp."
        )
    whole = 1 + PHASE_2
    blocks = train_blocks(
        model, targets, windows, place, bits=bits, group_size=group_size, symmetric=symmetric, train=PARTS, epochs=epochs,
        batch_size=batch_size, weight_rate=weight_rate, quant_rate=quant_rate, equal_tokens=equal_tokens, clip=clip,
        progress=lambda done, total, text: progress(done / total, whole, text),
    )  # fmt: skip
    losses = e2e_qp(
        model, windows, epochs=end_epochs, batch_size=batch_size, rate=end_rate,
        progress=lambda done, total, text: progress(whole - PHASE_2 * (1 - done / total), whole, text),
    )  # fmt: skip
    return blocks, losses


def train_blocks(
    model: nn.Module, targets: dict[str, nn.Module], windows: list[Tensor], place: Place, *, bits: int,
    group_size: int | None, symmetric: bool, train: tuple[str, ...] | list[str], epochs: int, batch_size: int,
    weight_rate: float, quant_rate: float, equal_tokens: bool, clip: bool, progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """Phase 1: every block in turn; arguments as for `block_ap` and `quantize_efficientqat`."""
    parts = [choose("part to train", part, PARTS) for part in train]
    if not parts or batch_size < 1:
        raise UserError(f"train names {list(train)} and batch_size is {batch_size}; train some of {', '.join(PARTS)}.")
    blocks = find_blocks(model, targets, "efficientqat")
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    found: list[dict[str, Any]] = []
    with torch.no_grad():
        _record(model, blocks, targets, windows)
        limit = part_tokens(model, targets)
        exact = [
            torch.cat([_embed(model, blocks[0], part).float() for part in same.split(max(1, limit // same.shape[1]))])
            for same in _by_length(windows)
        ]
    stream = [hidden.clone() for hidden in exact]
    model.requires_grad_(False)
    try:
        for index, block in enumerate(blocks):
            own = {name: module for name, module in targets.items() if name.startswith(block.name + ".")}
            dtype = next(block.module.parameters()).dtype
            block.module.float()
            block.arguments = {length: tree_map(_float, arguments) for length, arguments in block.arguments.items()}
            with _inputs(own if clip else {}, equal_tokens) as hessians:
                _advance(block, exact, limit)
            original = {name: matrix(module).clone() for name, module in own.items()}
            quants = {
                name: _attach(name, module, bits, group_size, symmetric, hessians.get(name))
                for name, module in own.items()
            }
            del hessians
            before = block_error(block, stream, exact, equal_tokens)
            fit_block(
                block, quants, stream, exact, parts, (weight_rate, quant_rate), epochs, batch_size, equal_tokens,
                lambda share, text, at=index: progress(at + share, len(blocks), text),
            )  # fmt: skip
            for name, quant in quants.items():
                _freeze(name, own[name], quant, original.pop(name), place)
            after = block_error(block, stream, exact, equal_tokens)
            _advance(block, stream, limit)
            block.module.to(dtype)
            found.append({"name": block.name, "before": before, "after": after})
            progress(index + 1, len(blocks), f"block {index + 1} of {len(blocks)}")
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    for name, module in targets.items():  # layers outside the blocks
        if not any(name.startswith(block.name + ".") for block in blocks):
            weight = matrix(module)
            _place_record(name, weight, FakeQuant(weight, bits, group_size, symmetric).record(weight), place)
    return found


def _by_length(windows: list[Tensor]) -> list[Tensor]:
    """Windows stacked by length, (n, tokens) each, in their order."""
    lengths = sorted({window.shape[1] for window in windows})
    return [torch.cat([window for window in windows if window.shape[1] == length]) for length in lengths]


def _float(value: Any) -> Any:
    """Position embeddings and masks in float32, everything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def _advance(block: Block, streams: list[Tensor], limit: int) -> None:
    """Replace hidden states by what the block makes of them, in place, a part at a time."""
    for states in streams:
        for part in states.split(max(1, limit // states.shape[1])):
            part.copy_(block.run(part))


@contextmanager
def _inputs(layers: dict[str, nn.Module], equal_tokens: bool) -> Iterator[dict[str, Hessian]]:
    """Hessians of what the layers meet inside, by name; a layer that nothing reaches has none."""
    found: dict[str, Hessian] = {}

    def watch(name: str, module: nn.Module, args: tuple) -> None:
        found.setdefault(name, Hessian(sizes(module)[1], equal_tokens)).add(args[0])

    handles = [module.register_forward_pre_hook(partial(watch, name)) for name, module in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _attach(
    name: str, module: nn.Module, bits: int, group_size: int | None, symmetric: bool, hessian: Hessian | None
) -> FakeQuant:
    """Quantize the layer's weight from now on, whenever it is used."""
    turned = not isinstance(module, nn.Linear)
    met = None if hessian is None else hessian.matrix()
    quant = FakeQuant(matrix(module), bits, group_size, symmetric, turned, name, met).to(module.weight.device)
    parametrize.register_parametrization(module, "weight", quant, unsafe=True)
    return quant


def _freeze(name: str, module: nn.Module, quant: FakeQuant, original: Tensor, place: Place) -> None:
    """Put the packed layer in place of a trained one."""
    trained = module.parametrizations.weight.original.detach()
    record = quant.record(trained.t() if quant.transposed else trained)
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    _place_record(name, original, record, place)


def _place_record(name: str, original: Tensor, record: IntWeight, place: Place) -> None:
    error = float((original - record.dequantize()).norm() / original.norm().clamp(min=1e-30))
    place(name, record, error, "weight")
