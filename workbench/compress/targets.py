"""Which layers of a model are quantized, and the checks that come before any of them is touched.

Targets are `nn.Linear` and GPT-2's `Conv1D`, except the output head, weights tied to an embedding, what the model keeps
in float32, and what the caller skips. Experts that a mixture model stores as one 3-D parameter are not linear layers
and stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.errors import UserError


def linear_classes() -> tuple[type, ...]:
    """The layer classes that hold a weight matrix for us."""
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, Conv1D


def sizes(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features) of a linear layer or Conv1D."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    width, out = module.weight.shape
    return out, width


def matrix(module: nn.Module) -> Tensor:
    """The weight as [out, in], whichever way the layer stores it."""
    weight = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.t()


def set_matrix(module: nn.Module, weight: Tensor) -> None:
    """Overwrite the weight with [out, in] values."""
    target = module.weight.data
    target.copy_(weight if isinstance(module, nn.Linear) else weight.t())


def skipped_patterns(model: nn.Module, skip: tuple[str, ...] | list[str]) -> list[str]:
    """Names that stay dense: the caller's, the head, tied weights, and what the model keeps in float32."""
    patterns = list(skip)
    if hasattr(model, "all_tied_weights_keys"):
        from transformers.quantizers.base import HfQuantizer

        patterns += HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return sorted(set(patterns))


def find_targets(model: nn.Module, skip: tuple[str, ...] | list[str] = ("lm_head",)) -> dict[str, nn.Module]:
    """Name → module of every layer to quantize, in the model's order.

    Args:
        model: a dense model.
        skip: names or patterns (transformers' rules) that stay dense besides the head and tied weights.

    Raises:
        UserError: when nothing is left to quantize.
    """
    from transformers.quantizers.quantizers_utils import should_convert_module

    patterns = skipped_patterns(model, skip)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, linear_classes())
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and id(module.weight) not in embeddings
        and should_convert_module(name, patterns)
    }
    if not found:
        raise UserError(f"{type(model).__name__} has no linear layer left to quantize after skipping {patterns}.")
    return found


def dense_names(model: nn.Module) -> list[str]:
    """Names of the linear layers that are still dense: stored in config.json, so that a reload leaves them so."""
    return [name for name, module in model.named_modules() if isinstance(module, linear_classes())]


def check_dense(model: nn.Module) -> None:
    """Refuse a model that is already quantized or carries unmerged adapters.

    Raises:
        UserError: with what to do instead.
    """
    from workbench.compress.linear import PackedLinear

    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    if packed or getattr(model, "hf_quantizer", None) is not None:
        method = getattr(model, "quantization_method", None) or "packed layers"
        raise UserError(
            f"This model is already quantized ({method}); start from its unquantized weights, "
            "or call model.dequantize() first."
        )
    if any(hasattr(module, "lora_A") or hasattr(module, "base_layer") for module in model.modules()):
        raise UserError(
            "This model carries adapters; merge them first (model.merge_and_unload()), "
            "or quantize the base and train adapters on top."
        )


def check_finite(targets: dict[str, nn.Module]) -> None:
    """Refuse NaN or infinite weights, naming the layer.

    Raises:
        UserError: for the first such layer.
    """
    for name, module in targets.items():
        if not bool(torch.isfinite(module.weight.detach().sum())) and not bool(
            torch.isfinite(module.weight.detach()).all()
        ):
            raise UserError(f"{name} holds NaN or infinite weights; the checkpoint is damaged, load an earlier one.")
