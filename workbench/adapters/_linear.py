"""Shared core of every adapter that adds a term to a linear map: h = W x + branch(x), with ΔW = delta (d_out, d_in).

`DeltaLinear` wraps one layer (torch Linear, transformers' Conv1D, or a quantized linear layer) and holds everything
peft asks of such a layer: disable, several adapters, mixed batches, merge and unmerge, conversion to LoRA. A technique
adds its parameters in `update_layer`, its term in `branch`, its matrix in `delta`. `DeltaTuner` is the model side.
Merging is computed in float32 and rounded once to the base's dtype.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, AuxiliaryTrainingWrapper
from peft.utils.quantization_utils import (
    ForwardOnlyQuantizationBackend,
    QuantizationBackend,
    get_quantization_kwargs,
    resolve_quantization_backend,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.errors import UserError


def quantization_backend(base: nn.Module, **options: Any) -> QuantizationBackend | None:
    """How to read the weights of a quantized base layer; None for an ordinary one.

    Args:
        base: the layer below all adapters.
        options: what peft's own backends need (see `get_quantization_kwargs`).
    """
    backend = resolve_quantization_backend(base, **options)
    if backend is None and not isinstance(base, (nn.Linear, Conv1D)) and hasattr(base, "in_features"):
        return ForwardOnlyQuantizationBackend(type(base).__name__)
    return backend


class DeltaLinear(nn.Module, BaseTunerLayer):
    """One adapted linear layer; see the module text. Input (…, d_in), output (…, d_out)."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        base = self.get_base_layer()
        self.quantization_backend = quantization_backend(base, **quantization)
        self.transposed = isinstance(base, Conv1D)  # GPT-2 stores (d_in, d_out)
        if self.transposed:
            self.in_features, self.out_features = base.weight.shape
        else:
            self.in_features, self.out_features = base.in_features, base.out_features
        self.merged_adapters = []
        self._disable_adapters = False
        self.cast_input_dtype_enabled = True
        self._active_adapter = adapter_name

    def has(self, adapter_name: str) -> bool:
        """True when this layer carries the adapter (not every adapter need target every layer)."""
        return adapter_name in getattr(self, self.adapter_layer_names[0])

    def branch(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """The term the adapter adds: (…, d_in) → (…, d_out)."""
        raise NotImplementedError

    def delta(self, adapter_name: str) -> torch.Tensor:
        """ΔW of the adapter (d_out, d_in), float32."""
        raise NotImplementedError

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # peft also casts to the base's dtype; coefficients that are summed by the hundred must stay float32.
        if device is None:
            device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        for name in self.adapter_layer_names:
            held = getattr(self, name)
            if adapter_name in held and held[adapter_name].device.type != "meta" and device is not None:
                held[adapter_name] = held[adapter_name].to(device)

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """h = W x + Σ over active adapters; with `adapter_names`, row n of the batch uses adapter n only."""
        if adapter_names is not None and self.merged:
            raise ValueError("`adapter_names` cannot be used while adapters are merged; call unmerge_adapter() first.")
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is None:
            for name in filter(self.has, self.active_adapters):
                result = result + self.branch(name, self._cast_input_dtype(x, torch.float32))
            return result.to(dtype)
        if len(adapter_names) != len(x):
            raise ValueError(f"`adapter_names` has {len(adapter_names)} names for {len(x)} rows; give one per row.")
        for name in filter(self.has, dict.fromkeys(adapter_names)):
            rows = [row for row, wanted in enumerate(adapter_names) if wanted == name]
            result[rows] += self.branch(name, self._cast_input_dtype(x[rows], torch.float32)).to(dtype)
        return result

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """ΔW in the shape of the base layer's weight, float32."""
        delta = self.delta(adapter)
        return delta.T if self.transposed else delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """ΔW has low rank, so `peft.convert_to_lora` can carry it over."""
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add ΔW of the given (default: active) adapters to the base weight.

        Args:
            safe_merge: check the sum for NaN and infinity first, and leave the base untouched when there are any.
            adapter_names: which adapters.

        Raises:
            UserError: when the base is quantized in a way that cannot take a merge.
            ValueError: when `safe_merge` finds a broken adapter.
        """
        for name in filter(self.has, check_adapters_to_merge(self, adapter_names)):
            self._require_mergeable()
            weight = self.get_base_weight()
            merged = weight.float() + self.get_delta_weight(name)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            self.set_base_weight(merged.to(weight.dtype))
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the merged adapters out of the base weight again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            weight = self.get_base_weight()
            self.set_base_weight((weight.float() - self.get_delta_weight(self.merged_adapters.pop())).to(weight.dtype))

    def _require_mergeable(self) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise UserError(
                f"This adapter cannot be merged into {backend.backend_name} weights: they would have to be rounded "
                "again; merge into the full-precision model and quantize that, or keep the adapter beside the base."
            )


class DeltaTuner(BaseTuner):
    """Model side of `DeltaLinear`; a technique sets `prefix` and `tuner_layer_cls`."""

    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self, config: Any, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module, current_key: str,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config, current_key)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        quantized_linear = hasattr(base, "in_features") and hasattr(base, "out_features")
        if not isinstance(base, (nn.Linear, Conv1D)) and not quantized_linear:
            raise UserError(
                f"{config.peft_type.value} cannot adapt {current_key} ({type(base).__name__}); "
                "it adapts linear layers (Linear, Conv1D of GPT-2, quantized linear): name those in target_modules."
            )
        layer = self.tuner_layer_cls(target, adapter_name, **get_quantization_kwargs(self.model))
        layer.update_layer(adapter_name, config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """peft's injection; a target that matches nothing is refused with the nearest module names."""
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except ValueError as error:
            wanted = self.peft_config[adapter_name].target_modules
            if "not found in the base model" not in str(error) or not wanted:
                raise
            known = {key.rpartition(".")[2] for key, module in model.named_modules() if hasattr(module, "weight")}
            names = [wanted] if isinstance(wanted, str) else sorted(wanted)
            near = [match for name in names for match in difflib.get_close_matches(name, known, n=3, cutoff=0.4)]
            hint = f"the nearest are {', '.join(near)}." if near else f"its layers are {', '.join(sorted(known))}."
            raise UserError(f"No layer of this model is called {', '.join(names)}; {hint}") from error

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Mixed batches: hand `adapter_names` (one per row, `__base__` for none) to every adapted layer."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode; call eval() first.")
        unknown = sorted(set(names) - {"__base__", *self.peft_config})
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")
        beams = kwargs.get("num_beams") or 1
        per_beam = [name for name in names for _ in range(beams)]
        unrepeated: set[int] = set()  # an encoder sees its input before the beams are made
        if beams > 1 and getattr(self.model.config, "is_encoder_decoder", False):
            unrepeated = {id(module) for module in self.model.get_encoder().modules()}
        handles = []
        try:
            for module in self.modules():
                if isinstance(module, (self.tuner_layer_cls, AuxiliaryTrainingWrapper)):
                    rows = names if id(module) in unrepeated else per_beam
                    handles.append(module.register_forward_pre_hook(partial(_set_names, rows), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _set_names(names: list[str], module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return args, {**kwargs, "adapter_names": names}
