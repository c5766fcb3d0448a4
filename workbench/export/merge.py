"""Adapters into weights before export, and the proof that they are in there.

    dense base    W + scaling·BA, by the adapter's own merge
    packed base   dequantize(codes) + scaling·BA, as a dense layer: exact, but no longer on the grid of the codes

Merging can lose an adapter without a word: a layer whose weight is computed on the fly (a quantized layer that looks dense,
a parametrized one) takes the sum into a temporary. So the merged model must give the logits of the unmerged one, on real
text, or the export is refused.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from workbench.errors import UserError
from workbench.export.check import MERGE_BOUND, logits, relative


def carries_adapter(model: Any) -> bool:
    """Whether there is something to merge."""
    from peft import PeftModel

    return isinstance(model, PeftModel) or any(
        hasattr(module, "lora_A") or hasattr(module, "base_layer") for module in model.modules()
    )


def fold(model: Any, text: list[Tensor], before: Tensor) -> Any:
    """The model with its adapter in the weights, packed layers under it made dense.

    Args:
        model: a `PeftModel`; taken apart.
        text: windows of token ids (1, T).
        before: logits of the unmerged model on them.

    Returns:
        An ordinary transformers model.

    Raises:
        UserError: an adapter that acts on the input, that cannot be merged, or that is lost by merging.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise UserError(
            "This model carries adapter layers but is no PeftModel; give the one that get_peft_model returned."
        )
    method = str(getattr(model.peft_config[model.active_adapter], "peft_type", "adapter")).rpartition(".")[2].lower()
    if not hasattr(model, "merge_and_unload"):
        raise UserError(
            f"{method} acts on the input, not on weights, so no file of weights holds it; chat with it unmerged "
            "(workbench chat RUN), or tune with lora."
        )
    _unpack(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            merged = model.merge_and_unload(safe_merge=True)
    except UserError:
        raise
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{method} cannot be merged into the weights ({reason}); tune with lora to export.") from error
    merged.eval()
    lost = relative(logits(merged, text), before)
    if not lost <= MERGE_BOUND:
        raise UserError(
            f"Merging {method} changes the answers (relative logit difference {lost:.2g}, at most {MERGE_BOUND:g} is allowed): "
            "the layers take the sum into a copy and the adapter is lost. Merge it into the unquantized base model, or use "
            "--requantize."
        )
    return merged


@torch.no_grad()
def _unpack(model: Any) -> None:
    """Every LoRA on packed codes becomes a dense layer that holds both; other packed layers stay packed until written."""
    from workbench.compress.lora import PackedLoraLinear
    from workbench.compress.registry import dense_layer

    base = model.get_base_model()
    for name, module in list(base.named_modules()):
        if not isinstance(module, PackedLoraLinear):
            continue
        dense = dense_layer(module.base_layer, torch.float32)
        total = sum(module.delta(adapter) for adapter in module.active_adapters if adapter in module.lora_A)
        if isinstance(total, Tensor):
            part = total.to(dense.weight.device)
            dense.weight.data += part.t() if module.base_layer.was_conv1d else part
        base.set_submodule(name, dense)
