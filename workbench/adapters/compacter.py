"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products with one small factor for the whole model.

    adapter(h) = h + up(gelu_new(down(h))),   down, up:  y = x H + b,   H = Σ_{m=1..n} C_m ⊗ (s_m t_mᵀ)

after the attention's and the feed-forward's output layer, before the residual sum (Compacter++: after the feed-forward
only). The n matrices C_m (n, n) are shared by all adapters of the model, down and up; s_m and t_m are a layer's own. With
width k and size d an adapter trains 2(d + k) + k + d numbers, the model n³ more, and all layer norms train as well.
C ~ N(0, 1e-4²), s and t glorot-uniform with gain √2, biases 0: close to the identity at the start, not equal to it.

Source: Karimi Mahabadi, Henderson, Ruder, NeurIPS 2021, arXiv 2106.04647; places, starts and sharing: rabeehk/compacter.
The adapters it is compared with are kinds of the same file: `dense` (Houlsby et al. 2019, every entry N(0, 0.01²)),
`low_rank` (each matrix an outer product), `phm` (n full W_m and n³ numbers per matrix, not shared; the paper takes n = 12).
Departures: `low_rank` is a product of outer factors (the reference multiplies by broadcasting, right for rank one only);
norms train as differences from the base's, so that weight decay pulls towards the base; the shared C lives in the first
adapted layer, is stored once, and every adapter name has its own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer, _ExcludedModule, check_target_module_exists
from peft.utils import PeftType
from torch import nn

from workbench.adapters._bottleneck import ACTIVATIONS, Bottleneck, count
from workbench.adapters._bottleneck_layer import BottleneckLayer, BottleneckTuner, NormDelta, matches_leaf
from workbench.adapters._phm import require_divisible
from workbench.adapters._placement import Placement
from workbench.adapters._register import add_peft_type
from workbench.adapters._sites import is_norm, role_names
from workbench.errors import UserError, choose

METHOD = {
    "name": "compacter", "prefix": "compacter_", "config": "CompacterConfig", "model": "CompacterModel",
    "layer": "CompacterLayer", "paper": "compacter", "family": "bottleneck", "tiny": {"width": 8, "n": 4},
    "other": {"width": 4}, "starts": 1e-2, "merges": False,
    "help": "Small networks after each block, their matrices Kronecker sums: few numbers. Trains norms too; no merge.",
}  # fmt: skip
add_peft_type("COMPACTER")


