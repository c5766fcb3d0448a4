"""The unified view: every adapter adds some Δh to some hidden state, and differs in five choices only.

    form     Δh = f(x W_down) W_up (bottleneck), x W_down W_up (low_rank), softmax(q P_kᵀ) P_v per head (prefix),
             relu(q P_kᵀ) P_v per head (multihead)
    read     what Δh is computed from: `input` of the block (parallel) or its `output` (sequential)
    at       what it changes: `attention`, `ffn`, the projections `q` and `v`, the attention `head`
    combine  h + Δh (add), h + s Δh (scaled), (1 − λ) h + λ Δh (gated; λ = the share of attention that goes to the prefix)
    size     width, rank or prefix length

Prefix tuning is the gated row: attention over [P_k; K] equals (1 − λ) Attn(K) + λ Attn(P_k) with the same masked logits.
The MAM adapter takes a short prefix on the heads and a scaled parallel adapter on the feed-forward block.

Source: He et al., ICLR 2022, arXiv 2110.04366, table 1 and §4; starts, scale on the bias, adding before the attention's
output layer (parallel, attention): code of jxhe/unify-parameter-efficient-tuning.
Departures: the prefix is trained directly (the code's `prefix_nomlp`; the paper makes it with an MLP that it throws away
afterwards); prefix keys carry no position in rotary models; the multi-head form reads the query before rotation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from peft.utils import PeftType
from torch import nn

from workbench.adapters._bottleneck import Bottleneck, count
from workbench.adapters._bottleneck_layer import BottleneckLayer, BottleneckTuner, matches_leaf
from workbench.adapters._design import Delta, designs
from workbench.adapters._heads import HeadBlock, attach_heads, head_shape, release_heads
from workbench.adapters._placement import Placement
from workbench.adapters._register import add_peft_type
from workbench.adapters._sites import role_names, settle_targets, sites
from workbench.errors import UserError, choose

METHOD = {
    "name": "unified", "prefix": "uni_", "config": "UnifiedConfig", "model": "UnifiedModel", "layer": "UnifiedLayer",
    "paper": "unified-view", "family": "bottleneck", "tiny": {"design": "mam", "l": 3, "r": 4, "s": 2.0},
    "other": {"design": "scaled_parallel", "r": 3, "s": 2.0}, "starts": None, "merges": False, "mixes": False,
    "kinds": ["llama", "gpt2", "vit", "bert", "t5"], "places": True,
    "help": "MAM adapter and its relatives: a short prefix plus a small network beside each feed-forward block. No merge.",
}  # fmt: skip
add_peft_type("UNIFIED")


@dataclass
class UnifiedConfig(Placement):
    """Settings of one point, or several, of the unified design space."""

    design: str = field(
        default="mam",
        metadata={"help": "A known design (mam, scaled_parallel, parallel, pfeiffer, houlsby, prefix, lora …) or own."},
    )
    l: int = field(default=16, metadata={"help": "Length of the prefix. Paper: 16 (classification), 30 (generation)."})  # noqa: E741
    r: int = field(default=16, metadata={"help": "Width of the bottleneck, or rank. Paper: 16, 512 for generation."})
    s: float = field(default=2.0, metadata={"help": "Scale of scaled designs. Paper: 2, 4 for generation."})
    deltas: list[dict] | None = field(default=None, metadata={"help": "Rows of the design table, with design=own."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Found by the method; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("UNIFIED")
        if (self.design == "own") != (self.deltas is not None):
            raise UserError("Give rows in `deltas` together with design='own', and no rows with a named design.")
        if self.deltas is not None:
            self.deltas = [asdict(delta) if isinstance(delta, Delta) else dict(delta) for delta in self.deltas]
        elif self.design not in (known := designs(1, 1, 1.0)):
            choose("design", self.design, [*known, "own"])
        self.rows()

    def rows(self) -> list[Delta]:
        """The rows of the design table that this setting stands for."""
        return (
            designs(self.l, self.r, self.s)[self.design] if self.deltas is None else [Delta(**d) for d in self.deltas]
        )

    def trainable_in(self, model: nn.Module) -> int:
        """Trained numbers on a model, from shapes alone (a model on the meta device will do)."""
        return sum(_count(model, delta, place) for delta in self.rows() for place in places(model, delta, self))


def table(config: UnifiedConfig) -> list[dict[str, Any]]:
    """The setting as rows of the paper's table 1.

    Args:
        config: any setting.

    Returns:
        [{Δh, reads, changes, combines}].
    """
    formula = {
        "bottleneck": "f(x W_down) W_up", "low_rank": "x W_down W_up", "prefix": "softmax(x W_q P_kᵀ) P_v",
        "multihead": "relu(x W_q P_kᵀ) P_v",
    }  # fmt: skip
    sums = {"add": "h + Δh", "gated": "(1 − λ) h + λ Δh"}
    return [
        {
            "Δh": formula[d.form], "reads": "parallel" if d.read == "input" else "sequential", "changes": d.at,
            "combines": sums.get(d.combine, f"h + {d.scale:g} Δh"),
        }
        for d in config.rows()
    ]  # fmt: skip


def places(model: nn.Module, delta: Delta, config: Any = None) -> list[tuple[str, str | None]]:
    """(layer that carries the delta, layer whose input it reads or None) for every block of the model.

    Args:
        model: the model, adapted already or not.
        delta: a row of the table.
        config: limits the layers, when given.

    Raises:
        UserError: when the model has no such place.
    """
    if delta.form == "bottleneck":
        found = [(s.writer, s.reader if delta.read == "input" else None) for s in sites(model, delta.at)]
    else:
        found = [(name, None) for name in role_names(model, delta.at)]
    if not found:
        raise UserError(f"This model has no separate {delta.at} projection, so at={delta.at!r} has no place; use ffn.")
    return [pair for pair in found if config is None or matches_leaf(config, pair[0])]


def _features(layer: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer, adapted or not."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    return tuple(layer.weight.shape)  # Conv1D stores (d_in, d_out)


def _sizes(model: nn.Module, delta: Delta, place: tuple[str, str | None]) -> tuple[int, int]:
    """(d_in, d_out) of the small network."""
    own = _features(model.get_submodule(place[0]))
    if delta.form == "low_rank":
        return own
    if place[1] is None:
        return own[1], own[1]
    return _features(model.get_submodule(place[1]))[0], own[0] if delta.at == "attention" else own[1]


def _count(model: nn.Module, delta: Delta, place: tuple[str, str | None]) -> int:
    if delta.at == "head":
        heads, width = head_shape(model, place[0])
        norm = 2 * _features(model.get_submodule(place[0]))[0] if delta.inner_norm else 0
        return 2 * heads * delta.size * width + norm
    d_in, d_out = _sizes(model, delta, place)
    kind = "lora" if delta.form == "low_rank" else "dense"
    return count(kind, d_in, delta.size, d_out) + (2 * d_in if delta.inner_norm else 0)


class UnifiedLayer(BottleneckLayer):
    """A linear layer with rows of the design table on it."""

    adapter_layer_names = ("uni_blocks",)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer with its blocks; the query, as blocks on the head want it, is kept for the attention."""
        out = super().forward(x, *args, **kwargs)
        self.query = None
        if not self.disable_adapters:
            wants = [b for name in filter(self.has, self.active_adapters) for b in self.blocks[name]]
            norms = [b for b in wants if isinstance(b, HeadBlock) and b.form == "multihead"]
            if norms:
                self.query = {id(b): self.base_layer(b.normed(x)) if hasattr(b, "norm_weight") else out for b in norms}
        return out


