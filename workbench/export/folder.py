"""A transformers folder from tensors: config.json, model.safetensors (in shards where it is large), tokenizer.

Written tensor by tensor from the model's modules, never through the model's own quantizer, whose format is ours alone. The
head of a tied model is left out: config.json says that it is the embedding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import UserError
from workbench.export.place import forget_packing, settle, tied_names
from workbench.progress import Progress, silent

DTYPES = ("float32", "bfloat16", "float16")


def write(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    dtype: str,
    convert: Any = None,
    quantization: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> None:
    """Write the folder, and leave in `model` the weights that it stands for.

    Args:
        model: dense or packed; changed in place (it ends dense).
        tokenizer: its tokenizer.
        folder: an empty folder.
        dtype: number type of everything that is not a code.
        convert: `convert(name, layer, dtype)` turns a packed layer into (tensors by last name, weight that they stand
            for); None unpacks it.
        quantization: what config.json says about the codes.
        progress: called per layer.

    Raises:
        UserError: weights that `dtype` cannot hold.
    """
    from huggingface_hub import save_torch_state_dict

    from workbench.compress.linear import PackedLinear

    kind = getattr(torch, dtype)
    state: dict[str, Tensor] = {}
    packed = {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    for index, (name, module) in enumerate(packed.items()):
        if convert is None:
            weight = module.dequantize()
        else:
            found, weight = convert(name, module, kind)
            state |= {f"{name}.{last}": tensor.contiguous().cpu() for last, tensor in found.items()}
        settle(model, name, weight.float().cpu())
        progress(index + 1, len(packed) + 1, name)
    forget_packing(model)
    coded = {f"{name}.weight" for name in packed} if convert is not None else set()
    tied = tied_names(model)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in coded or name in tied:
            continue
        stored = narrow(name, tensor.data, kind)
        state.setdefault(name, stored)
        tensor.data.copy_(stored)
    save_torch_state_dict(state, folder, metadata={"format": "pt"})
    progress(len(packed) + 1, len(packed) + 1, "weights")
    write_config(model, folder, dtype, quantization)
    tokenizer.save_pretrained(folder)


def narrow(name: str, tensor: Tensor, kind: torch.dtype) -> Tensor:
    """A tensor in the number type of the file.

    Raises:
        UserError: a value became infinite, or is not a number.
    """
    if not tensor.is_floating_point():
        return tensor.cpu().contiguous()
    stored = tensor.detach().to(kind).cpu().contiguous()
    if not bool(torch.isfinite(stored).all()):
        if bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name} holds values beyond {str(kind)[6:]} (65504); use --dtype bfloat16 or float32.")
        raise UserError(f"{name} holds NaN or infinite values; the checkpoint is damaged, load an earlier one.")
    return stored


def write_config(model: Any, folder: Path, dtype: str, quantization: dict[str, Any] | None) -> None:
    """config.json and generation_config.json, with our packing replaced by what the file has."""
    config = model.config.to_diff_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config |= {"architectures": [type(model).__name__], "dtype": dtype, "use_cache": True}
    if quantization:
        config["quantization_config"] = quantization
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
