"""What export has to know about a model, from its shapes alone: a loaded model or one on the meta device will do.

So a model that a format cannot hold is refused before its weights are read, and the size of the file is known before it
is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layer:
    """A linear layer. `kind` is dense, int, nf4 or fp4; `conv1d` says that it takes the place of GPT-2's transposed one;
    `part` names what its record holds beside codes, scales and zero points."""

    name: str
    out: int
    width: int
    kind: str = "dense"
    bits: int = 0
    group: int = 0
    symmetric: bool = False
    conv1d: bool = False
    part: str = ""


@dataclass(frozen=True)
class Facts:
    """A model in outline.

    Attributes:
        config: its transformers configuration.
        layers: its linear layers but the output head, in order.
        head: name of the output head when it has weights of its own, else None (tied to the embedding).
        embedding: (rows, columns) of the input embedding.
        rest: numbers in all other parameters (norms, biases, positions).
        biased: names of layers with a bias.
    """

    config: Any
    layers: tuple[Layer, ...]
    head: str | None
    embedding: tuple[int, int]
    rest: int
    biased: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """transformers' name of the architecture."""
        return self.config.model_type

    @property
    def packed(self) -> tuple[Layer, ...]:
        """The layers that hold codes."""
        return tuple(layer for layer in self.layers if layer.kind != "dense")


def outline(model: Any) -> Facts:
    """Read the outline of a model (adapters already folded in).

    Args:
        model: a causal language model, packed or dense, on any device.
    """
    from torch import nn

    from workbench.compress.linear import IntLinear, PackedLinear
    from workbench.compress.targets import linear_classes, sizes

    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    layers, biased, head, counted = [], [], None, embedding.weight.numel()
    for name, module in model.named_modules():
        if module is output:
            head = None if tied else name
            counted += 0 if tied else module.weight.numel()
            continue
        if isinstance(module, PackedLinear):
            kind = "int" if isinstance(module, IntLinear) else module.kind
            group = module.group_size if kind == "int" else module.block_size
            symmetric = kind == "int" and module.symmetric
            bits = module.bits if kind == "int" else 4
            where = name, module.out_features, module.in_features
            layers.append(Layer(*where, kind, bits, group, symmetric, module.was_conv1d, _part(module)))
        elif isinstance(module, linear_classes()):
            layers.append(Layer(name, *sizes(module), conv1d=not isinstance(module, nn.Linear)))
            counted += module.weight.numel()
        else:
            continue
        if module.bias is not None:
            biased.append(name)
    rest = sum(parameter.numel() for parameter in model.parameters()) - counted
    return Facts(model.config, tuple(layers), head, tuple(embedding.weight.shape), rest, tuple(biased))


def _part(module: Any) -> str:
    """What a packed layer holds that other programs' formats have no place for."""
    if getattr(module, "outlier_columns", None) is not None:
        return "outlier columns in float"
    return "an input scale" if getattr(module, "input_scale", None) is not None else ""


def skeleton(name: str | Path, quantized: dict[str, Any] | None = None) -> Any:
    """A model on the meta device with the layers it will have once loaded, packed ones included.

    Args:
        name: bundled name, folder, .gguf file or hub id.
        quantized: settings of integer codes that the layers will be given, else the model's own.

    Raises:
        UserError: as `workbench.models.resolve`; a model that cannot continue text.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from workbench import models
    from workbench.compress import registry
    from workbench.errors import UserError
    from workbench.models.loading import WRITES

    found = models.load_config(name)
    plain = found.to_dict()
    own = plain.pop("quantization_config", None) or {}
    settings = quantized or own
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    named = config.architectures or []
    if named and not any(WRITES.search(architecture) for architecture in named):
        raise UserError(f"{name} is a {named[0]}, which cannot continue a text; only models that do are exported.")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise UserError(
            f"{name} is a {config.model_type}, which cannot continue a text; only such models export."
        ) from error
    kinds = {"wb_int": registry.WbIntConfig, "wb_float": registry.WbFloatConfig}
    if settings.get("quant_method") in kinds:
        packing = kinds[settings["quant_method"]](**settings)
        registry.WbQuantizer(packing, pre_quantized=True)._process_model_before_weight_loading(model)
    return model
