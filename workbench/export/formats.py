"""The formats, what runs them, and why a model does not fit one: `obstacle` gives the reason, `holders` who can instead.

    safetensors         ŵ as floats                                         any engine that reads transformers folders
    gptq, gptq-v2       codes int32 [in·b/32, out], z − 1 or z               transformers + gptqmodel, vLLM, SGLang
    compressed-tensors  codes int32 [out, in·b/32] ("pack-quantized")        vLLM, SGLang, transformers
    gguf-f16 … q4_1     blocks of 32 along a row                             llama.cpp, Ollama, LM Studio

Reasons are computed from shapes (`facts.py`), so that the formats named in a refusal really do hold the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import UserError, choose

if TYPE_CHECKING:
    from workbench.export.facts import Facts


@dataclass(frozen=True)
class Format:
    """A file format: `family` names the module that writes it, `engines` who runs it, `text` what it stores."""

    name: str
    family: str
    engines: str
    text: str


FORMATS = {
    format.name: format
    for format in (
        Format(
            "safetensors", "dense", "transformers, vLLM, any trainer", "plain weights; adapters merged, codes unpacked"
        ),
        Format(
            "gptq", "gptq", "transformers with gptqmodel, vLLM, SGLang", "integer codes, zero points stored minus one"
        ),
        Format("gptq-v2", "gptq", "transformers with gptqmodel", "integer codes, zero points as they are"),
        Format("compressed-tensors", "compressed", "vLLM, SGLang, transformers", "integer codes (pack-quantized)"),
        Format("gguf-f16", "gguf", "llama.cpp and what is built on it", "16-bit weights, 16 bits a weight"),
        Format(
            "gguf-q8_0", "gguf", "llama.cpp and what is built on it", "8-bit codes, blocks of 32, 8.5 bits a weight"
        ),
        Format("gguf-q4_1", "gguf", "llama.cpp and what is built on it", "4-bit codes and a minimum, 5 bits a weight"),
        Format("gguf-q4_0", "gguf", "llama.cpp and what is built on it", "4-bit codes around zero, 4.5 bits a weight"),
    )
}
GGUF_ARCHITECTURES = ("llama", "qwen2")


def obstacle(to: str, model: Facts) -> str | None:
    """Why `model` does not fit the format, as the second half of a sentence; None when it does.

    Args:
        to: a format.
        model: its outline.
    """
    family = FORMATS[to].family
    if family == "dense":
        return None
    return _no_gguf(to, model) if family == "gguf" else _no_codes(to, model)


def holders(model: Facts) -> list[str]:
    """Formats that hold the model."""
    return [name for name in FORMATS if obstacle(name, model) is None]


def check(to: str, model: Facts) -> Format:
    """The format, when it holds the model.

    Raises:
        UserError: unknown format, or one that does not fit, with those that do.
    """
    choose("export format", to, FORMATS)
    reason = obstacle(to, model)
    if reason:
        raise UserError(f"{to} cannot hold this model: {reason}. What can: {', '.join(holders(model))}.")
    return FORMATS[to]


def _no_codes(to: str, model: Facts) -> str | None:
    """GPTQ and compressed-tensors hold integer codes."""
    if not model.packed:
        return "it holds integer codes and these weights are dense (quantize first: workbench quantize MODEL --bits 4)"
    for layer in model.layers:
        if layer.kind in ("nf4", "fp4"):
            return f"it holds integer codes on an even grid and {layer.name} holds {layer.kind} codes into a table"
        if layer.part:
            return f"it holds codes, scales and zero points and {layer.name} also has {layer.part}"
    if to == "compressed-tensors":
        odd = next((layer.name for layer in model.layers if layer.conv1d), None)
        return (
            f"its readers look for Linear layers and {odd} is a Conv1D, whose weight lies the other way"
            if odd
            else None
        )
    for layer in model.layers:
        if layer.kind == "dense":
            return f"its readers expect codes in every layer but the head and {layer.name} is dense"
        if layer.width % 32 or layer.out % 32:
            return f"both sides of a layer must be multiples of 32 and {layer.name} is {layer.out} × {layer.width}"
    return None


def _no_gguf(to: str, model: Facts) -> str | None:
    """GGUF holds Llama's and Qwen2's architecture, in blocks of 32 along a row."""
    config = model.config
    if model.architecture not in GGUF_ARCHITECTURES:
        return f"only {' and '.join(GGUF_ARCHITECTURES)} architectures are written and this is {model.architecture}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        return f"positions scaled by {rope!r} are not written"
    if getattr(config, "use_sliding_window", False):
        return "sliding-window attention is not written"
    if config.hidden_act != "silu":
        return f"the activation {config.hidden_act!r} is not silu"
    odd = next((name for name in model.biased if model.architecture == "llama" or name.endswith("o_proj")), None)
    if odd:
        return f"{odd} has a bias, which readers of this architecture leave out"
    if to == "gguf-f16":
        return None
    columns = [(layer.name, layer.width) for layer in model.layers] + [("the embedding", model.embedding[1])]
    short = next(((name, width) for name, width in columns if width % 32), None)
    if short:
        return f"rows must be multiples of 32 and {short[0]} has {short[1]} columns"
    return next(filter(None, (_no_block(to, layer) for layer in model.packed)), None)


def _no_block(to: str, layer: Facts) -> str | None:
    """A packed layer must fit its blocks without rounding again; only 8 bits are fine enough for a second rounding."""
    if layer.kind != "int" or layer.part:
        what = f"{layer.kind} codes into a table" if layer.kind != "int" else f"codes with {layer.part}"
        return None if to == "gguf-q8_0" else f"{what} would be rounded a second time, to 4 bits"
    if layer.group % 32:
        return f"a block of 32 has one scale and {layer.name} has groups of {layer.group}"
    if to == "gguf-q8_0":
        wide = layer.bits == 8 and not layer.symmetric
        return f"8-bit codes with a zero point ({layer.name}) need 9 signed bits" if wide else None
    if layer.bits == 8:
        return f"{layer.name} holds 8-bit codes"
    if to == "gguf-q4_0" and not layer.symmetric:
        return f"its codes have no zero point and those of {layer.name} do"
    return None
