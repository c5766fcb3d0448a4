"""Bottleneck blocks in a model: on linear layers, beside norms, and the tuner that puts them there.

`BottleneckLayer` wraps the linear layer that writes a sub-layer's output; where a block reads the sub-layer's input, a hook
on the linear layer that reads it hands x over. `NormDelta` adds trained changes to a norm's weight and bias. A block that
reads h reads the h of the layer below, also when several adapters are active.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.quantization_utils import get_quantization_kwargs
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.adapters._bottleneck import WHY_NOT, Bottleneck
from workbench.adapters._linear import DeltaLinear, DeltaTuner
from workbench.errors import UserError


def matches_leaf(config: Any, key: str) -> Any:
    """Whether `key` is among the layers, and not among the exclusions, of a config that names no module itself.

    peft looks at `layers_to_transform` only for names that are matched by their last part, so that is how we ask.
    """
    alone = copy.copy(config)
    alone.target_modules = {key.rpartition(".")[2]}
    return check_target_module_exists(alone, key)


class BottleneckLayer(DeltaLinear):
    """A linear layer with bottleneck blocks on its output; a technique names the attribute that holds them."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        super().__init__(base_layer, adapter_name, **quantization)
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict())
        self._taken: torch.Tensor | None = None
        self._hooks: list[Any] = []

    @property
    def blocks(self) -> nn.ModuleDict:
        """Adapter name → list of blocks."""
        return getattr(self, self.adapter_layer_names[0])

    def add_block(self, adapter_name: str, block: nn.Module, reader: nn.Module | None = None) -> None:
        """Put a block on the output.

        Args:
            adapter_name: whose it is.
            block: the block.
            reader: the layer whose input a block with `read="input"` takes.
        """
        if adapter_name not in self.blocks:
            self.blocks[adapter_name] = nn.ModuleList()
        self.blocks[adapter_name].append(block)
        if reader is not None and not self._hooks:
            self._hooks.append(reader.register_forward_pre_hook(partial(_hand_over, self), with_kwargs=True))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def remove_hooks(self) -> None:
        """Let go of the layer that hands the block's input over."""
        while self._hooks:
            self._hooks.pop().remove()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        if device is None:
            device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        on_meta = any(p.is_meta for p in self.blocks[adapter_name].parameters())
        if device is not None and device.type != "meta" and not on_meta:
            self.blocks[adapter_name].to(device)

    def _terms(self, name: str, inside: bool, **sources: torch.Tensor | None) -> Iterator[torch.Tensor]:
        for block in self.blocks[name]:
            if isinstance(block, Bottleneck) and block.inside == inside:
                yield block(self._cast_input_dtype(sources[block.read], torch.float32))

    def _added(
        self, to: torch.Tensor, rows_of: dict[str, list[int] | None], inside: bool, **sources: torch.Tensor | None
    ) -> torch.Tensor:
        """`to` plus the terms of every adapter on its rows (None: all rows)."""
        out, copied = to, False
        for name, rows in rows_of.items():
            part = {key: value if rows is None or value is None else value[rows] for key, value in sources.items()}
            for term in self._terms(name, inside, **part):
                if rows is None:
                    out = out + term
                    continue
                out, copied = (out if copied else out.clone()), True
                out[rows] += term.to(out.dtype)
        return out.to(to.dtype)

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """h + Σ blocks of the active adapters; with `adapter_names`, row n of the batch uses adapter n only."""
        if adapter_names is not None and self.merged:
            raise ValueError("`adapter_names` cannot be used while adapters are merged; call unmerge_adapter() first.")
        if self.disable_adapters and self.merged:
            self.unmerge()
        taken, self._taken = self._taken, None
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        rows_of = self._rows_of(adapter_names, len(x))
        h = self.base_layer(self._added(x, rows_of, True, own=x, input=taken), *args, **kwargs)
        out = h if self.quantization_backend is None else self.quantization_backend.maybe_clone_base_result(h)
        return self._added(out, rows_of, False, own=x, output=h, input=taken)

    def _rows_of(self, adapter_names: list[str] | None, count: int) -> dict[str, list[int] | None]:
        """Which rows each adapter of this layer acts on."""
        if adapter_names is None:
            return {name: None for name in self.active_adapters if self.has(name)}
        if len(adapter_names) != count:
            raise ValueError(f"`adapter_names` has {len(adapter_names)} names for {count} rows; give one per row.")
        return {
            name: [row for row, wanted in enumerate(adapter_names) if wanted == name]
            for name in filter(self.has, dict.fromkeys(adapter_names))
        }

    def mergeable(self, adapter_name: str) -> bool:
        """True when all blocks of the adapter are linear maps of the layer's own input."""
        return all(block.kind == "lora" for block in self.blocks[adapter_name])

    def delta(self, adapter_name: str) -> torch.Tensor:
        """ΔW of the linear blocks (d_out, d_in)."""
        with torch.no_grad():
            return sum(b.up_weight.float() @ b.down_weight.float() * b.scale for b in self.blocks[adapter_name])

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Only linear blocks have a ΔW."""
        return adapter_name in self.blocks and self.mergeable(adapter_name)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """ΔW in the shape of the base weight; a ValueError for non-linear blocks."""
        if not self.mergeable(adapter):
            raise UserError(WHY_NOT)
        return super().get_delta_weight(adapter)


def _hand_over(layer: BottleneckLayer, module: nn.Module, args: tuple, kwargs: dict) -> None:
    if not layer.disable_adapters:
        layer._taken = args[0] if args else next(iter(kwargs.values()))


class NormDelta(nn.Module, BaseTunerLayer):
    """A norm whose weight and bias are trained as differences, so that adapters add up and can be switched off."""

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.merged_adapters = []
        self._disable_adapters = False
        self._active_adapter = adapter_name

    def update_layer(self, adapter_name: str) -> None:
        """Differences of zero for one more adapter."""
        base = self.get_base_layer()
        for name in self.adapter_layer_names:
            held = getattr(base, name.rpartition("_")[2], None)
            if held is not None:
                delta = torch.zeros(held.shape, device=None if held.is_meta else held.device)
                getattr(self, name)[adapter_name] = nn.Parameter(delta)
        self.set_adapter(self.active_adapters)

    def _with(self, names: list[str], x: torch.Tensor, args: tuple, kwargs: dict) -> torch.Tensor:
        changed = {}
        for attribute in self.adapter_layer_names:
            held, short = getattr(self, attribute), attribute.rpartition("_")[2]
            deltas = [held[name] for name in names if name in held]
            if deltas:
                own = getattr(self.base_layer, short)
                changed[short] = (own.float() + sum(deltas)).to(own.dtype)
        return torch.func.functional_call(self.base_layer, changed, (x, *args), kwargs)

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """The norm with its weight and bias changed by the active adapters (per row with `adapter_names`)."""
        if self.disable_adapters:
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is None:
            return self._with(self.active_adapters, x, args, kwargs)
        out = self.base_layer(x, *args, **kwargs).clone()
        for name in dict.fromkeys(adapter_names):
            rows = [row for row, wanted in enumerate(adapter_names) if wanted == name]
            out[rows] = self._with([name], x[rows], args, kwargs)
        return out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused, because the blocks trained with it cannot be merged."""
        raise UserError(WHY_NOT)

    def unmerge(self) -> None:
        """Nothing was ever merged."""
        warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)


