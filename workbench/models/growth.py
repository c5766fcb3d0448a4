"""Growth operators: a deeper or wider model made from the weights of a trained one, to be trained on.

    stack    layers l_0 … l_{n−1} repeated g times in order: 0 1 0 1                    (G_direct↑, "G_stack")
    split    every layer repeated g times in its place: 0 0 1 1                         (its interleaved variant)
    zero     as stack, but what the new layers add to the residual stream starts at 0   (G_zero↑: the function is kept)
    width    every unit, head and hidden channel g times: W ↦ 1/g · [W … W; …; W … W]   (G_direct→: the function is kept)
    mlp      every unit of the feed-forward layers g times, its outgoing weights divided by g   (kept as well)

Keeping the function is not what makes growth pay: in the paper `stack`, whose loss jumps, beats all that keep it. A unit and
its exact copy get the same gradients for ever, so `noise` moves the copies of `width` and `mlp` apart.

Source: Du et al., NeurIPS 2024, arXiv 2405.15319 (its atomic operators but G_learn and G_random); width after Chen et al.
2016 (Net2Net, arXiv 1511.05641) and Chen et al. 2022 (bert2BERT, arXiv 2110.07143). Departures: layers are copies, never the
same module twice; any model with one stack of blocks can be deepened; widening tries the grown model and refuses what it
would change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.errors import UserError, choose
from workbench.models.growth_plan import OPERATORS, origins

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WRITERS = ("self_attn.o_proj", "mlp.down_proj", "attn.c_proj", "mlp.c_proj", "attention.output.dense", "output.dense")
TOLERANCE = 1e-3  # of the largest logit, within which a grown model counts as the same function


def grow(
    model: PreTrainedModel, operator: str = "stack", factor: int = 2, *, noise: float = 0.0, seed: int = 0
) -> PreTrainedModel:
    """A grown copy of a dense model; the given one stays as it is.

    Args:
        model: a transformers model.
        operator: one of `OPERATORS`.
        factor: g, how many times the layers or units; 2 to 8.
        noise: spread of what is added to the copied weights of `width` and `mlp`, in standard deviations of the tensor.
        seed: of that noise.

    Raises:
        UserError: an unknown operator or architecture, a factor or noise that cannot be.
    """
    choose("growth operator", operator, OPERATORS)
    if isinstance(factor, bool) or not isinstance(factor, int) or not 2 <= factor <= 8:
        raise UserError(f"factor is {factor!r}; it takes a whole number from 2 to 8.")
    if not 0 <= noise <= 1:
        raise UserError(f"noise is {noise!r}; it takes a number from 0 (exact copies) to 1.")
    if operator == "width":
        return widen(model, factor, noise=noise, seed=seed)
    if operator == "mlp":
        return widen_mlp(model, factor, noise=noise, seed=seed)
    order = origins(operator, len(blocks_of(model)[1]), factor)
    return deepen(model, order, zero=operator == "zero")


def blocks_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of a model's layers: its longest list of equal blocks.

    Raises:
        UserError: a model without one, or with two stacks.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} has an encoder and a decoder; growth takes models with one stack.")
    found = [
        (len(module), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not found:
        raise UserError(f"{type(model).__name__} has no list of equal layers, so it cannot be grown.")
    _, name, blocks = max(found, key=lambda item: item[0])
    return name, blocks


def deepen(model: PreTrainedModel, order: Sequence[int], *, zero: bool = False) -> PreTrainedModel:
    """A model whose layers are copies of the small one's.

    Args:
        model: the small one, n layers.
        order: the small layer behind each layer, 0 … n − 1, for example (0, 1, 0, 1).
        zero: what a layer of `order` that stood before already adds to the residual stream starts at 0.

    Raises:
        UserError: an empty order, a number that is no layer, a block whose last projections have unknown names.
    """
    name, blocks = blocks_of(model)
    wrong = [i for i in order if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(blocks)]
    if wrong or not order:
        raise UserError(f"order is {list(order)!r}; it takes layers from 0 to {len(blocks) - 1}.")
    grown = copy.deepcopy(model)
    _, own = blocks_of(grown)
    layers, seen = nn.ModuleList(), set()
    for place, origin in enumerate(order):
        layer = copy.deepcopy(own[origin])
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where a layer finds its keys and values in the cache
                module.layer_idx = place
        if zero and origin in seen:
            _silence(layer, name)
        seen.add(origin)
        layers.append(layer)
    grown.set_submodule(name, layers)
    text = grown.config.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = [model.config.get_text_config().layer_types[origin] for origin in order]
    text.num_hidden_layers = len(order)
    if zero:
        _same(model, grown, "New silent layers in", "stack or split")
    return grown


@torch.no_grad()
def _silence(layer: nn.Module, name: str) -> None:
    """Zero the projections through which a block adds to the residual stream."""
    last = [module for path, module in layer.named_modules() if path in WRITERS]
    if len(last) != 2:
        raise UserError(
            f"The blocks of {name} have {len(last)} of the known last projections ({', '.join(WRITERS)}), not 2; "
            "use the operator stack or split."
        )
    for module in last:
        for parameter in module.parameters():
            parameter.zero_()


@torch.no_grad()
def _same(model: PreTrainedModel, grown: PreTrainedModel, what: str, others: str) -> None:
    """Refuse a growth that was to keep the function and does not."""
    tokens = torch.arange(24, device=model.device).remainder(model.config.get_text_config().vocab_size).unsqueeze(0)
    modes = model.training, grown.training
    before, after = model.eval()(tokens)[0], grown.eval()(tokens)[0]
    model.train(modes[0])
    grown.train(modes[1])
    if (after[..., : before.shape[-1]] - before).abs().max() > TOLERANCE * before.abs().max():
        raise UserError(
            f"{what} {type(model).__name__} would change what it computes (its projections or norms are of another kind); "
            f"use the operator {others}."
        )


def widen(model: PreTrainedModel, factor: int = 2, *, noise: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """Every hidden channel, head and feed-forward unit `factor` times; the size of a head stays.

    A tensor's axis that grows is tiled; along its inputs the values are divided by `factor`. With tied embeddings, which
    cannot be divided, the last norm is.

    Raises:
        UserError: an architecture whose function would change (fused projections, for example).
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    if hasattr(text, "head_dim"):
        text.head_dim = text.head_dim or text.hidden_size // text.num_attention_heads
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(text, name, None) is not None:
            setattr(text, name, factor * getattr(text, name))
    vectors = [
        name for name, t in model.named_parameters() if t.shape == (model.get_input_embeddings().weight.shape[1],)
    ]
    divided = vectors[-1:] if text.tie_word_embeddings else []
    return _tiled(model, config, divided, noise, seed)


