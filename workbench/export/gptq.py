"""Integer codes in GPTQ's layout, as gptqmodel, transformers, vLLM and SGLang read it.

    qweight  int32 [in·b/32, out]   column o is one little-endian stream of the codes of output o
    qzeros   int32 [in/g, out·b/32] the zero points of one group of inputs, a stream along the outputs:
                                    z − 1 in version 1 ("gptq"), z in version 2 ("gptq_v2")
    scales   float16 [in/g, out]    g_idx int32 [in]: the group of every input, i // g      bias float16

3 bits are dense too: 32 codes in 3 words, the 11th and the 22nd split over a border. A symmetric 4-bit zero point is 8, so a
word of version 1 is 0x77777777. Readers of version 1 add 1 to a whole word: z = 0 would be stored as 2^b − 1 and carry
into its neighbour, so a model with such a zero point is refused there and goes to version 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.compress.linear import IntLinear
from workbench.compress.packing import pack
from workbench.errors import UserError


def words(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [rows, n] → int32 [rows, n·bits/32], each row one little-endian stream (n·bits a multiple of 32)."""
    return pack(codes, bits).flatten().view(torch.int32).view(len(codes), -1)


def convert(name: str, layer: IntLinear, dtype: torch.dtype, version: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of one layer.

    Args:
        name: of the layer, for the message.
        layer: integer codes; both sides multiples of 32.
        dtype: of the bias.
        version: 1 or 2.

    Returns:
        Tensors by name, and the weight [out, in] that they stand for.

    Raises:
        UserError: version 1 and a zero point of 0.
    """
    record = layer.record()
    zeros = record.zeros
    if version == 1 and int(zeros.min()) == 0:
        raise UserError(
            f"gptq cannot hold this model: it stores zero points minus one and {name} has a zero point of 0. "
            "What can: gptq-v2, compressed-tensors."
        )
    stored = zeros - 1 if version == 1 else zeros
    found = {
        "qweight": words(record.codes, record.bits).t(),
        "qzeros": words(stored.t().contiguous(), record.bits),
        "scales": record.scales.t(),
        "g_idx": (torch.arange(layer.in_features) // record.group_size).to(torch.int32),
    }
    if layer.bias is not None:
        found["bias"] = layer.bias.detach().to(dtype)
    return found, record.dequantize()


def quantization(settings: Any, version: int = 1) -> dict[str, Any]:
    """What config.json says, from the settings that the packed layers share (`WbIntConfig`)."""
    return {
        "quant_method": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": settings.symmetric,
        "desc_act": False,
        "true_sequential": True,
        "lm_head": False,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        "pack_dtype": "int32",
    }


def decode(tensors: dict[str, Tensor], settings: dict[str, Any]) -> Tensor:
    """The weight [out, in] of one layer, read from its definition, bit by bit (it shares nothing with `convert`).

    Args:
        tensors: qweight, qzeros, scales, g_idx.
        settings: `quantization_config` of config.json.
    """
    bits, groups = settings["bits"], tensors["g_idx"].long()
    columns = tensors["qweight"].shape[1]
    codes = stream(tensors["qweight"].t(), bits, len(groups))  # [out, in]
    zeros = stream(tensors["qzeros"], bits, columns)  # [in/g, out]
    if settings["checkpoint_format"] == "gptq":
        zeros = zeros + 1
    scales = tensors["scales"].float()
    return (scales[groups] * (codes.t() - zeros[groups]).float()).t()


def stream(stored: Tensor, bits: int, n: int) -> Tensor:
    """Rows of int32 words → int64 [rows, n]: code j is bits j·b … j·b + b − 1 of the row, lowest first."""
    unsigned = stored.long() & 0xFFFFFFFF
    places = torch.arange(32)
    ones = (unsigned.unsqueeze(-1) >> places & 1).flatten(1)[:, : n * bits]
    return (ones.view(len(stored), n, bits) << torch.arange(bits)).sum(-1)