class BottleneckTuner(DeltaTuner):
    """Model side; a technique sets `prefix`, `linear_cls` and `tuner_layer_cls`, and fills `_add`."""

    target_module_mapping: dict[str, list[str]] = {}
    linear_cls: type[BottleneckLayer]

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        head, found, tail = key.rpartition(f".{cls.prefix}blocks.{adapter_name}.")
        return (
            f"{head}.{cls.prefix}blocks.{tail}" if found else super()._remove_adapter_name_from_key(key, adapter_name)
        )

    def _wrapped(
        self, config: Any, adapter_name: str, target: nn.Module, name: str, parent: nn.Module, key: str
    ) -> Any:
        """The bottleneck layer around `target`, made when it is not there yet."""
        if isinstance(target, self.linear_cls):
            return target
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        quantized_linear = hasattr(base, "in_features") and hasattr(base, "out_features")
        if not isinstance(base, (nn.Linear, Conv1D)) and not quantized_linear:
            raise UserError(
                f"{config.peft_type.value} cannot adapt {key} ({type(base).__name__}); "
                "it sits on linear layers (Linear, Conv1D of GPT-2, quantized linear): name those in target_modules."
            )
        layer = self.linear_cls(target, adapter_name, **get_quantization_kwargs(self.model))
        layer.set_adapter(self.active_adapters)
        self._replace_module(parent, name, layer, target)
        return layer

    def _mergeable(self) -> bool:
        return all(
            isinstance(m, BottleneckLayer) and all(m.mergeable(name) for name in self.active_adapters if m.has(name))
            for m in self.model.modules()
            if isinstance(m, self.tuner_layer_cls)
        )

    def _check_merge_allowed(self) -> None:
        if not self._mergeable():
            raise UserError(WHY_NOT)
        super()._check_merge_allowed()

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        layers = [module for module in self.model.modules() if isinstance(module, BottleneckLayer)]
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for layer in layers:
            layer.remove_hooks()
        return model
