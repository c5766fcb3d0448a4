"""Sparse fine-tuning as a peft tuner: train k single entries of each weight, and keep improving which.

    W' = W + scatter(φ, η)     φ (k,) float32 trained, start 0;  η (k,) positions, moved during training by a `Reselector`

The tuner holds values and positions; alone it is a static mask (random, or the largest weights). With
`selection="gradient"` (SpIEL-AG) or `"momentum"` (SpIEL-MA), `workbench.adapters._sparse_delta_select.Reselector` drops the
deltas that moved least and grows new ones while it trains; see there. Merge is an exact scatter; unmerge writes the kept
original entries back.

Source: Ansell, Vulić, Sterz, Korhonen, Ponti 2024, arXiv 2401.16405; code AlanAnsell/peft. Departures: deltas stay float32
on any base; no dense gradient of a whole matrix is held; budgets may be given as LoRA's count (`like_lora_rank`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import PeftType
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.adapters._linear import DeltaLinear, DeltaTuner
from workbench.adapters._placement import Placement
from workbench.adapters._random import GENERATOR, derive
from workbench.adapters._register import add_peft_type
from workbench.adapters._sparse_delta import Watch, budget, dense, largest, random_positions, sparse_linear
from workbench.errors import UserError, choose

METHOD = {
    "name": "spiel", "prefix": "spiel_", "config": "SpielConfig", "model": "SpielModel", "layer": "SpielLayer",
    "paper": "sparse-finetuning", "family": "sparse", "tiny": {"density": 0.05}, "other": {"density": 0.03},
    "converts": False,
    "help": "Trains single entries of each weight and moves them to where they help. LoRA's count, full rank.",
}  # fmt: skip
add_peft_type("SPIEL")


@dataclass
class SpielConfig(Placement):
    """Settings of sparse fine-tuning. Without `target_modules` it goes where peft's LoRA would."""

    density: float = field(default=0.01, metadata={"help": "Share of each weight's entries that train, above 0 to 1."})
    num_weights: int | None = field(default=None, metadata={"help": "Deltas in the whole model, instead of density."})
    like_lora_rank: int | None = field(
        default=None, metadata={"help": "As many deltas as LoRA of this rank trains numbers, instead of density."}
    )
    selection: str = field(
        default="gradient",
        metadata={
            "help": "gradient: move by accumulated gradients. momentum: by SM3's sums, less memory. static: never."
        },
    )
    mask: str = field(default="random", metadata={"help": "First positions: random, or magnitude (largest weights)."})
    interval: int = field(default=20, metadata={"help": "Updates from one move to the next. 20–100 for most tasks."})
    accumulate: int = field(default=5, metadata={"help": "Updates over which candidates collect gradients."})
    initial_rate: float = field(default=0.2, metadata={"help": "Share of deltas that may move, falling to 0."})
    schedule: str = field(default="linear", metadata={"help": "How that share falls: linear or cosine."})
    seed: int = field(default=0, metadata={"help": "Seed of the first positions."})
    bias: str = field(default="none", metadata={"help": "Biases trained as well: none, all or spiel_only."})
    generator: str = field(
        default=GENERATOR, metadata={"help": "How the first positions are drawn; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("SPIEL")
        if not 0 < self.density <= 1:
            raise UserError(f"density={self.density!r} must lie above 0 and at most at 1; 0.001–0.05 for most tasks.")
        if self.num_weights is not None and self.like_lora_rank is not None:
            raise UserError("num_weights and like_lora_rank both set the budget; give one of them.")
        for name in ("num_weights", "like_lora_rank", "interval", "accumulate"):
            value = getattr(self, name)
            if value is None and name in ("num_weights", "like_lora_rank"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} is not possible; use a whole number of at least 1.")
        choose("selection", self.selection, ("gradient", "momentum", "static"))
        choose("mask", self.mask, ("random", "magnitude"))
        choose("schedule", self.schedule, ("linear", "cosine"))
        choose("bias setting", self.bias, ("none", "all", "spiel_only"))
        if self.selection != "static" and self.interval <= self.accumulate + 1:
            raise UserError(
                f"interval={self.interval} leaves newcomers no time after accumulate={self.accumulate} updates: they start at "
                f"zero and the smallest are dropped next; use an interval of at least {self.accumulate + 2}, better 20."
            )
        if not 0 <= self.initial_rate <= 1:
            raise UserError(f"initial_rate={self.initial_rate!r} is a share; use 0 to 1.")

    def trainable_per_module(self, d_in: int, d_out: int) -> int:
        """Deltas of one layer; with a budget for the whole model, the layer's part of it by LoRA's count."""
        if self.num_weights is not None:
            raise UserError(
                f"num_weights={self.num_weights} is the count of the whole model; a layer's part depends on all."
            )
        if self.like_lora_rank is not None:
            return self.like_lora_rank * (d_in + d_out)
        return max(1, round(self.density * d_in * d_out))


class SpielLayer(DeltaLinear):
    """A linear layer with sparse deltas: values (k,) and positions (k,) per adapter."""

    adapter_layer_names = ("spiel_values",)
    other_param_names = ("spiel_indices", "spiel_plan", "spiel_originals", "spiel_watch")

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        super().__init__(base_layer, adapter_name, **quantization)
        self.spiel_values = nn.ParameterDict()
        self.spiel_indices = BufferDict(persistent=True)
        self.spiel_plan: dict[str, int] = {}
        self.spiel_originals: dict[str, torch.Tensor] = {}
        self.spiel_watch: dict[str, Watch] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.out_features, self.in_features

    def update_layer(self, adapter_name: str, config: SpielConfig, key: str, inference_mode: bool = False) -> None:
        """Note an adapter; the tuner allots its deltas once all layers are known."""
        self.spiel_plan[adapter_name] = derive(config.seed, key)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def allot(self, adapter_name: str, k: int, mask: str) -> None:
        """Give the adapter k deltas at its first positions."""
        if mask == "magnitude":
            weight = self.get_base_weight()
            positions = largest((weight.T if self.transposed else weight).detach().float().abs().cpu(), k)
        else:
            positions = random_positions(self.in_features * self.out_features, k, self.spiel_plan[adapter_name])
        self.spiel_values[adapter_name] = nn.Parameter(torch.zeros(k))
        self.spiel_indices[adapter_name] = positions
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        held = self.spiel_values[adapter_name]
        if held.device.type != "meta":
            self.spiel_indices[adapter_name] = self.spiel_indices[adapter_name].to(held.device)

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """W' x + b in one product where the base is an ordinary float32 layer with one adapter; else base and branches."""
        base, names = self.base_layer, [name for name in self.active_adapters if self.has(name)]
        plain = type(base) in (nn.Linear, Conv1D) and not (base._forward_hooks or base._forward_pre_hooks)
        if (
            len(names) != 1 or not plain or adapter_names is not None or args or kwargs or self.disable_adapters
            or self.merged or base.weight.dtype != torch.float32 or x.dtype != torch.float32 or hasattr(base, "_hf_hook")
        ):  # fmt: skip
            return super().forward(x, *args, adapter_names=adapter_names, **kwargs)
        weight = base.weight.T if self.transposed else base.weight
        return self._product(names[0], x, weight, base.bias)

    def _product(
        self, name: str, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor:
        values, positions = self.spiel_values[name], self.spiel_indices[name]
        return sparse_linear(x, weight, values, positions, self.shape, bias, self.spiel_watch.get(name))

    def branch(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """scatter(φ, η) x."""
        return self._product(adapter_name, x, None, None)

    def delta(self, adapter_name: str) -> torch.Tensor:
        """scatter(φ, η) (d_out, d_in)."""
        values = self.spiel_values[adapter_name].detach()
        return dense(None, values, self.spiel_indices[adapter_name], self.shape)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """As `DeltaLinear.merge`; the entries that change are kept, so that unmerging is exact in any dtype."""
        for name in filter(self.has, check_adapters_to_merge(self, adapter_names)):
            self._require_mergeable()
            flat, positions = self._flat(), self.spiel_indices[name].long()
            kept, values = flat[positions].clone(), self.spiel_values[name].detach().to(flat.device)
            merged = kept.float() + values
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            self._write(positions, merged)
            self.spiel_originals[name] = kept
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Write the kept entries back, last adapter first."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            self._write(self.spiel_indices[name].long(), self.spiel_originals.pop(name))

    def _write(self, positions: torch.Tensor, entries: torch.Tensor) -> None:
        """Set single entries of the base weight."""
        flat = self._flat().clone()
        flat[positions] = entries.to(flat)
        matrix = flat.view(self.shape)
        self.set_base_weight(matrix.T.contiguous() if self.transposed else matrix)

    def _flat(self) -> torch.Tensor:
        weight = self.get_base_weight().detach()
        return (weight.T if self.transposed else weight).reshape(-1)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """ΔW has high rank: LoRA could not carry it."""
        return False


class SpielModel(DeltaTuner):
    """The tuner behind `get_peft_model(model, SpielConfig(...))`."""

    prefix = "spiel_"
    tuner_layer_cls = SpielLayer

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """peft's injection, then the budget is spread over the layers that take part."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        layers = [m for m in model.modules() if isinstance(m, SpielLayer) and adapter_name in m.spiel_plan]
        sizes = [layer.in_features * layer.out_features for layer in layers]
        if config.like_lora_rank is not None:
            counts = budget(
                sizes, config.like_lora_rank * sum(layer.in_features + layer.out_features for layer in layers)
            )
        elif config.num_weights is not None:
            counts = budget(sizes, config.num_weights)
        else:
            counts = [config.trainable_per_module(layer.in_features, layer.out_features) for layer in layers]
            if small := sum(config.density * size < 0.5 for size in sizes):
                warnings.warn(
                    f"density={config.density} gives less than one delta to {small} matrices; each gets one.",
                    stacklevel=2,
                )
        for layer, k in zip(layers, counts, strict=True):
            layer.allot(adapter_name, k, config.mask)
            trains = adapter_name in layer.active_adapters and not config.inference_mode
            layer.spiel_values[adapter_name].requires_grad_(trains)
