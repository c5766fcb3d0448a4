"""Which weights answered: 12 hex digits over everything that is active in a model.

sha256 over (name, dtype, shape, bytes) of each tensor of the state dict, in order of names: packed codes and scales of a
compressed model, and adapters, included. Adapters that are loaded but not active are left out, and with all of them off
the print is that of the base model alone, because peft's wrapping of names is undone. The factor that multiplies a
LoRA-like adapter (its `scaling`) is hashed too: it is no tensor, but it changes the answers.
"""

from __future__ import annotations

import hashlib
from typing import Any

from workbench.errors import UserError

CHUNK = 1 << 26  # bytes hashed at once: keeps a copy from the GPU small


def fingerprint(model: Any) -> str:
    """Hash of the active weights.

    Args:
        model: any torch module, wrapped by peft or not, packed or not, on any device.

    Returns:
        12 hexadecimal digits; equal for equal weights, whatever the device.

    Raises:
        UserError: a weight has no values yet (it is on the meta device).
    """
    import torch

    loaded, active = _adapters(model)
    tensors = {}
    for name, value in model.state_dict().items():
        parts = name.removeprefix("base_model.model.").split(".")
        owners = loaded.intersection(parts)
        if torch.is_tensor(value) and (not owners or owners & active):
            tensors[".".join(part for part in parts if part != "base_layer")] = value
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach()
        if value.is_meta:
            raise UserError(f"The weight {name} has no values yet (meta device); load the model before hashing it.")
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.contiguous().reshape(-1).view(torch.uint8) if value.numel() else value.new_empty(0)
        for start in range(0, flat.numel(), CHUNK):
            digest.update(flat[start : start + CHUNK].cpu().numpy())
    for name, module in sorted(model.named_modules()):
        factors = getattr(module, "scaling", None)
        if isinstance(factors, dict):
            used = {key: float(factors[key]) for key in sorted(active.intersection(factors))}
            digest.update(f"{name} {used}\n".encode() if used else b"")
    return digest.hexdigest()[:12]


def _adapters(model: Any) -> tuple[set[str], set[str]]:
    """Names of the adapters loaded into a model, and of those that take part in its forward pass."""
    from_layers = [m for m in model.modules() if hasattr(m, "active_adapters") and hasattr(m, "adapter_layer_names")]
    configs = getattr(model, "peft_config", None)
    loaded = set(configs) if isinstance(configs, dict) else set()
    active: set[str] = set()
    for layer in from_layers:
        if not layer.disable_adapters:
            active.update(layer.active_adapters)
    if not from_layers and loaded:  # prompt-like methods have no layers
        active.add(model.active_adapter)
    return loaded, active & loaded
