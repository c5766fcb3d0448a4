"""Rows in the shape of the demo's comparison, for tests of layout only. The numbers are invented: nothing may quote them."""

from __future__ import annotations

import pandas as pd

COLUMNS = (
    "name", "perplexity", "perplexity_low", "perplexity_high", "perplexity_tied", "accuracy", "accuracy_low", "accuracy_high",
    "accuracy_tied", "disk_bytes", "ram_bytes", "prefill_tps", "decode_tps", "seconds", "peak_bytes",
)  # fmt: skip
VALUES = (
    ("base", 31.42, 27.90, 35.61, False, 0.578, 0.453, 0.695, False, 269_060_552, 538_090_752, 1180.0, 21.4, 0.0, 1.21e9),
    ("tuned", 24.06, 21.73, 26.84, True, 0.672, 0.547, 0.781, True, 270_905_112, 541_774_080, 1164.0, 21.1, 131.4, 2.34e9),
    ("rtn-8", 24.08, 21.75, 26.87, True, 0.672, 0.547, 0.781, True, 163_577_856, 163_577_856, 905.0, 38.2, 3.1, 1.02e9),
    ("rtn-4", 29.31, 26.30, 32.95, False, 0.609, 0.484, 0.727, False, 110_395_392, 110_395_392, 861.0, 44.7, 2.9, 0.97e9),
    ("rtn-3", 143.6, 121.0, 171.8, False, 0.344, 0.234, 0.461, False, 97_124_352, 97_124_352, 702.0, 27.3, 3.0, 0.96e9),
    ("gptq-8", 24.07, 21.74, 26.86, True, 0.672, 0.547, 0.781, True, 163_577_856, 163_577_856, 903.0, 38.0, 48.2, 1.38e9),
    ("gptq-4", 25.49, 22.98, 28.51, False, 0.656, 0.531, 0.766, True, 110_395_392, 110_395_392, 858.0, 44.5, 47.5, 1.38e9),
    ("gptq-3", 33.18, 29.60, 37.55, False, 0.563, 0.438, 0.680, False, 97_124_352, 97_124_352, 699.0, 27.1, 47.9, 1.38e9),
    ("nf4", 26.02, 23.44, 29.15, False, 0.641, 0.516, 0.750, True, 110_131_200, 110_131_200, 640.0, 24.9, 4.4, 0.98e9),
)  # fmt: skip
PROMPT = "The state of the economy this year"
TEXTS = {
    "base": " is a very important factor in the development of the country. The country is a very important factor in the",
    "tuned": " gives us reason for confidence. Our farms and our factories are producing more than at any time in our history,",
    "gptq-4": " gives us reason for confidence. Our people are at work, and our factories are producing more than ever before,",
    "rtn-3": " of of the the and, people which. <the> is & is the nation of which",
}


def rows() -> pd.DataFrame:
    """Nine variants with all columns of the demo."""
    return pd.DataFrame(VALUES, columns=list(COLUMNS)).assign(n=64)


def samples() -> list[dict]:
    """Two prompts with four continuations each."""
    return [{"prompt": PROMPT, "texts": TEXTS}, {"prompt": "We must", "texts": TEXTS}]


def layer_rows() -> pd.DataFrame:
    """Errors of 210 layers under two methods, named as in a 30-block model."""
    kinds = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    found = []
    for block in range(30):
        for i, kind in enumerate(kinds):
            error = 0.06 + 0.012 * i + 0.02 * ((block * 7 + i * 3) % 11) / 11
            found += [
                ("rtn-4", f"model.layers.{block}.{kind}", error),
                ("gptq-4", f"model.layers.{block}.{kind}", 0.62 * error),
            ]
    return pd.DataFrame(found, columns=["method", "layer", "error"])
