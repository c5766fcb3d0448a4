"""Second readers: an exported file back as a model, by code that did not write it.

    safetensors         transformers, through the workbench's own loader
    compressed-tensors  the compressed-tensors package where it is installed, else bit by bit from the layout's definition
    gptq                bit by bit from the layout's definition (gptqmodel compiles kernels for minutes; not asked)
    gguf                transformers' GGUF reader, which undoes blocks and row order by itself; its tokenizer too

All of them end as an ordinary float32 model, whose logits are compared.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.export import compressed, gptq
from workbench.models.quiet import quiet


def read(path: Path, family: str) -> tuple[str, Any]:
    """Open an export.

    Args:
        path: the folder, for gguf the file.
        family: of `formats.FORMATS`.

    Returns:
        Who read it, and the model in evaluation mode, float32.
    """
    if family == "gguf":
        from workbench.models.smollm import read_gguf

        return "transformers' GGUF reader", read_gguf(path)
    if family == "dense":
        from workbench.models import load_model

        return "transformers", load_model(path, device="cpu")
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if family == "compressed" and importlib.util.find_spec("compressed_tensors"):
        return "the compressed-tensors package", read_codes(path, *package_decoder(settings))
    mark, decode = ("qweight", gptq.decode) if family == "gptq" else ("weight_packed", compressed.decode)
    return "a decoder of the layout's definition", read_codes(path, mark, lambda found: decode(found, settings))


def package_decoder(
    settings: dict[str, Any],
) -> tuple[str, Callable[[dict[str, Tensor]], Tensor], Callable[[Any], set]]:
    """compressed-tensors' own reader of one layer, and of which layers the configuration says that it covers.

    Scales are widened to float32 before: the package multiplies in the scales' own number type, and rounding there (3 · 10⁻⁴
    of the logits of a small model) would hide small mistakes.
    """
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils.match import match_named_modules

    parsed = QuantizationConfig.model_validate(settings)
    scheme = next(iter(parsed.config_groups.values()))
    unpack = BaseCompressor.get_value_from_registry(parsed.format).decompress

    def decode(found: dict[str, Tensor]) -> Tensor:
        return unpack(found | {"weight_scale": found["weight_scale"].float()}, scheme)["weight"]

    def covered(model: Any) -> set[str]:
        return {name for name, _ in match_named_modules(model, scheme.targets, parsed.ignore)}

    return "weight_packed", decode, covered


def read_codes(
    folder: Path, mark: str, decode: Callable[[dict[str, Tensor]], Tensor], covered: Callable[[Any], set] | None = None
) -> Any:
    """A gptq or compressed-tensors folder as an ordinary dense model.

    Args:
        folder: the export.
        mark: last name of the tensor that every layer with codes has.
        decode: the tensors of one layer → its weight [out, in].
        covered: names of the layers that config.json promises codes for; None does not check.

    Raises:
        ValueError: tensors that are missing or too much, or a configuration that speaks of other layers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from workbench.compress.targets import set_matrix

    plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del plain["quantization_config"]
    state = tensors(folder)
    layers = [name.removesuffix(f".{mark}") for name in state if name.endswith(f".{mark}")]
    with quiet():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(plain.pop("model_type"), **plain)).float().eval()
    if covered is not None and covered(model) != set(layers):
        raise ValueError(f"config.json speaks of other layers: {sorted(covered(model) ^ set(layers))[0]}")
    for name in layers:
        inside = [key for key in state if key.rpartition(".")[0] == name and not key.endswith(".bias")]
        values = {key.rpartition(".")[2]: state.pop(key) for key in inside}
        set_matrix(model.get_submodule(name), decode(values))
    missing, unexpected = model.load_state_dict(state, strict=False)
    expected = {f"{name}.weight" for name in layers} | set(model.all_tied_weights_keys)
    wrong = sorted((set(missing) - expected) | set(unexpected))
    if wrong:
        raise ValueError(f"{folder} does not hold this model: {wrong[0]} is missing or too much")
    model.tie_weights()
    return model


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's safetensors files."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same_tokens(path: Path, tokenizer: Any, texts: list[str]) -> bool:
    """Whether the tokenizer inside a GGUF file gives the same ids and holds the same chat template."""
    from workbench.models.smollm import read_gguf_tokenizer

    other = read_gguf_tokenizer(path)
    same = all(other(text).input_ids == tokenizer(text).input_ids for text in texts)
    return same and (other.chat_template or None) == (tokenizer.chat_template or None)
