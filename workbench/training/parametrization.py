"""MiniCPM's parametrization: hyper-parameters found on a tiny model ("wind tunnel") hold for a wide and deep one.

With r = d_model / d_base, for a transformers Llama and everything built like it:

    embedding output          × scale_emb
    output of each attention and MLP block, before it is added to the residual stream    × scale_depth / √(number of layers)
    matrix-like weights (both axes grow with width)    initial std = init_std / √r,   Adam rate = lr / r
    all other weights                                  initial std = init_std,        Adam rate = lr     (norm gains start at 1)
    logits = head(x) / r

At r = 1 nothing depends on the width. With scale_emb = 1, scale_depth = √layers and init_std = `initializer_range` it is then
the plain model, bit for bit. The multipliers are forward hooks: state dict and class stay as they are, and `as_granite` writes
them into a GraniteConfig, so that a trained model is saved and loaded by transformers alone.

Source: Hu et al. 2024, arXiv 2404.06395, §3.1 and table 7 (operations), after Yang et al. 2022, arXiv 2203.03466, and Yang et
al. 2023, arXiv 2310.02244 (depth). Departures from muP (`workbench.training.mup`): attention logits keep q·k/√d, and the
readout's input is scaled through the logits. The defaults are those found by a search on their 9M model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedModel

from workbench.errors import UserError


def minicpm_parametrization(
    model: PreTrainedModel, d_base: int, scale_emb: float = 12.0, scale_depth: float = 1.4, init_std: float = 0.1,
    lr: float = 0.01,
) -> list[dict[str, Any]]:  # fmt: skip
    """Turn a freshly initialised Llama into its parametrized version, in place, and return its parameter groups.

    The initial weights are rescaled, not redrawn: the same seed gives the same directions. Call it once, before training.

    Args:
        model: fresh model with `.model.layers`, each with `self_attn.o_proj` and `mlp.down_proj`.
        d_base: width of the model on which the other values were found.
        scale_emb: factor of the embedding's output.
        scale_depth: factor of the residual branches, times √layers.
        init_std: initial standard deviation at the base width.
        lr: Adam's rate at the base width.

    Returns:
        [{"params": matrix-like, "lr": lr / r}, {"params": the rest, "lr": lr}] for any Adam-like torch optimizer.

    Raises:
        UserError: another architecture, a second call, a value that is not positive.
    """
    for name, value in {
        "d_base": d_base, "scale_emb": scale_emb, "scale_depth": scale_depth, "init_std": init_std, "lr": lr,
    }.items():  # fmt: skip
        if not value > 0:
            raise UserError(f"{name} must be above 0, not {value}.")
    if getattr(model, "_minicpm", None):
        raise UserError(
            "minicpm_parametrization was already applied to this model; a second time would rescale it twice."
        )
    layers = _layers(model)
    r = model.config.hidden_size / d_base
    branch = scale_depth / len(layers) ** 0.5
    matrices = {id(p): p for layer in layers for p in layer.parameters() if p.ndim > 1}
    rescale = init_std / model.config.initializer_range
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(rescale / r**0.5 if id(parameter) in matrices else rescale)
    _scale_output(model.get_input_embeddings(), scale_emb)
    for layer in layers:
        _scale_output(layer.self_attn.o_proj, branch)
        _scale_output(layer.mlp.down_proj, branch)
    _scale_output(model.get_output_embeddings(), 1 / r)
    model._minicpm = {"embedding_multiplier": scale_emb, "residual_multiplier": branch, "logits_scaling": r}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    return [{"params": list(matrices.values()), "lr": lr / r}, {"params": rest, "lr": lr}]


def as_granite(model: PreTrainedModel) -> GraniteForCausalLM:
    """The same function as a Granite model, whose configuration holds the multipliers: save and load it anywhere.

    Raises:
        UserError: a model that `minicpm_parametrization` was not applied to.
    """
    if not getattr(model, "_minicpm", None):
        raise UserError("as_granite needs a model that minicpm_parametrization was applied to.")
    known = GraniteConfig().to_dict()
    kept = {name: value for name, value in model.config.to_dict().items() if name in known and name != "model_type"}
    head = model.config.head_dim
    if head * model.config.num_attention_heads != model.config.hidden_size:
        raise UserError(
            f"Granite has heads of width / number of heads; this model has {model.config.num_attention_heads} heads of {head} "
            f"at width {model.config.hidden_size}."
        )
    config = GraniteConfig(**{**kept, "architectures": None, "attention_multiplier": head**-0.5, **model._minicpm})
    granite = GraniteForCausalLM(config).to(next(model.parameters()))
    granite.load_state_dict(model.state_dict())
    return granite.train(model.training)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not layers or not all(hasattr(x, "self_attn") and hasattr(getattr(x, "mlp", None), "down_proj") for x in layers):
        raise UserError(
            f"{type(model).__name__} is not built like a Llama (model.layers with self_attn and mlp.down_proj); "
            "use workbench.training.mup for other models."
        )
    return list(layers)


def _scale_output(module: nn.Module, factor: float) -> None:
    """Multiply a module's output; nothing is registered for a factor of one."""
    if factor != 1:
        module.register_forward_hook(lambda _module, _inputs, output: output * factor)
