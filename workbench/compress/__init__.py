"""Quantizers: round to nearest, GPTQ, AWQ, EfficientQAT, NF4, FP4, LLM.int8; packed in memory and on disk; LoRA on top.

    from workbench.compress import quantize_model, Calibration, lora_config, load_adapter

Everything is loaded at first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from workbench._lazy import lazy

_HOMES = {
    "Calibration": "walk",
    "FloatLinear": "float_linear",
    "FloatWeight": "records",
    "IntLinear": "linear",
    "IntWeight": "records",
    "METHODS": "quantizers",
    "QuantReport": "packed_model",
    "WbFloatConfig": "registry",
    "WbIntConfig": "registry",
    "block_ap": "efficientqat",
    "load_adapter": "lora",
    "lora_config": "lora",
    "merge_and_requantize": "lora",
    "quantize_awq": "awq",
    "quantize_efficientqat": "efficientqat",
    "quantize_float": "nf4",
    "quantize_gptq": "gptq",
    "quantize_int8_mixed": "int8_mixed",
    "quantize_model": "quantize",
    "quantize_rtn": "rtn",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
