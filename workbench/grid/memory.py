"""Training memory, counted: weights, what the backward pass keeps, gradients, and AdamW's two averages.

The count is exact and the same on every run, unlike the resident set of a process, which holds what the allocator has not
given back. What the backward pass keeps is seen through torch's hooks on saved tensors during one forward pass; tensors
that share memory count once, weights do not count again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

ADAMW = 2  # running averages of a trained number, float32 each


def saved_bytes(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> int:
    """Bytes that one forward pass keeps for the backward pass, without weights.

    Args:
        model: in training mode.
        batch: of the training, with labels.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []  # keeps memory from being used twice while it is counted

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        for part in parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
                held.append(part.detach())
        return tensor.detach()  # with its history the graph would hold itself, and its memory would never be free again

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
    del output
    return sum(seen.values())


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The dense tensors that hold a tensor: itself, or places and values of a sparse COO one (SHiRA keeps such)."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


def counted(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """{weight_bytes, saved_bytes, state_bytes (gradients and AdamW), training_bytes (all of it)}."""
    from workbench.evaluation.meters import weight_bytes

    weights, saved = weight_bytes(model), saved_bytes(model, batch)
    grads = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = grads + sum(4 * ADAMW * p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "weight_bytes": weights, "saved_bytes": saved, "state_bytes": state, "training_bytes": weights + saved + state,
    }  # fmt: skip
