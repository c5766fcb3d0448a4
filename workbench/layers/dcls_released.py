"""Read what the released package `DCLS` wrote: same functions, in our order of axes.

    from_dcls(layer)               a layer of the package → ours
    load_released(model, state)    a checkpoint of such layers → our layers in `model`

The released versions disagree on the order of axes: v0 reads the rows of P as (y, x) and (z, x, y), all others as (x, y) and
(x, y, z); and all add the centre of side i to row i. `convert_positions` takes both back, exactly.

Source: PyPI `DCLS` 0.1.1, DCLS/construct/modules.py. Departures: none in the function while positions are on the grid (a weight
that stands outside contributes nothing there, and is read at the border here; `variant="reference"` keeps it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.layers.dcls_kernel import released_order
from workbench.layers.dcls_layer import Dcls, Dcls1d, Dcls2d, Dcls3d
from workbench.layers.dcls_train import layers_of


def convert_positions(P: Tensor, size: Sequence[int], version: str) -> Tensor:
    """Positions of the released package in our order and about our centres: the same kernel.

    Args:
        P: (n, O, I, m) as the package's layer holds it.
        size: sides of the kernel, first axis first.
        version: of the package's layer.
    """
    n, order = len(size), released_order(len(size), version)
    rows = [P[order[axis]] + (size[order[axis]] // 2 - size[axis] // 2) for axis in reversed(range(n))]
    return torch.stack(rows)


def to_released(P: Tensor, size: Sequence[int], version: str) -> Tensor:
    """The way back of `convert_positions`."""
    n, rows = len(size), []
    for row, axis in enumerate(map(released_order(n, version).index, range(n))):
        rows.append(P[n - 1 - axis] - (size[row] // 2 - size[axis] // 2))
    return torch.stack(rows)


def from_dcls(layer: nn.Module, *, variant: str = "correct", method: str = "auto") -> Dcls:
    """Our form of a layer of the package `DCLS` (Dcls1d, Dcls2d, Dcls3d): the same function, while positions are on the grid.

    Args:
        layer: the package's layer.
        variant: `correct` converts the positions, `reference` takes them as they are.
        method: as in `Dcls`.

    Raises:
        UserError: a module that is none of these.
    """
    sides = getattr(layer, "dilated_kernel_size", None)
    if sides is None or getattr(layer, "P", None) is None or layer.P.ndim != 4 or len(layer.P) != len(sides):
        raise UserError(
            f"{type(layer).__name__} is not a Dcls1d, Dcls2d or Dcls3d of the package DCLS; give one of them."
        )
    ours = {1: Dcls1d, 2: Dcls2d, 3: Dcls3d}[len(sides)](
        layer.in_channels, layer.out_channels, layer.kernel_count, tuple(sides), stride=tuple(layer.stride),
        padding=tuple(layer.padding), groups=layer.groups, bias=layer.bias is not None, padding_mode=layer.padding_mode,
        version=layer.version, variant=variant, method=method, device=layer.weight.device, dtype=layer.weight.dtype,
    )  # fmt: skip
    load_released(ours, layer.state_dict())
    return ours.train(layer.training)


def load_released(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a checkpoint of the released package into a model that holds our layers in the same places.

    Args:
        model: with DCLS layers of the checkpoint's versions and sizes.
        state: names and tensors; positions are converted unless a layer's variant is `reference`.
        strict: refuse missing and unknown names, as torch does.
    """
    converted = dict(state)
    names = {id(module): name for name, module in model.named_modules()}
    for layer in layers_of(model):
        key = f"{names[id(layer)]}.P".lstrip(".")
        if key in converted and layer.variant == "correct":
            converted[key] = convert_positions(converted[key], layer.dilated_kernel_size, layer.version)
    model.load_state_dict(converted, strict=strict)
