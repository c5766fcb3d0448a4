"""LoRA on packed layers: train adapters on a quantized base, save them, load them again, fold them in honestly.

    model = get_peft_model(model, lora_config(model, r=8))          # trains; the codes never move
    model.save_pretrained(folder)
    model = load_adapter(base, folder)                              # peft alone cannot: the mapping is not in the file

`y = base(x) + scaling · B(A(dropout(x)))`. Merging into codes is refused: the sum of a packed weight and an adapter is not
on the grid, and rounding it may lose most of a small adapter. `merge_and_requantize` does it on request and reports how
much of the adapter survived. (A packed layer with a readable `weight` would satisfy peft's own dispatcher, whose
`merge_and_unload` then writes into a temporary and drops the adapter without a word.)
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.compress.float_linear import FloatLinear
from workbench.compress.int8_mixed import quantize_int8_mixed
from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.nf4 import quantize_float
from workbench.compress.rtn import quantize_rtn
from workbench.errors import UserError


class PackedLoraLinear(nn.Module, LoraLayer):
    """LoRA around a packed layer; peft builds it through the mapping that `lora_config` registers."""

    def __init__(
        self, base_layer: PackedLinear, adapter_name: str, config: LoraConfig, r: int = 0, lora_alpha: int = 1, **kwargs
    ) -> None:
        if config.use_dora:
            raise UserError(
                "DoRA needs the norm of a dense weight; use plain LoRA on a quantized model (use_dora=False)."
            )
        super().__init__()
        with warnings.catch_warnings():  # peft reads in_features and out_features, and says that it guessed
            warnings.filterwarnings("ignore", message="Unsupported layer type")
            LoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.lora_A:
                down, up = self.lora_A[name], self.lora_B[name]
                rows = self.lora_dropout[name](x.to(down.weight.dtype))
                y = y + (up(down(rows)) * self.scaling[name]).to(y.dtype)
        return y

    def delta(self, name: str) -> Tensor:
        """What adapter `name` adds to the weight, float32 [out, in]."""
        return self.scaling[name] * self.lora_B[name].weight.float() @ self.lora_A[name].weight.float()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused.

        Raises:
            UserError: always, with the two ways that work.
        """
        raise UserError(
            "A LoRA cannot be merged into packed weights without loss; merge it into the unquantized base and quantize "
            "that, or call workbench.compress.merge_and_requantize(model), which reports how much of it survives."
        )

    def unmerge(self) -> None:
        """Nothing is ever merged.

        Raises:
            UserError: always.
        """
        raise UserError("This LoRA was never merged: adapters on packed weights stay separate.")


MAPPING = {IntLinear: PackedLoraLinear, FloatLinear: PackedLoraLinear}


def register(config: LoraConfig) -> LoraConfig:
    """Teach a LoRA configuration our layers (peft does not save this; it has to be done again at every load)."""
    config._register_custom_module(MAPPING)
    return config


def packed_names(model: nn.Module) -> list[str]:
    """Last parts of the names of all packed layers, sorted: target_modules for every one of them."""
    return sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, PackedLinear)})


def lora_config(model: nn.Module, *, target_modules: list[str] | None = None, **settings: Any) -> LoraConfig:
    """A `peft.LoraConfig` that knows packed layers.

    Args:
        model: the quantized model.
        target_modules: names to adapt; every packed layer when not given (peft's "all-linear" does not see them).
        settings: everything else `peft.LoraConfig` takes (r, lora_alpha, lora_dropout, task_type …).

    Raises:
        UserError: when the model has no packed layer.
    """
    names = packed_names(model)
    if not names:
        raise UserError(f"{type(model).__name__} has no packed layer; quantize it first, or use peft.LoraConfig.")
    return register(LoraConfig(target_modules=target_modules or names, **settings))


def load_adapter(model: nn.Module, directory: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved LoRA back on a quantized model.

    Args:
        model: the quantized base.
        directory: folder with adapter_config.json.
        trainable: keep training it.

    Raises:
        UserError: when the folder holds no LoRA.
    """
    if not (Path(directory) / "adapter_config.json").is_file():
        raise UserError(f"{directory} holds no adapter_config.json; give the folder that save_pretrained wrote.")
    config = LoraConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig):
        raise UserError(f"{directory} holds a {config.peft_type} adapter; on packed layers only LORA is supported.")
    config.inference_mode = not trainable
    return PeftModel.from_pretrained(model, str(directory), config=register(config), is_trainable=trainable)


def requantized(layer: PackedLinear, weight: Tensor) -> PackedLinear:
    """A layer of the same format that holds `weight` [out, in], rounded to nearest."""
    if isinstance(layer, IntLinear) and layer.outlier_columns is not None:
        record = quantize_int8_mixed(weight, layer.outlier_columns)
    elif isinstance(layer, IntLinear):
        scale = layer.input_scale
        weight = weight if scale is None else weight * scale.to(weight.dtype)
        record = quantize_rtn(weight, bits=layer.bits, group_size=layer.group_size, symmetric=layer.symmetric)
        record = replace(record, input_scale=scale)
    else:
        record = quantize_float(weight, kind=layer.kind, block_size=layer.block_size, double_quant=layer.double_quant)
    fresh = type(layer).from_record(record, layer.bias)
    fresh.was_conv1d = layer.was_conv1d
    return fresh.train(layer.training)


@torch.no_grad()
def merge_and_requantize(model: PeftModel) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Add each LoRA to its dequantized weight, round to the same format again, and report what survived.

    Args:
        model: a LoRA on a quantized base; it is taken apart.

    Returns:
        The quantized model without adapters, and per layer {name, kept, noise}: `kept` is the share of the adapter's
        direction that the new codes hold (1 is all of it), `noise` the new rounding error relative to the adapter.

    Raises:
        UserError: when the model carries no LoRA on packed layers.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PackedLoraLinear)}
    if not layers:
        raise UserError("This model carries no LoRA on packed layers; use merge_and_unload() for dense ones.")
    rows = []
    for name, module in layers.items():
        before = module.base_layer.dequantize()
        delta = sum(module.delta(adapter) for adapter in module.active_adapters if adapter in module.lora_A)
        fresh = requantized(module.base_layer, before + delta)
        moved = fresh.dequantize() - before
        size = float(delta.square().sum()) + 1e-30
        rows.append(
            {
                "name": name.removeprefix("base_model.model."),
                "kept": float((moved * delta).sum()) / size,
                "noise": (float((moved - delta).square().sum()) / size) ** 0.5,
            }
        )
        module.base_layer = fresh
    for module in list(model.modules()):  # layers that stayed dense merge exactly
        if isinstance(module, LoraLayer) and not isinstance(module, PackedLoraLinear):
            module.merge()
    return model.unload(), rows
