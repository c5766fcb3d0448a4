"""Put DCLS into a model, and take it out again.

    replace_depthwise(model)    depthwise convolutions of a ConvNeXt → DCLS, one set of positions per stage
    from_conv(conv, 17)         one convolution → DCLS that starts as the same function
    export_convs(model)         DCLS → plain convolutions with the dense kernels, for other engines

Source: the released ConvNeXt with DCLS (K-H-Ismail/ConvNeXt-dcls): 17 × 17, 34 weights (40 for S and B), weights from a
truncated normal 0.02, biases 0, positions shared by the blocks of a stage. Departures: version v1 by default, whose
values are those of v0; `start="conv"`, which keeps a pretrained convolution's taps, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from workbench.errors import UserError, choose
from workbench.layers.dcls_layer import Dcls, Dcls1d, Dcls2d, Dcls3d
from workbench.layers.dcls_released import to_released
from workbench.layers.dcls_train import share_positions

OF_CONV = {nn.Conv1d: Dcls1d, nn.Conv2d: Dcls2d, nn.Conv3d: Dcls3d}


def replace_depthwise(
    model: nn.Module, size: int = 17, kernel_count: int = 34, *, version: str = "v1", share: bool = True,
    start: str = "fresh", variant: str = "correct", method: str = "auto",
) -> list[str]:  # fmt: skip
    """Replace every depthwise convolution of stride 1 by DCLS, in place; pictures keep their size.

    Args:
        model: for example a ConvNeXt of transformers; layers with one kernel per channel are found by themselves.
        size: side of the new kernels, odd, in pixels.
        kernel_count: weights per channel.
        version: `v0`, `v1`, `max` or `gauss`.
        share: one set of positions (and widths) for all blocks of a stage: those that sit in the same list.
        start: `fresh`, or `conv` to begin with the strongest taps of the old kernels (not with `share`).
        variant, method: as in `Dcls`.

    Returns:
        Names of the replaced modules.

    Raises:
        UserError: an even size, nothing to replace, `share` together with start `conv`.
    """
    choose("start", start, ("fresh", "conv"))
    if size < 1 or size % 2 == 0:
        raise UserError(f"A kernel of side {size} would change the size of the picture; take an odd side such as 17.")
    if start == "conv" and share:
        raise UserError("Old taps differ from block to block, so shared positions cannot start there; say share=False.")
    names = [name for name, module in model.named_modules() if _is_depthwise(module, size)]
    if not names:
        raise UserError(
            f"This model has no depthwise convolution of stride 1 with an odd kernel up to {size}; nothing to replace."
        )
    stages: dict[tuple[str, int], list[Dcls]] = {}
    for name in names:
        conv = model.get_submodule(name)
        layer = from_conv(conv, size, kernel_count, version=version, variant=variant, method=method)
        if start == "fresh":
            layer.reset_parameters()
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
        stages.setdefault((name.rsplit(".", 2)[0], layer.in_channels), []).append(layer)
    if share:
        for layers in stages.values():
            share_positions(layers)
    return names


def _is_depthwise(module: nn.Module, size: int) -> bool:
    if type(module) not in OF_CONV or not module.groups == module.in_channels == module.out_channels > 1:
        return False
    sides = module.kernel_size
    return (
        {*module.stride, *module.dilation} == {1}
        and all(s % 2 and s <= size for s in sides)
        and max(sides) > 1
        and module.padding == tuple(s // 2 for s in sides)
    )


def from_conv(
    conv: nn.Module, size: int | Sequence[int], kernel_count: int | None = None, *, version: str = "v1",
    variant: str = "correct", method: str = "auto",
) -> Dcls:  # fmt: skip
    """A DCLS layer whose weights start on the taps of a convolution.

    Args:
        conv: Conv1d, Conv2d or Conv3d with dilation 1 and padding in numbers.
        size: sides of the new kernel, at least those of the old and even or odd as they are.
        kernel_count: weights per filter; with as many as taps (None) the function is the same, with fewer each filter keeps
            its largest weights, with more the rest starts at 0.
        version, variant, method: as in `Dcls`. Version gauss cannot be narrower than 0.27 pixels, so it starts near.

    Raises:
        UserError: another kind of module, dilation, or a kernel that does not fit inside.
    """
    if type(conv) not in OF_CONV or set(conv.dilation) != {1} or isinstance(conv.padding, str):
        raise UserError(f"{conv} cannot become DCLS; give a Conv1d, Conv2d or Conv3d of dilation 1, padded by numbers.")
    old = conv.kernel_size
    sides = (size,) * len(old) if isinstance(size, int) else tuple(size)
    if len(sides) != len(old) or any(s < o or (s - o) % 2 for s, o in zip(sides, old, strict=True)):
        raise UserError(f"A kernel of {old} has no middle place in one of {sides}; take sides larger by 0, 2, 4 …")
    taps = conv.weight[0, 0].numel()
    count = taps if kernel_count is None else kernel_count
    layer = OF_CONV[type(conv)](
        conv.in_channels, conv.out_channels, count, sides, stride=conv.stride, groups=conv.groups,
        padding=tuple(p + (s - o) // 2 for p, s, o in zip(conv.padding, sides, old, strict=True)),
        bias=conv.bias is not None, padding_mode=conv.padding_mode, version=version, variant=variant, method=method,
        device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        kept = conv.weight.flatten(2)
        index = kept.abs().topk(min(count, taps), dim=-1).indices.sort(-1).values  # (O, I, kept)
        layer.weight.zero_()
        layer.weight[..., : index.shape[-1]] = kept.gather(-1, index)
        steps = torch.stack(torch.unravel_index(index, old)).to(layer.P.dtype)  # (n, O, I, kept), first axis first
        centre = torch.tensor([o // 2 for o in old], device=steps.device).view(-1, 1, 1, 1)
        ours = (steps - centre).flip(0)
        layer.P[..., : index.shape[-1]] = ours if variant == "correct" else to_released(ours, sides, version)
        if layer.SIG is not None:
            layer.SIG.zero_()
        if conv.bias is not None:
            layer.bias.copy_(conv.bias)
    return layer.train(conv.training)


def export_convs(model: nn.Module) -> list[str]:
    """Replace every DCLS layer of a model by the plain convolution it is now, in place; returns the names."""
    names = [name for name, module in model.named_modules() if isinstance(module, Dcls)]
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, model.get_submodule(name).to_conv())
    if not names:
        raise UserError("This model has no DCLS layer to export.")
    return names
