"""Where the sub-layers of a transformer begin and end, by the names of their linear layers.

A *site* is an attention or a feed-forward block: `reader`, its first linear layer, sees the block's input x; `writer`, its
last one, makes the block's output h, before the residual sum. Families are told apart by names alone, so a model of one's
own with the same names works as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from workbench.errors import UserError, choose

# family: role → pattern of the end of the layer's name. `head` is every attention, cross-attention included.
FAMILIES: dict[str, dict[str, str]] = {
    "Llama": {
        "q": r"self_attn\.q_proj", "v": r"self_attn\.v_proj", "attention": r"self_attn\.o_proj",
        "ffn_in": r"mlp\.(?:gate_proj|gate_up_proj)", "ffn": r"mlp\.down_proj", "head": r"self_attn\.q_proj",
    },
    "GPT-2": {
        "q": r"attn\.c_attn", "v": "", "attention": r"attn\.c_proj", "ffn_in": r"mlp\.c_fc", "ffn": r"mlp\.c_proj",
        "head": r"attn\.c_attn",
    },
    "BERT": {
        "q": r"attention\.self\.query", "v": r"attention\.self\.value", "attention": r"attention\.output\.dense",
        "ffn_in": r"intermediate\.dense", "ffn": r"(?<!attention\.)output\.dense", "head": r"attention\.self\.query",
    },
    "T5": {
        "q": r"SelfAttention\.q", "v": r"SelfAttention\.v", "attention": r"SelfAttention\.o",
        "ffn_in": r"DenseReluDense\.wi(?:_0)?", "ffn": r"DenseReluDense\.wo", "head": r"(?:SelfAttention|EncDecAttention)\.q",
    },
    "ViT": {
        "q": r"attention\.q_proj", "v": r"attention\.v_proj", "attention": r"attention\.o_proj",
        "ffn_in": r"mlp\.fc1", "ffn": r"mlp\.fc2", "head": r"attention\.q_proj",
    },
    "BART": {
        "q": r"self_attn\.q_proj", "v": r"self_attn\.v_proj", "attention": r"self_attn\.out_proj",
        "ffn_in": r"fc1", "ffn": r"fc2", "head": r"(?:self_attn|encoder_attn)\.q_proj",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One block.

    Attributes:
        kind: `attention` or `ffn`.
        reader: name of the linear layer that reads the block's input.
        writer: name of the linear layer that writes the block's output.
    """

    kind: str
    reader: str
    writer: str


def family_of(model: nn.Module) -> str:
    """The family whose layer names this model has.

    Raises:
        UserError: with the model's own layer names, when none fits.
    """
    names = [name for name, _ in model.named_modules()]
    for family, roles in FAMILIES.items():
        if all(any(_ends(name, roles[role]) is not None for name in names) for role in ("attention", "ffn_in", "ffn")):
            return family
    leaves = sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "in_features")}
    )
    raise UserError(
        f"Attention and feed-forward blocks of {type(model).__name__} are not known ({', '.join(FAMILIES)} are); "
        f"name the output layers in target_modules. Its linear layers are {', '.join(leaves) or 'none'}."
    )


def _ends(name: str, pattern: str) -> str | None:
    """What stands before a name's ending, or None when it ends otherwise."""
    match = re.fullmatch(rf"(|.*?\.)(?:{pattern})", name) if pattern else None
    return match[1] if match else None


def role_names(model: nn.Module, role: str) -> list[str]:
    """Names of all layers of a role (q, v, attention, ffn_in, ffn, head), in the model's order."""
    pattern = FAMILIES[family_of(model)][role]
    return [name for name, _ in model.named_modules() if _ends(name, pattern) is not None]


def sites(model: nn.Module, kind: str) -> list[Site]:
    """All blocks of a kind, in the model's order.

    Args:
        model: any transformer of a known family.
        kind: `attention` or `ffn`.
    """
    choose("place", kind, ("attention", "ffn"))
    roles = FAMILIES[family_of(model)]
    readers, found = {}, []
    for name, _ in model.named_modules():
        before = _ends(name, roles["q" if kind == "attention" else "ffn_in"])
        if before is not None:
            readers[before] = name
    for name, _ in model.named_modules():
        before = _ends(name, roles[kind])
        if before is not None:
            found.append(Site(kind, readers[before], name))
    return found


def is_norm(module: nn.Module) -> bool:
    """True for a layer norm, RMS norm or the like: a leaf with a vector of weights."""
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and weight is not None and weight.dim() == 1 and not list(module.children())


def settle_targets(model: nn.Module, config: Any, wanted: set[str]) -> None:
    """Write the layers a method found for itself into its config; a config that already means others is refused.

    Args:
        model: the model.
        config: its `target_modules` is None, or comes from a saved adapter.
        wanted: full names of the layers.

    Raises:
        UserError: when `target_modules` names other layers.
    """
    if config.target_modules is not None:
        given = {name for name, _ in model.named_modules() if name and check_target_module_exists(config, name)}
        if given != wanted:
            raise UserError(
                f"target_modules means {', '.join(sorted(given)[:3]) or 'no layer'} here, but {config.peft_type.value} goes on "
                f"{', '.join(sorted(wanted)[:3])} …; leave target_modules out (or the adapter belongs to another model)."
            )
    config.target_modules = wanted
