"""What lessons 08 and 09 show of SmolLM2-135M: measured once, kept in `assets/findings`, and made anew by

    python -m workbench.papers._ptq_impact_record [NAME]

Two records without a verdict: `ptq-impact-smollm2` (the page's rows at scale `full`, one seed) and `loud-tokens` (how much of
each layer's calibration sum the loudest token of a window holds, and what that does to GPTQ at 4 bits). About ten minutes
on one core.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from workbench import machine
from workbench.errors import choose
from workbench.papers import badge
from workbench.paths import assets
from workbench.progress import ProgressLine, silent

MODEL, TEXT, BITS, GROUP = "smollm2-135m", "moby-dick", 4, 64
WINDOWS, WINDOW, TOKENS = 16, 256, 2560  # calibration windows, tokens in each, tokens that perplexity is measured on


def large_rows(progress: Callable[[float, float, str], None] = silent) -> dict[str, Any]:
    """The page's experiment on SmolLM2, one seed."""
    from workbench.papers import load_page

    found = load_page("ptq-impact").experiment("full", 0, progress=progress)
    rows = json.loads(found.rows.to_json(orient="records", double_precision=10))
    return {"note": found.note, "ran": found.ran, "rows": rows}


def loud_rows() -> dict[str, Any]:
    """Shares of the loudest tokens by block, and perplexities at 4 bits: rounding, GPTQ as published, then with each change."""
    import math

    import torch

    from workbench import data, models
    from workbench.compress import quantize_model
    from workbench.evaluation import perplexity
    from workbench.papers._quantization_lesson import loudest_shares

    tokenizer, parts = models.load_tokenizer(MODEL), data.split(data.load(TEXT), seed=0)
    windows = data.calibration(parts["train"], tokenizer, WINDOWS, WINDOW, 0)
    shares = loudest_shares(models.load_model(MODEL), torch.cat(windows[:4]))
    arms = {
        "16 bits": None, "rounding": {"method": "rtn"},
        "GPTQ, sum of squares": {"method": "gptq", "equal_tokens": False, "clip": False, "calibration": windows},
        "GPTQ, every token equal": {"method": "gptq", "clip": False, "calibration": windows},
        "GPTQ, and fitted ranges": {"method": "gptq", "calibration": windows},
    }  # fmt: skip
    found: dict[str, float] = {}
    for name, how in arms.items():
        model = models.load_model(MODEL)
        if how:
            quantize_model(model, bits=BITS, group_size=GROUP, **how)
        found[name] = perplexity(model, tokenizer, parts["test"], window=WINDOW, max_tokens=TOKENS).value
    room = math.log(found["rounding"] / found["16 bits"])
    rows = [
        {
            "weights": name,
            "perplexity": value,
            "gap closed (percent)": 100 * (1 - math.log(value / found["16 bits"]) / room),
        }
        for name, value in found.items()
    ]
    ran = {
        "model": MODEL,
        "text": TEXT,
        "bits": BITS,
        "group": GROUP,
        "windows": WINDOWS,
        "window": WINDOW,
        "tokens": TOKENS,
    }
    return {"ran": ran, "shares": shares, "rows": rows}


def main() -> None:
    """Measure and write both, or the one that is named."""
    records = {"ptq-impact-smollm2": lambda: large_rows(ProgressLine()), "loud-tokens": loud_rows}
    names = [choose("record", name, records) for name in sys.argv[1:]] or list(records)
    for name, make in ((name, records[name]) for name in names):
        begin = time.perf_counter()
        record = {
            "about": MODEL,
            "date": machine.describe()["date"],
            "machine": machine.describe()["machine"],
            **make(),
        }
        badge.write_json(
            assets() / "findings" / f"{name}.json", {**record, "seconds": round(time.perf_counter() - begin)}
        )


if __name__ == "__main__":
    main()
