"""muP: the parametrization under which the best learning rate stays where it is while the width grows.

A parameter is classed by which of its axes grow with width (found by comparing shapes with a narrower *base* model):
    matrix  two growing axes (hidden weights)            init std × m^(−1/2)   Adam rate × 1/m   (SGD: × out/in ratio)
    input   only the output axis grows (embeddings, biases, norms)             Adam rate × 1     (SGD: × m)
    output  only the input axis grows (the readout)      init std as at base, forward × 1/m, Adam rate × 1 (SGD: × m)
    fixed   no axis grows
with m = width / base width of the input axis (of the output axis for `input`). Attention logits use q·k·√d_base/d instead
of q·k/√d. At the base width everything equals the plain model, bit for bit.

Source: Yang & Hu 2021, arXiv 2011.14522 (abc-parametrizations, theorem of the dynamical dichotomy); Yang et al. 2022,
arXiv 2203.03466, table 8 (the recipe). Departures from the package `mup`: no attributes are hung on parameters, so saving,
DDP and peft work; weight decay stays independent of the rate's division by m.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from workbench.errors import UserError

Role = Literal["matrix", "input", "output", "fixed"]


@dataclasses.dataclass(frozen=True)
class Width:
    """How one parameter grows: its role, m of its input axis, m of its output axis."""

    role: Role
    fan_in: float
    fan_out: float


_FIXED = Width("fixed", 1.0, 1.0)


def width_multipliers(model: nn.Module, base: nn.Module) -> dict[str, Width]:
    """Class every parameter of `model` by comparing its shape with the same parameter of `base` (meta device is enough).

    Raises:
        UserError: different parameter names, or axes that shrink or grow unevenly in one tensor without being its width.
    """
    mine, other = dict(model.named_parameters()), dict(base.named_parameters())
    if mine.keys() != other.keys():
        odd = sorted(mine.keys() ^ other.keys())[0]
        raise UserError(f"Model and base differ in more than width: {odd!r} exists in only one of them.")
    embeddings = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    found = {}
    for name, tensor in mine.items():
        shape, small = tuple(tensor.shape), tuple(other[name].shape)
        if len(shape) != len(small):
            raise UserError(f"{name} has {len(shape)} axes here and {len(small)} in the base model.")
        if len(shape) == 1:
            ratio = shape[0] / small[0]
            found[name] = Width("input" if ratio != 1 else "fixed", 1.0, ratio)
            continue
        out_axis, in_axis = (1, 0) if name in embeddings else (0, 1)
        fan_in, fan_out = shape[in_axis] / small[in_axis], shape[out_axis] / small[out_axis]
        grows = (fan_in != 1, fan_out != 1)
        role: Role = {(True, True): "matrix", (False, True): "input", (True, False): "output"}.get(grows, "fixed")
        found[name] = Width(role, fan_in, fan_out)
    return found


class MupReadout(nn.Linear):
    """A readout whose logits are divided by m = d_in / base d_in: y = x Wᵀ / m + b."""

    def __init__(self, d_in: int, d_out: int, *, base_d_in: int, bias: bool = True, **kwargs: Any) -> None:
        super().__init__(d_in, d_out, bias=bias, **kwargs)
        self.multiplier = base_d_in / d_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) → (…, d_out)"""
        return nn.functional.linear(x * self.multiplier, self.weight, self.bias)


def mup_init_(model: nn.Module, base: nn.Module, *, zero_readout: bool = False) -> nn.Module:
    """Turn a freshly initialised plain model into its muP version, in place. Call it once, before training.

    Hidden weights are multiplied by m^(−1/2) where their initial std does not fall with width by itself (a fixed std such as
    transformers' `initializer_range`). Weights of default-initialised hidden linears (std ∝ 1/√fan_in) are left alone, but
    their biases and the whole readout, which torch also makes fall with fan_in, are brought back to the base's size (× √m).
    Readouts return logits / m. Attention layers with a `scaling` attribute get √d_base / d.

    Args:
        model: fresh model.
        base: the same architecture at base width (meta device is enough).
        zero_readout: start the readout at zero.

    Raises:
        UserError: called twice; `zero_readout` where no readout can start at zero (none found, or tied to the embedding).
    """
    if getattr(model, "_mup_done", False):
        raise UserError("mup_init_ was already applied to this model; a second time would rescale it twice.")
    widths = width_multipliers(model, base)
    fixed_std = hasattr(getattr(model, "config", None), "initializer_range")
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    small = dict(base.named_modules())
    # At the base width no shape tells the readout: its class or the model itself does.
    head = getattr(model, "get_output_embeddings", lambda: None)()
    readouts = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (
            module is head
            or isinstance(module, MupReadout)
            or id(module.weight) in tied
            or widths.get(f"{name}.weight", _FIXED).role == "output"
        )
    }
    free = {name for name in readouts if id(model.get_submodule(name).weight) not in tied}
    if zero_readout and not free:
        raise UserError(
            "zero_readout found no readout that can start at zero (one tied to the embedding cannot); "
            "make the last layer a MupReadout, or leave zero_readout out."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if widths[name].role == "matrix" and fixed_std:
                parameter.mul_(widths[name].fan_in ** -0.5)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                growth = module.in_features / small[name].in_features
                if name in readouts:
                    _as_readout(module, 1 / growth)
                if not fixed_std:  # default init falls with fan_in: bring readouts and biases back to the base's size
                    if name in free:
                        module.weight.mul_(growth**0.5)
                    if module.bias is not None:
                        module.bias.mul_(growth**0.5)
                if zero_readout and name in free:
                    module.weight.zero_()
            if hasattr(module, "scaling") and hasattr(module, "head_dim"):
                module.scaling = small[name].head_dim ** 0.5 / module.head_dim
    model._mup_done = True
    return model


def _as_readout(module: nn.Linear, multiplier: float) -> None:
    """Divide a linear's input: a hook keeps the module's class and its keys in the state dict."""
    if isinstance(module, MupReadout) or multiplier == 1:
        return
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * multiplier, *inputs[1:]))