@dataclass
class CompacterConfig(Placement):
    """Settings of Compacter and its family. Without `target_modules` it goes where the paper puts it."""

    kind: str = field(
        default="compacter",
        metadata={"help": "compacter, phm (full Kronecker factors, own rules), low_rank (outer products) or dense."},
    )
    reduction: int = field(
        default=32,
        metadata={"help": "Width is the size divided by this, rounded to a multiple of n. Paper: 32, 16, 8."},
    )
    width: int | None = field(default=None, metadata={"help": "Width of the bottleneck; set it to overrule reduction."})
    n: int = field(
        default=4, metadata={"help": "Number of Kronecker products; must divide size and width. Paper: 4 (phm: 12)."}
    )
    phm_rank: int = field(default=1, metadata={"help": "Rank of each fast factor. The paper's Compacter has 1."})
    share_rule: bool = field(
        default=True, metadata={"help": "One set of slow matrices for all adapters. False: one per adapter."}
    )
    after: list[str] = field(
        default_factory=lambda: ["attention", "ffn"],
        metadata={"help": "Blocks that get an adapter: attention, ffn. Compacter++ has ffn only."},
    )
    activation: str = field(default="gelu_new", metadata={"help": "Function between the two matrices."})
    init: str = field(
        default="near_identity",
        metadata={"help": "near_identity: the paper's start. zero: starts exactly as the base model."},
    )
    train_layer_norms: bool = field(
        default=True, metadata={"help": "Train all norms too, as the paper does (and counts)."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Layers to follow with an adapter, instead of `after`: names or a pattern."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers and norms to leave out."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("COMPACTER")
        for name in ("reduction", "n", "phm_rank", "width"):
            value = getattr(self, name)
            if not (name == "width" and value is None) and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise UserError(f"{name}={value!r} is not possible for Compacter; use a whole number of at least 1.")
        self.after = [self.after] if isinstance(self.after, str) else list(self.after)
        if not self.after:
            raise UserError("`after` is empty, so there is no place for an adapter; name attention, ffn or both.")
        for place in self.after:
            choose("place", place, ("attention", "ffn"))
        choose("kind", self.kind, ("compacter", "phm", "low_rank", "dense"))
        choose("activation", self.activation, ACTIVATIONS)
        choose("init", self.init, ("near_identity", "zero"))

    def width_for(self, size: int) -> int:
        """Width of the bottleneck behind a layer of `size` outputs."""
        if self.width is not None or self.kind not in ("compacter", "phm"):
            return size // self.reduction if self.width is None else self.width
        return max(1, round(size / self.reduction / self.n)) * self.n

    def trainable_per_module(self, d_in: int, d_out: int) -> int:
        """Trained numbers behind one layer (d_in is not used: the adapter reads the output)."""
        own = 0 if self.share_rule or self.kind != "compacter" else self.n**3
        return count(self.kind, d_out, self.width_for(d_out), d_out, self.n, self.phm_rank) + own

    def trainable_shared(self) -> int:
        """Trained numbers that the model holds once (norms not counted)."""
        return self.n**3 if self.share_rule and self.kind == "compacter" else 0


class CompacterLayer(BottleneckLayer):
    """A linear layer followed by Compacter adapters."""

    adapter_layer_names = ("compacter_blocks",)

    def update_layer(
        self, adapter_name: str, config: CompacterConfig, key: str, owner: Bottleneck | None = None
    ) -> Bottleneck:
        """Add an adapter that shares the rule of `owner` (None: has its own) and return it."""
        size, width = self.out_features, config.width_for(self.out_features)
        if width < 1:
            raise UserError(f"reduction={config.reduction} leaves no width behind {key} ({size} outputs); lower it.")
        if config.kind in ("compacter", "phm"):
            require_divisible(config.n, **{f"the outputs of {key}": size, "the width of the bottleneck": width})
        block = Bottleneck(
            size, width, size, kind=config.kind, activation=config.activation, n=config.n, rank=config.phm_rank,
            owner=owner, init="zero" if config.init == "zero" else "normal",
        )  # fmt: skip
        self.add_block(adapter_name, block)
        return block


class CompacterNorm(NormDelta):
    """A norm trained beside the adapters."""

    adapter_layer_names = ("compacter_weight", "compacter_bias")


class CompacterModel(BottleneckTuner):
    """The tuner behind `get_peft_model(model, CompacterConfig(...))`."""

    prefix = "compacter_"
    linear_cls = CompacterLayer
    tuner_layer_cls = (CompacterLayer, CompacterNorm)

    def _prepare_adapter_config(self, config: CompacterConfig, model_config: dict) -> CompacterConfig:
        if config.target_modules is None:
            names = [name for place in config.after for name in role_names(self.model, place)]
            config.target_modules = {name for name in names if matches_leaf(config, name)}
        return config

    def _check_target_module_exists(self, config: CompacterConfig, key: str) -> Any:
        found = check_target_module_exists(config, key)
        if found and not isinstance(found, _ExcludedModule):
            return found
        module = self.model.get_submodule(key)
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if not (config.train_layer_norms and is_norm(base)):
            return found
        return matches_leaf(config, key)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """peft's injection, with a fresh owner of the shared rule; targets without any linear layer are refused."""
        self.__dict__.setdefault("_owners", {}).pop(adapter_name, None)
        config = self.peft_config[adapter_name]
        if config.target_modules is not None and config.target_modules != "all-linear":
            strict = copy.copy(config)
            strict.train_layer_norms = False
            if not any(self._check_target_module_exists(strict, name) for name, _ in model.named_modules() if name):
                self.peft_config[adapter_name] = (
                    strict  # nothing but norms would match: let the refusal name the layers
                )
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self, config: CompacterConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if config.train_layer_norms and is_norm(base):
            if not isinstance(target, CompacterNorm):
                layer = CompacterNorm(target, adapter_name)
                self._replace_module(parent, target_name, layer, target)
                target = layer
            target._active_adapter = self.active_adapters
            target.update_layer(adapter_name)
            return
        layer = self._wrapped(config, adapter_name, target, target_name, parent, current_key)
        owners = self.__dict__["_owners"]
        block = layer.update_layer(adapter_name, config, current_key, owners.get(adapter_name))
        if config.share_rule and config.kind == "compacter":
            owners.setdefault(adapter_name, block)
