"""Trained keys and values at the attention heads, through the attention functions that transformers exposes.

An attention module looks its function up by the name in its config. `attach_heads` gives that one module a copy of its
config with our name in it; our function adds the trained keys and values and calls the function the model had before.
The cache holds the text's keys only, positions and masks of the text stay as they are: the prefix is seen by every query.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workbench.errors import UserError

NAME = "workbench_heads"


class HeadBlock(nn.Module):
    """Keys and values (heads, l, width) of a prefix, or of the multi-head adapter.

    Args:
        delta: the row of the design table.
        heads: key-value heads of the attention.
        width: size of a head.
        d_in: size of what the query layer reads (for a norm of its own).
    """

    def __init__(self, delta: Any, heads: int, width: int, d_in: int) -> None:
        super().__init__()
        self.form, self.scale, self.kind = delta.form, delta.scale, delta.form
        self.key = nn.Parameter(torch.randn(heads, delta.size, width) * 0.02)
        self.value = nn.Parameter(torch.randn(heads, delta.size, width) * 0.02)
        if delta.inner_norm:
            self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(d_in)), nn.Parameter(torch.zeros(d_in))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """The block's own layer norm."""
        return F.layer_norm(x.float(), x.shape[-1:], self.norm_weight, self.norm_bias).to(x.dtype)


def gated_parallel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix_key: torch.Tensor, prefix_value: torch.Tensor,
    mask: torch.Tensor | None = None, scaling: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Prefix tuning written as (1 − λ) Attn(K, V) + λ Attn(P_k, P_v): equation 5 of the paper, for checks and pictures.

    Args:
        query: (batch, heads, t, width).
        key, value: (batch, heads, k, width).
        prefix_key, prefix_value: (heads, l, width).
        mask: additive (…, t, k), or None.
        scaling: of the logits; 1/√width by default.

    Returns:
        The output (batch, heads, t, width), and λ (batch, heads, t, 1).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    own = query @ key.transpose(-1, -2) * scaling
    own = own if mask is None else own + mask
    extra = query @ prefix_key.transpose(-1, -2) * scaling
    ours, theirs = extra.logsumexp(-1, keepdim=True), own.logsumexp(-1, keepdim=True)
    gate = torch.sigmoid(ours - theirs)
    return (1 - gate) * (own.softmax(-1) @ value) + gate * (extra.softmax(-1) @ prefix_value), gate


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    layer = next((child for child in module.children() if hasattr(child, "heads_before")), None)
    before = layer.heads_before if layer is not None else "eager"
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        before, vars(sys.modules[type(module).__module__]).get("eager_attention_forward")
    )
    active: list[HeadBlock] = []
    if layer is not None and not layer.disable_adapters:
        active = [
            b for n in filter(layer.has, layer.active_adapters) for b in layer.blocks[n] if isinstance(b, HeadBlock)
        ]
    prefixes = [block for block in active if block.form == "prefix"]
    if prefixes:
        length = sum(block.key.shape[1] for block in prefixes)
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        queries, keys = query.shape[2], key.shape[2]
        if attention_mask is None and before == "sdpa" and causal and queries > 1:
            attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()[None, None]
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (length, 0), value=attention_mask.dtype == torch.bool)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = F.pad(kwargs["position_bias"], (length, 0))
        batch = len(key)
        key = torch.cat([*(b.key.to(key.dtype).expand(batch, -1, -1, -1) for b in prefixes), key], 2)
        value = torch.cat([*(b.value.to(value.dtype).expand(batch, -1, -1, -1) for b in prefixes), value], 2)
        if attention_mask is None:
            kwargs["is_causal"] = False
    out, weights = attend(module, query, key, value, attention_mask, **kwargs)
    for block in active:
        if block.form == "multihead":
            out = out + _multihead(block, layer.query[id(block)], out)
    return out, weights


def _multihead(block: HeadBlock, projected: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """s · relu(q P_kᵀ) P_v in the shape of the attention's output (batch, t, heads, width); q is not scaled."""
    heads, width = out.shape[-2:]
    query = projected[..., : heads * width].unflatten(-1, (heads, width)).float()  # a fused layer has q first
    group = heads // block.key.shape[0]
    keys, values = (p.float().repeat_interleave(group, 0) for p in (block.key, block.value))
    hidden = torch.relu(torch.einsum("bthd,hld->bthl", query, keys))
    return (torch.einsum("bthl,hld->bthd", hidden, values) * block.scale).to(out.dtype)


AttentionInterface.register(NAME, _attend)


def _attention_of(model: nn.Module, query_name: str) -> nn.Module:
    return model.get_submodule(query_name.rpartition(".")[0])


def head_shape(model: nn.Module, query_name: str) -> tuple[int, int]:
    """(key-value heads, width of a head) of the attention that a query layer belongs to."""
    attention = _attention_of(model, query_name)
    width = next(
        getattr(attention, name)
        for name in ("head_dim", "attention_head_size", "key_value_proj_dim")
        if hasattr(attention, name)
    )
    keys = next((getattr(attention, name) for name in ("k_proj", "key", "k") if hasattr(attention, name)), None)
    features = (
        _fused_size(attention.get_submodule(query_name.rpartition(".")[2])) if keys is None else keys.out_features
    )
    return features // width, width


def attach_heads(model: nn.Module, query_name: str, layer: nn.Module) -> None:
    """Let the attention above a query layer see the layer's trained keys and values.

    Args:
        model: the model.
        query_name: name of the query layer.
        layer: the tuner layer around it.

    Raises:
        UserError: when the attention runs on a kernel that takes no mask.
    """
    attention = _attention_of(model, query_name)
    name = attention.config._attn_implementation
    if name == NAME:
        return
    if name not in ("eager", "sdpa"):
        raise UserError(
            f"A prefix needs attention of the kind eager or sdpa, this model runs {name!r}; load it with sdpa."
        )
    layer.heads_before = name
    attention.heads_config = attention.config
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation_internal = NAME


def release_heads(model: nn.Module) -> None:
    """Give every attention its own config back."""
    for module in model.modules():
        if hasattr(module, "heads_config"):
            module.config = module.heads_config
            del module.heads_config


def _fused_size(layer: nn.Module) -> int:
    """Size of the keys of a fused query-key-value layer (Conv1D stores d_in first)."""
    return layer.in_features if hasattr(layer, "in_features") else layer.weight.shape[0]
