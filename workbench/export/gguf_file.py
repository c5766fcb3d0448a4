"""A model as one GGUF file for llama.cpp: metadata, then tensors in blocks, one tensor in memory at a time.

Names and layout follow llama.cpp's converter. Rows of q_proj and k_proj of a Llama are reordered inside each head, because
llama.cpp rotates neighbouring pairs (2i, 2i + 1) where transformers rotates halves (i, i + d/2):

    [heads, 2, d/2, in] → [heads, d/2, 2, in]

Forgetting it gives fluent-looking nonsense. Qwen2 is rotated by halves there too and keeps its order. Norms and biases stay
float32; a head tied to the embedding is left out, and readers use the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.records import IntWeight
from workbench.errors import UserError
from workbench.export import gguf_blocks, gguf_tokenizer
from workbench.export.place import settle
from workbench.progress import Progress, silent

KINDS = {"gguf-f16": "f16", "gguf-q8_0": "q8_0", "gguf-q4_1": "q4_1", "gguf-q4_0": "q4_0"}
FILE_TYPES = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7}  # general.file_type
BLOCK_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: its name there, the module and the part of it, how it is stored, heads to reorder (or 0)."""

    target: str
    module: str
    part: str
    kind: str
    heads: int
    shape: tuple[int, ...]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the array that is written (bytes along a row for blocks)."""
        if self.kind not in gguf_blocks.BYTES:
            return self.shape
        return self.shape[0], self.shape[1] // gguf_blocks.BLOCK * gguf_blocks.BYTES[self.kind]

    @property
    def dtype(self) -> np.dtype:
        """Number type of that array."""
        return np.dtype({"f32": "<f4", "f16": "<f2"}.get(self.kind, "u1"))


def kinds(to: str, embeddings: str | None) -> tuple[str, str]:
    """(kind of the layers, kind of embedding and head) for a format; 4-bit files keep the embedding in 8 bits."""
    kind = KINDS[to]
    return kind, embeddings or ("f16" if kind == "f16" else "q8_0")


def write(
    model: Any, tokenizer: Any, path: Path, *, to: str, embeddings: str | None, name: str, progress: Progress = silent
) -> None:
    """Write the file, and leave in `model` the weights that it stands for.

    Args:
        model: dense or packed, of an architecture that `formats.obstacle` lets through; changed in place.
        tokenizer: its tokenizer.
        path: the file.
        to: a gguf format.
        embeddings: "f32", "f16" or "q8_0" for embedding and head; None chooses by the format.
        name: general.name.
        progress: called per tensor.

    Raises:
        UserError: a tokenizer that does not fit, weights too large for float16.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    layers, table = kinds(to, embeddings)
    found = list(entries(model, layers, table))
    described = header(model.config, name, layers)
    described |= gguf_tokenizer.metadata(tokenizer, model.get_input_embeddings().num_embeddings)
    writer = GGUFWriter(path, model.config.model_type)
    for key, value in described.items():
        _describe(writer, key, value)
    for entry in found:
        size = int(np.prod(entry.stored_shape)) * entry.dtype.itemsize
        raw = GGMLQuantizationType[entry.kind.upper()]
        writer.add_tensor_info(entry.target, entry.stored_shape, entry.dtype, size, raw)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, entry in enumerate(found):
            writer.write_tensor_data(stored(model, entry))
            progress(index + 1, len(found), entry.target)
    finally:
        writer.close()


def entries(model: Any, layers: str, table: str) -> Iterator[Entry]:
    """Every tensor of the file, in order."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    rows, columns = model.get_input_embeddings().weight.shape
    yield Entry("token_embd.weight", "model.embed_tokens", "weight", table, 0, (rows, columns))
    for index in range(config.num_hidden_layers):
        for ours, theirs in BLOCK_NAMES.items():
            name = f"model.layers.{index}.{ours}"
            module = model.get_submodule(name)
            matrix = isinstance(module, (torch.nn.Linear, PackedLinear))
            shape = (module.out_features, module.in_features) if matrix else tuple(module.weight.shape)
            turned = heads.get(theirs, 0) if config.model_type == "llama" else 0
            yield Entry(f"blk.{index}.{theirs}.weight", name, "weight", layers if matrix else "f32", turned, shape)
            if getattr(module, "bias", None) is not None:
                yield Entry(f"blk.{index}.{theirs}.bias", name, "bias", "f32", 0, tuple(module.bias.shape))
    yield Entry("output_norm.weight", "model.norm", "weight", "f32", 0, tuple(model.model.norm.weight.shape))
    if not config.tie_word_embeddings:
        yield Entry("output.weight", "lm_head", "weight", table, 0, tuple(model.lm_head.weight.shape))


def stored(model: Any, entry: Entry) -> np.ndarray:
    """The array of one tensor; the model gets the weight that it stands for."""
    module = model.get_submodule(entry.module)
    if entry.kind == "f32":
        return getattr(module, entry.part).detach().float().cpu().numpy()
    order = head_order(entry.shape[0], entry.heads)
    record = module.record() if isinstance(module, IntLinear) else None
    if record is not None and record.plain and entry.kind in gguf_blocks.BYTES:
        codes, scales, zeros = (tensor.cpu()[order] for tensor in (record.codes, record.scales, record.zeros))
        moved = IntWeight(codes, scales, zeros, record.bits, record.group_size, record.symmetric)
        data = gguf_blocks.encode_record(moved, entry.kind)
    else:
        weight = module.dequantize() if isinstance(module, PackedLinear) else module.weight.detach().float()
        weight = weight.cpu()[order]
        data = weight.half().numpy() if entry.kind == "f16" else gguf_blocks.encode(weight, entry.kind)
    value = torch.from_numpy(data.astype(np.float32)) if entry.kind == "f16" else gguf_blocks.decode(data, entry.kind)
    if not bool(torch.isfinite(value).all()):
        raise UserError(
            f"{entry.module} holds weights that float16 cannot (above 65504, or NaN); export to safetensors, or load an "
            "earlier checkpoint when the weights are damaged."
        )
    settle(model, entry.module, value[torch.argsort(order)])
    return data


def head_order(rows: int, heads: int) -> Tensor:
    """Which row goes where: position i of the file holds row `order[i]`."""
    order = torch.arange(rows)
    return order.view(heads, 2, -1).transpose(1, 2).flatten() if heads else order


def header(config: Any, name: str, layers: str) -> dict[str, Any]:
    """Keys and values that describe the network."""
    kind = config.model_type
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[layers],
        "general.quantization_version": 2,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.key_length": size,
        f"{kind}.attention.value_length": size,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{kind}.rope.dimension_count": size,
        f"{kind}.vocab_size": config.vocab_size,
    }


def _describe(writer: Any, key: str, value: Any) -> None:
    """One key, in the type that its value has (whole numbers are unsigned)."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
