"""Put into a model the weights that its exported file stands for, layer by layer, until it is an ordinary dense model.

The file is then held against this model, so that a comparison sees layout, names and configuration, and not the rounding that
the format is known to do (which is reported on its own).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def settle(model: nn.Module, name: str, weight: Tensor) -> None:
    """Give the layer `name` the weight [out, in], float32; a packed layer becomes the dense one it stands for.

    Args:
        model: changed in place.
        name: a linear layer, Conv1D or embedding.
        weight: what the file says.
    """
    from workbench.compress.linear import PackedLinear
    from workbench.compress.registry import dense_layer
    from workbench.compress.targets import linear_classes, set_matrix

    module = model.get_submodule(name)
    if isinstance(module, PackedLinear):
        module = dense_layer(module, torch.float32)
        model.set_submodule(name, module)
    if isinstance(module, linear_classes()):
        set_matrix(module, weight.to(module.weight.device))
    else:
        module.weight.data.copy_(weight)


def forget_packing(model: Any) -> None:
    """Drop what marks a model as quantized once its last packed layer is dense."""
    model.hf_quantizer, model.is_quantized = None, False
    model.config._is_quantized = False
    for holder, attribute in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, attribute):
            delattr(holder, attribute)


def tied_names(model: Any) -> set[str]:
    """Names in the state dict that repeat another tensor (the head of a tied model)."""
    return set(getattr(model, "all_tied_weights_keys", None) or {})