def mup_param_groups(
    model: nn.Module, base: nn.Module, lr: float, *, optimizer: Literal["adamw", "sgd"] = "adamw",
    weight_decay: float = 0.0, decoupled: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Ordinary torch parameter groups with muP's rates.

    Args:
        model, base: as in `mup_init_`.
        lr: the rate at base width; the one that transfers.
        optimizer: "adamw" (also Adam, Lion: rates × 1/m for matrices) or "sgd".
        weight_decay: strength at base width.
        decoupled: True keeps rate × decay the same at every width for torch's AdamW (which multiplies the two).

    Returns:
        one group per distinct (rate, decay), each with "lr" and "weight_decay"; pass them to the optimizer.
    """
    if lr <= 0:
        raise UserError(f"The learning rate must be above 0, not {lr:g}.")
    widths = width_multipliers(model, base)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = _rate(widths[name], optimizer)
        decay = weight_decay / factor if decoupled else weight_decay
        groups.setdefault((lr * factor, decay), []).append(parameter)
    return [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()]


def _rate(width: Width, optimizer: str) -> float:
    if optimizer == "adamw":
        return 1 / width.fan_in if width.role == "matrix" else 1.0
    if width.role == "matrix":
        return width.fan_out / width.fan_in
    return {"input": width.fan_out, "output": width.fan_in, "fixed": 1.0}[width.role]


def abc_regime(a: Sequence[float], b: Sequence[float], c: float) -> dict[str, Any]:
    """Which infinite-width limit an abc-parametrization has (Yang & Hu 2021, theorems 3.2–3.4).

    W^l = n^(−a_l) w^l, entries of w^l ~ N(0, n^(−2 b_l)), SGD rate η·n^(−c); layers 1 … L+1.

    Args:
        a, b: L+1 exponents each (input, hidden …, output).
        c: exponent of the rate.

    Returns:
        {"stable", "nontrivial", "feature_learning", "r"}; r = 0 means features move, r > 0 means a kernel limit.
    """
    if len(a) != len(b) or len(a) < 2:
        raise UserError(f"a and b need the same length of at least 2 layers; they have {len(a)} and {len(b)}.")
    close = 1e-12
    r = min(a[-1] + b[-1], 2 * a[-1] + c) + c - 1
    r += min(2 * value + (1 if layer == 0 else 0) for layer, value in enumerate(a[:-1]))
    stable = (
        abs(a[0] + b[0]) < close
        and all(abs(x + y - 0.5) < close for x, y in zip(a[1:-1], b[1:-1], strict=True))
        and a[-1] + b[-1] >= 0.5 - close
        and r >= -close
        and 2 * a[-1] + c >= 1 - close
    )
    nontrivial = abs(a[-1] + b[-1] + r - 1) < close or abs(2 * a[-1] + c - 1) < close
    return {
        "stable": stable,
        "nontrivial": stable and nontrivial,
        "feature_learning": stable and nontrivial and abs(r) < close,
        "r": r,
    }


def coord_check(
    make: Callable[[int], tuple[nn.Module, torch.optim.Optimizer]], widths: Sequence[int],
    loss: Callable[[nn.Module], torch.Tensor], *, steps: int = 3, seeds: Sequence[int] = (0,),
) -> pd.DataFrame:  # fmt: skip
    """Mean |x| of every linear layer's output after each of a few steps on one batch, over widths.

    Under muP the lines are flat in width; under standard parametrization some grow. A rate so small that nothing moves also
    looks flat: use the rate you would train with.

    Args:
        make: width → (model, optimizer).
        widths: widths to visit.
        loss: model → scalar loss on one fixed batch.
        steps: optimizer steps.
        seeds: of the initialisation.

    Returns:
        rows (width, seed, step, layer, size): size is the change of the layer's output since step 0 (mean |·|), and at step
        0 the output itself.
    """
    rows = []
    for width in widths:
        for seed in seeds:
            torch.manual_seed(seed)
            model, optimizer = make(width)
            seen: dict[str, torch.Tensor] = {}
            hooks = [
                module.register_forward_hook(
                    lambda _m, _i, out, name=name, seen=seen: seen.__setitem__(name, out.detach())
                )
                for name, module in model.named_modules()
                if isinstance(module, nn.Linear)
            ]
            first: dict[str, torch.Tensor] = {}
            for step in range(steps + 1):
                value = loss(model)
                for name, out in seen.items():
                    size = (out - first[name] if step else out).abs().mean().item()
                    rows.append({"width": width, "seed": seed, "step": step, "layer": name, "size": size})
                first = first or dict(seen)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            for hook in hooks:
                hook.remove()
    return pd.DataFrame(rows)
