"""Integer codes in the layout of compressed-tensors ("pack-quantized"), which vLLM and SGLang run and transformers reads.

    weight_packed      int32 [out, ceil(in·b/32)]   a row is one little-endian stream of code q + 2^(b−1), q signed
    weight_scale       [out, in/g]                  in the model's number type
    weight_zero_point  int32 [ceil(out·b/32), in/g] the same packing along the outputs; absent when symmetric
    weight_shape       int64 [2]

q + 2^(b−1) is our unsigned code, and a signed zero point plus 2^(b−1) our unsigned one, so the codes move as they are. The
stream is dense, also for 3 bits (compressed-tensors since 0.17; vLLM has kernels for 4 and 8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.compress.linear import IntLinear
from workbench.compress.packing import pack
from workbench.export.gptq import stream


def words(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [rows, n] → int32 [rows, ceil(n·bits/32)], the last word filled with zeros."""
    packed = pack(codes, bits)
    whole = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % 4))
    return whole.flatten().view(torch.int32).view(len(codes), -1)


def convert(name: str, layer: IntLinear, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of one layer.

    Args:
        name: of the layer.
        layer: integer codes.
        dtype: of scales and bias.

    Returns:
        Tensors by name, and the weight [out, in] that they stand for.
    """
    record = layer.record()
    scales = record.scales.to(dtype)
    found = {
        "weight_packed": words(record.codes, record.bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([layer.out_features, layer.in_features]),
    }
    if not record.symmetric:
        found["weight_zero_point"] = words(record.zeros.t().contiguous(), record.bits).t()
    if layer.bias is not None:
        found["bias"] = layer.bias.detach().to(dtype)
    return found, record.dequantize()


def quantization(settings: Any, dense: list[str]) -> dict[str, Any]:
    """What config.json says.

    Args:
        settings: of the packed layers, which share them (`WbIntConfig`).
        dense: names of linear layers without codes, the head included.
    """
    whole = settings.group_size == -1
    weights = {
        "num_bits": settings.bits,
        "type": "int",
        "symmetric": settings.symmetric,
        "strategy": "channel" if whole else "group",
        "group_size": None if whole else settings.group_size,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": dense,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def decode(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """The weight [out, in] of one layer, read from the layout's definition (it shares nothing with `convert`).

    Args:
        tensors: weight_packed, weight_scale, weight_shape and, when asymmetric, weight_zero_point.
        settings: `quantization_config` of config.json.
    """
    weights = next(iter(settings["config_groups"].values()))["weights"]
    bits, half = weights["num_bits"], 1 << (weights["num_bits"] - 1)
    out, width = tensors["weight_shape"].tolist()
    signed = stream(tensors["weight_packed"], bits, width) - half
    scales = tensors["weight_scale"].float()
    zeros = torch.zeros_like(scales)
    if not weights["symmetric"]:
        zeros = (stream(tensors["weight_zero_point"].t(), bits, out) - half).t().float()
    group = width // scales.shape[1]
    return (signed.float() - zeros.repeat_interleave(group, 1)) * scales.repeat_interleave(group, 1)