def widen_mlp(model: PreTrainedModel, factor: int = 2, *, noise: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """Every unit of the feed-forward layers `factor` times, its outgoing weights divided by it.

    Raises:
        UserError: an architecture whose configuration names no size of its feed-forward layers.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    if getattr(text, "intermediate_size", None) is None:
        raise UserError(
            f"{type(model).__name__} has no intermediate_size to widen; use the operator stack, split or zero."
        )
    text.intermediate_size = factor * text.intermediate_size
    return _tiled(model, config, [], noise, seed)


@torch.no_grad()
def _tiled(
    model: PreTrainedModel, config: PretrainedConfig, divided: list[str], noise: float, seed: int
) -> PreTrainedModel:
    """A model of the wider `config` with the tensors of `model` repeated; `divided` are divided by the factor as well."""
    grown = type(model)(config).to(model.device, model.dtype).eval()
    tables = {id(m.weight) for m in grown.modules() if isinstance(m, nn.Embedding)}
    small = dict(model.named_parameters())
    for name, tensor in grown.named_parameters():
        times = [new // old for new, old in zip(tensor.shape, small[name].shape, strict=True)]
        share = times[0] if name in divided else times[1] if tensor.ndim > 1 and id(tensor) not in tables else 1
        tensor.copy_(small[name].repeat(*times) / share)
    _same(model, grown, "Widening", "stack, split or zero")
    chance = torch.Generator().manual_seed(seed)
    for name, tensor in grown.named_parameters():
        first = tuple(slice(0, size) for size in small[name].shape)
        if noise and tensor.shape != small[name].shape:
            moved = tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=chance).to(tensor)
            moved[first] = tensor[first]
            tensor.copy_(moved)
    return grown.train(model.training)
