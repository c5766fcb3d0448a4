"""How large an export will be, from shapes alone, and which number types a format takes."""

from __future__ import annotations

from workbench.errors import UserError, choose
from workbench.export.facts import Facts
from workbench.export.formats import FORMATS

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCKS = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}  # bytes a weight
TOKEN = 30  # bytes of one token and its share of the merges in a gguf file


def check_options(to: str, model: Facts, dtype: str | None, embeddings: str | None) -> tuple[str, str | None]:
    """Fill in and check the number type and the format of embeddings.

    Args:
        to: the format.
        model: the model's outline.
        dtype: None: float32 for plain weights, float16 beside codes.
        embeddings: gguf only; None: as the layers, 8 bits where those have 4.

    Raises:
        UserError: a type that the format does not take.
    """
    family = FORMATS[to].family
    if family == "gguf":
        if dtype is not None:
            raise UserError(f"{to} fixes its number types; --dtype is for the other formats, --embeddings for gguf.")
        embeddings = embeddings or ("f16" if to == "gguf-f16" else "q8_0")
        choose("format of embeddings", embeddings, ("f32", "f16", "q8_0"))
        if embeddings == "q8_0" and model.embedding[1] % 32:
            raise UserError(
                f"q8_0 needs rows of a multiple of 32, the embedding has {model.embedding[1]} columns; use f16."
            )
        return "float32", embeddings
    if embeddings is not None:
        raise UserError(f"--embeddings is for gguf; in {to} they have the number type of --dtype.")
    dtype = dtype or ("float32" if family == "dense" else "float16")
    choose("number type", dtype, WIDTHS)
    if family == "compressed" and dtype == "bfloat16":
        raise UserError(
            "compressed-tensors stores scales in --dtype, and bfloat16 would round them; use float16 or float32."
        )
    return dtype, None


def file_bytes(to: str, model: Facts, dtype: str, embeddings: str | None) -> int:
    """Bytes of the export to about 2 % (tokenizers differ)."""
    table = model.embedding[0] * model.embedding[1] * (2 if model.head else 1)
    family = FORMATS[to].family
    if family == "gguf":
        layers = sum(layer.out * layer.width for layer in model.layers)
        kind = to.removeprefix("gguf-")
        return int(layers * BLOCKS[kind] + table * BLOCKS[embeddings] + 4 * model.rest + TOKEN * model.embedding[0])
    width = WIDTHS[dtype]
    total = width * (table + model.rest)
    for layer in model.layers:
        weights = layer.out * layer.width
        if layer.kind == "dense" or family == "dense":
            total += width * weights
            continue
        groups = weights // layer.group
        total += weights * layer.bits / 8
        if family == "gptq":
            total += groups * (2 + layer.bits / 8) + 4 * layer.width
        else:
            total += groups * (width + (0 if layer.symmetric else layer.bits / 8)) + 16
    return int(total)
