"""One point of the frontier: a model made with one method, measured, its cost beside what was predicted.

What is not packed (embeddings, head, norms, biases) counts and is measured in 16 bits (bfloat16), for the uncompressed
model too, so that sizes are those of files one would keep. The cost of making a variant is the work of its matrices:

    forward of T tokens           2 · T · weights
    Hessians                      1.2 · T · Σ in²            (gptq, awq; the upper block triangle)
    gptq                          Σ in³ + Σ out·in²          (one factor per group of layers, one solve per layer)
    awq                           20 · Σ out·in²             (one loss per α)
    efficientqat                  22 · T · weights           (three epochs forward and backward)

divided by half the speed of a large matrix product of this machine (measured for a tenth of a second): what a model's own
products reach. A forecast within a factor of two is what this can give; the measured seconds stand beside it.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.variant import BASE, Variant
from workbench.progress import Progress, part

if TYPE_CHECKING:
    from torch import nn

    from workbench.evaluation.compare import Settings

PROFILE_TOKENS = 128
CONTEXT = 72  # tokens in the cache while speed is measured, on average


def make(variant: Variant, full: dict[str, Any], seed: int, progress: Progress) -> tuple[Any, Any, dict[str, Any]]:
    """Load the model, compress it and round what stays dense to 16 bits.

    Returns:
        model, tokenizer, and the report of `quantize_model` as plain data (empty for the base).
    """
    from workbench import models
    from workbench.compress.job import calibration
    from workbench.compress.quantize import quantize_model

    progress(0, 1, f"{variant.name}: loading")
    tokenizer = models.load_tokenizer(full["model"])
    model = models.load_model(full["model"])
    report: dict[str, Any] = {}
    if variant.method != BASE:
        settings = {
            "method": variant.method, "data": full["calibration"], "samples": full["samples"],
            "window": full["window"], "seed": seed,
        }  # fmt: skip
        found = quantize_model(
            model, method=variant.method, bits=variant.bits, group_size=full["group_size"],
            calibration=calibration(settings, tokenizer),
            progress=lambda done, total, text: progress(done, total, f"{variant.name}: {text}"),
        )  # fmt: skip
        report = found.to_dict()
    halve(model)
    return model, tokenizer, report


def halve(model: nn.Module) -> None:
    """Round every parameter that is not packed to bfloat16; it stays float32 in memory, where products are faster."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)


def file_bytes(model: nn.Module) -> int:
    """Bytes of the saved model: packed tensors as they are, everything else in 16 bits, tied weights once."""
    seen, total = set(), 0
    parameters = {id(parameter) for parameter in model.parameters()}
    for tensor in model.state_dict(keep_vars=True).values():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * (2 if id(tensor) in parameters else tensor.element_size())
    return total


def profile(model: nn.Module, ids: Any) -> Any:
    """Hidden states after every block [blocks, tokens, width], float32."""
    import torch

    with torch.no_grad():
        states = model(input_ids=ids.to(model.device), output_hidden_states=True).hidden_states
    return torch.cat(states[1:]).float().cpu()


def distances(states: Any, reference: Any) -> list[float]:
    """Error of every block's output: mean over tokens of ‖h − h₀‖ / ‖h₀‖, so that no single token decides."""
    gap = (states - reference).norm(dim=-1) / reference.norm(dim=-1).clamp(min=1e-12)
    return [round(float(value), 6) for value in gap.mean(1)]


def measure_cell(
    variant: Variant, full: dict[str, Any], seed: int, folder: Path, test: Any, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """One cell of plain data: the row's numbers, documents and answers, layer errors, cost.

    Args:
        variant: what to make.
        full: settings of the job.
        seed: of the calibration sample.
        folder: where questions and the base model's hidden states are kept.
        test: held-out text.
        settings: what is measured.
        progress: over this cell.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from workbench.data import encode
    from workbench.evaluation.compare import _Questions, measure

    model, tokenizer, report = make(variant, full, seed, part(progress, 0, 0.5))
    begun = time.perf_counter()
    items = _Questions(test, settings, folder, "questions")(tokenizer)
    cell = measure(variant.name, model, tokenizer, test, items, settings, part(progress, 0.5, 0.97))
    kept = folder / "reference.safetensors"
    if variant.method == BASE:
        rows = (row["input_ids"] for row in encode(test, tokenizer, window=PROFILE_TOKENS))
        ids = torch.tensor([next(row for row in rows if len(row) == PROFILE_TOKENS)])
        save_file({"ids": ids, "states": profile(model, ids)}, kept)
    reference = load_file(kept)
    from workbench.compress.packed_model import stored_bytes

    cell |= {
        "seed": seed,
        "blocks": distances(profile(model, reference["ids"]), reference["states"]),
        "layers": [[layer["name"], round(layer["error"], 5), layer["of"]] for layer in report.get("layers", [])],
        "notes": report.get("notes", []),
        "measuring_seconds": time.perf_counter() - begun,
    }
    cell["row"] |= {
        "method": variant.method,
        "bits": variant.bits,
        "bits_per_weight": report.get("bits_per_weight", 16.0),
        "disk_bytes": file_bytes(model),
        "bytes_float32": stored_bytes(model),
        "bytes_per_token": read_bytes(model, CONTEXT),
        "seconds": report.get("seconds", 0.0),
        "peak_bytes": report.get("peak_bytes", 0),
    }
    return cell


def read_bytes(model: nn.Module, context: int) -> int:
    """Bytes that writing one token reads: every weight once (of an untied embedding a single row), and keys and values."""
    from workbench.evaluation import weight_bytes

    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = head is not None and getattr(head, "weight", None) is embedding
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * context * config.num_hidden_layers * heads * width * embedding.element_size()
    return weight_bytes(model) - (0 if tied else embedding.numel() * embedding.element_size()) + cache


def bandwidth() -> float:
    """Bytes per second that this process reads from memory with its present threads: best of several sums over 256 MB."""
    import torch

    block = torch.ones(1 << 26)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        block.sum()
        best = max(best, block.numel() * 4 / (time.perf_counter() - begun))
    return best


@functools.cache
def product_speed() -> float:
    """Floating-point operations per second of a float32 matrix product, measured for about a tenth of a second."""
    import torch

    a, b = torch.randn(512, 1024), torch.randn(1024, 1024)
    a @ b
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 0.1:
        a @ b
        done += 2 * 512 * 1024 * 1024
    return done / (time.perf_counter() - begun)


def work(method: str, shapes: list[tuple[int, int]], tokens: int) -> float:
    """Floating-point operations of making a variant; see the module's text. `shapes`: (out, in) of every layer."""
    weights = sum(out * width for out, width in shapes)
    rounding = 60.0 * weights  # elementwise, at the price of products
    packing = 600.0 * weights  # rounding, checking and packing, once for every variant
    if method in ("gptq", "awq"):
        squares = sum(width**2 for _, width in shapes) * 4 / 7  # groups share an input
        solves = sum(out * width**2 for out, width in shapes)
        own = 20 * (solves + rounding) if method == "awq" else solves + sum(width**3 for _, width in shapes)
        return packing + 2 * (2.0 * tokens * weights + 1.2 * tokens * squares + own)
    if method == "efficientqat":  # two epochs of blocks and one end to end, every update with its own rounding
        return packing + 2 * (22.0 * tokens * weights + 3 * rounding * tokens / 512)
    return packing + (4.0 * tokens * weights if method == "int8-mixed" else 0.0)
