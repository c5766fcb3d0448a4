"""SAID and DID as a peft tuner: all chosen matrices move along random directions steered by one short vector.

    ΔW_i = λ_i · F_i z,    z (d − m,) and λ (m,) trained, one vector z for the whole model, m adapted matrices
    DID (structure=False): no λ, z has d entries;  start: z = 0, λ = 1, so ΔW = 0

F_i is a Fastfood map of its own for every matrix (`_fastfood`), each column of norm 1; made again from a seed, never saved.
An adapter file holds d numbers. A step costs two transforms of every matrix, and its gradient exists in full: this
measures how few numbers a task needs, it does not save time or memory. For inference, merge.

This form covers linear layers (what peft can wrap). Norms, biases and embeddings are inside the flat only with
`RandomSubspace(model, d, "layerwise_fastfood", structure=True)`, the paper's own setting.

Source: Aghajanyan, Zettlemoyer, Gupta, ACL 2021, arXiv 2012.13255, §3; code: rabeehk/compacter, projections/intrinsic.py.
Departures: exact adjoint (their backward weighs a matrix by 1/L: `reference_grad=True`); their count subtracts m + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.utils import PeftType
from torch import nn
from torch.nn import functional as F

from workbench.adapters._fastfood import Fastfood, fastfood, make_fastfood
from workbench.adapters._linear import DeltaLinear, DeltaTuner
from workbench.adapters._placement import Placement
from workbench.adapters._random import GENERATOR, derive
from workbench.adapters._register import add_peft_type
from workbench.errors import UserError, choose

METHOD = {
    "name": "said", "prefix": "said_", "config": "SaidConfig", "model": "SaidModel", "layer": "SaidLayer",
    "paper": "intrinsic-dimension-lm", "family": "random-basis", "tiny": {"d": 64}, "other": {"d": 40},
    "converts": False,
    "help": "One short vector steers every chosen matrix along random directions. Fewest numbers, slow steps.",
}  # fmt: skip
add_peft_type("SAID")


@dataclass
class SaidConfig(Placement):
    """Settings of SAID and DID. Without `target_modules` it moves what peft's LoRA would."""

    d: int = field(default=1000, metadata={"help": "Numbers trained in the whole model. 200–20000 for most tasks."})
    structure: bool = field(
        default=True, metadata={"help": "Train one scale per matrix, paid from d (SAID); otherwise z alone (DID)."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random directions. Kept in the file instead of them."})
    reference_grad: bool = field(
        default=False,
        metadata={"help": "The released code's gradient, which weighs matrices by 1/size; to repeat its numbers only."},
    )
    bias: str = field(default="none", metadata={"help": "Biases trained as well: none, all or said_only."})
    generator: str = field(
        default=GENERATOR, metadata={"help": "How the random numbers are made; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("SAID")
        if isinstance(self.d, bool) or not isinstance(self.d, int) or self.d < 1:
            raise UserError(f"d={self.d!r} is not possible for SAID; use a whole number of at least 1.")
        choose("bias setting", self.bias, ("none", "all", "said_only"))
        if self.generator != GENERATOR:
            raise UserError(
                f"This adapter's random directions were made by generator {self.generator!r}; this version only has "
                f"{GENERATOR!r}, and along other directions its numbers mean nothing. Load it where it was saved."
            )

    def trainable_per_module(self, d_in: int, d_out: int) -> int:
        """Nothing is paid per layer: d is for the whole model, scales included."""
        return 0

    def trainable_shared(self) -> int:
        """d."""
        return self.d


class SaidLayer(DeltaLinear):
    """A linear layer with SAID adapters: λ (1,) per adapter; the first adapted layer also holds z for all of them."""

    adapter_layer_names = ("said_z", "said_scale")
    other_param_names = ("said_plan", "said_owner", "said_parts")

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        super().__init__(base_layer, adapter_name, **quantization)
        self.said_z = nn.ParameterDict()
        self.said_scale = nn.ParameterDict()
        self.said_plan: dict[str, tuple[int, bool]] = {}
        self.said_owner: dict[str, SaidLayer] = {}
        self.said_parts: dict[str, Fastfood] = {}

    def has(self, adapter_name: str) -> bool:
        """True when this layer carries the adapter."""
        return adapter_name in self.said_plan

    def update_layer(self, adapter_name: str, config: SaidConfig, key: str, inference_mode: bool = False) -> None:
        """Add an adapter without z (the tuner gives it, once all layers are known); `key` makes the directions its own."""
        self.said_plan[adapter_name] = (derive(config.seed, key), config.reference_grad)
        self.said_parts.pop(adapter_name, None)
        if config.structure:
            self.said_scale[adapter_name] = nn.Parameter(torch.ones(1))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def own(self, adapter_name: str, z: nn.Parameter) -> None:
        """Hold z for all layers of the adapter."""
        self.said_z[adapter_name] = z
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _parts(self, adapter_name: str, z: torch.Tensor) -> Fastfood:
        held = self.said_parts.get(adapter_name)
        if held is None or held.weights.device != z.device:
            size = self.in_features * self.out_features
            held = make_fastfood(len(z), size, self.said_plan[adapter_name][0]).to(z.device)
            self.said_parts[adapter_name] = held
        return held

    def moved(self, adapter_name: str) -> torch.Tensor:
        """λ F z as a matrix (d_out, d_in), float32, differentiable."""
        z = self.said_owner[adapter_name].said_z[adapter_name].float()
        z = z.to(self._get_base_layer_device_and_dtype(self.get_base_layer())[0] or z.device)
        flat = fastfood(z, self._parts(adapter_name, z), self.said_plan[adapter_name][1])
        matrix = flat.view(self.out_features, self.in_features)
        return matrix * self.said_scale[adapter_name].float() if adapter_name in self.said_scale else matrix

    def branch(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """(λ F z) x."""
        return F.linear(x, self.moved(adapter_name).to(x.dtype))

    def delta(self, adapter_name: str) -> torch.Tensor:
        """ΔW (d_out, d_in)."""
        with torch.no_grad():
            return self.moved(adapter_name)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """ΔW has full rank: LoRA could not carry it."""
        return False


class SaidModel(DeltaTuner):
    """The tuner behind `get_peft_model(model, SaidConfig(...))`."""

    prefix = "said_"
    tuner_layer_cls = SaidLayer

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """peft's injection, then z of the length that is left beside the scales; it lives in the first layer."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        layers = [module for module in model.modules() if isinstance(module, SaidLayer) and module.has(adapter_name)]
        scales = len(layers) if config.structure else 0
        if config.d <= scales:
            raise UserError(
                f"d={config.d} is not above {scales}, the number of adapted matrices, each of which trains one scale; "
                "raise d, adapt fewer, or set structure=False."
            )
        z = nn.Parameter(torch.zeros(config.d - scales))
        z.requires_grad_(adapter_name in layers[0].active_adapters and not config.inference_mode)
        layers[0].own(adapter_name, z)
        for layer in layers:
            layer.said_owner[adapter_name] = layers[0]