class UnifiedModel(BottleneckTuner):
    """The tuner behind `get_peft_model(model, UnifiedConfig(...))`."""

    prefix = "uni_"
    linear_cls = UnifiedLayer
    tuner_layer_cls = UnifiedLayer

    def _prepare_adapter_config(self, config: UnifiedConfig, model_config: dict) -> UnifiedConfig:
        self.__dict__["_plan"] = {}
        for delta in config.rows():
            for name, reader in places(self.model, delta, config):
                self._plan.setdefault(name, []).append((delta, reader))
        settle_targets(self.model, config, set(self._plan))
        return config

    def _create_and_replace(
        self, config: UnifiedConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        layer = self._wrapped(config, adapter_name, target, target_name, parent, current_key)
        for delta, reader in self._plan[current_key]:
            if delta.at == "head":
                heads, width = head_shape(self.model, current_key)
                layer.add_block(adapter_name, HeadBlock(delta, heads, width, layer.in_features))
                attach_heads(self.model, current_key, layer)
                continue
            d_in, d_out = _sizes(self.model, delta, (current_key, reader))
            block = Bottleneck(
                d_in, delta.size, d_out, kind="lora" if delta.form == "low_rank" else "dense",
                read="own" if delta.form == "low_rank" else delta.read, activation=delta.activation, scale=delta.scale,
                init="lora" if delta.init == "lora" else "normal", std=0.02, inner_norm=delta.inner_norm,
                inside=delta.form == "bottleneck" and delta.at == "attention" and delta.read == "input",
            )  # fmt: skip
            layer.add_block(adapter_name, block, None if reader is None else self.model.get_submodule(reader))

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names = set(kwargs.get("adapter_names") or ()) & set(self.peft_config)
        if any(delta.at == "head" for name in names for delta in self.peft_config[name].rows()):
            raise ValueError(
                "A prefix cannot serve a batch with another adapter per row: the rows would attend to different numbers of "
                "keys. Run one batch per adapter."
            )
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        release_heads(model)
        return model
