"""What training a DCLS network needs beside the layer: optimizer groups, clamping, shared positions, repulsion.

The recipe for ConvNeXt: positions get five times the learning rate and no weight decay, are clamped to the grid after every
step, all blocks of a stage share one set of them, and (from epoch 20 on) a repulsion keeps the elements of a filter apart:

    repulsion = mean over filters of Σ_{k<l} max(0, 1 − ‖p_k − p_l‖₂) · 2 / (m (m − 1))          loss += (mean over layers)²

Positions are in pixels, ‖·‖₂ over the n axes.

Source: Khalfaoui-Hassani, Pellegrini, Masquelier, ICLR 2023, arXiv 2112.03740, §4.1 and appendix; the released recipe,
K-H-Ismail/ConvNeXt-dcls. Departures: the factor on the learning rate is part of the group, so no renaming of groups loses
it; clamping keeps even kernels inside their grid; a shared position counts once in the repulsion, as in the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workbench.errors import UserError
from workbench.layers.dcls_layer import Dcls


def layers_of(model: nn.Module) -> Iterator[Dcls]:
    """The DCLS layers of a model, in its order.

    Raises:
        UserError: when there are none; a recipe that silently does nothing would look like one that does not help.
    """
    found = [module for module in model.modules() if isinstance(module, Dcls)]
    if not found:
        raise UserError("This model has no DCLS layer; build one with Dcls2d, or call replace_depthwise(model) first.")
    return iter(found)


def position_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, lr_mult: float = 5.0
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: weights, biases and norms (no decay), positions (no decay, higher rate).

    Args:
        model: with at least one DCLS layer; parameters that do not need a gradient are left out.
        lr: learning rate of everything but the positions.
        weight_decay: of parameters with two axes or more.
        lr_mult: how many times `lr` the positions get. Schedules of torch multiply each group's own rate, so it stays.

    Returns:
        Up to three groups with the keys name, params, lr, weight_decay; every parameter is in exactly one.
    """
    places = {id(layer.P) for layer in layers_of(model)}
    groups = {
        "weights": {"lr": lr, "weight_decay": weight_decay},
        "biases and norms": {"lr": lr, "weight_decay": 0.0},
        "positions": {"lr": lr * lr_mult, "weight_decay": 0.0},
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in groups}
    for parameter in model.parameters():
        if parameter.requires_grad:
            place = "positions" if id(parameter) in places else "weights" if parameter.ndim > 1 else "biases and norms"
            parts[place].append(parameter)
    return [{"name": name, "params": parts[name], **rest} for name, rest in groups.items() if parts[name]]


def clamp_positions(model: nn.Module) -> None:
    """Move every position that has left its kernel back to the border; call it after each optimizer step, before an EMA."""
    for layer in layers_of(model):
        layer.clamp_positions()


def clamp_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    """Call `clamp_positions(model)` after every step of an optimizer, by itself; `.remove()` on what it returns stops that."""
    layers_of(model)
    return optimizer.register_step_post_hook(lambda *_: clamp_positions(model))


def share_positions(layers: Iterable[nn.Module]) -> None:
    """Give several layers one set of positions (and widths): the first one's; each keeps its own weights.

    Args:
        layers: DCLS layers, or modules that hold some, such as the blocks of a stage.

    Raises:
        UserError: layers whose positions differ in shape, kernel size, version or variant.
    """
    found = [layer for module in layers for layer in layers_of(module)]
    first, *others = found or [None]
    for layer in others:
        mine, same = _kind(first), _kind(layer)
        if mine != same:
            raise UserError(
                f"Positions cannot be shared between {mine} and {same}; share within a stage of equal layers."
            )
        layer.P, layer.SIG = first.P, first.SIG


def _kind(layer: Dcls) -> str:
    shape = " × ".join(map(str, layer.P.shape))
    return f"{layer.version} ({layer.variant}), positions {shape}, kernel {layer.dilated_kernel_size}"


def repulsion(model: nn.Module) -> Tensor:
    """(Mean repulsion)² of a model's positions, a scalar to add to the loss: 0 when all are at least a pixel apart."""
    unique = {id(layer.P): layer.P for layer in layers_of(model)}
    return torch.stack([_crowding(P).mean() for P in unique.values()]).mean() ** 2


def _crowding(P: Tensor) -> Tensor:
    """Repulsion of each filter, (O, I), from positions (n, O, I, m)."""
    m = P.shape[-1]
    first, second = torch.triu_indices(m, m, 1, device=P.device)
    square = (P[..., first] - P[..., second]).square().sum(0)  # (O, I, pairs)
    apart = square == 0  # the slope of √ is infinite there; two elements on one spot have no direction to part in
    distance = square.masked_fill(apart, 1.0).sqrt().masked_fill(apart, 0.0)
    return (1 - distance).relu().sum(-1) * (2 / (m * (m - 1)) if m > 1 else 0.0)
