"""What lesson 00 needs: a text of your own to learn, the settings of its fine-tuning, and compression in one call.

The text is the source code of this Python's standard library: every machine has it, and the shipped model, which has read
old books only, has never seen any.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import data
from workbench.compress import quantize_model
from workbench.compress.packed_model import stored_bytes
from workbench.evaluation import perplexity
from workbench.evaluation.compare import Settings
from workbench.papers._transfer import standard_library
from workbench.training import FinetuneConfig

MODULES = {"smoke": 24, "small": 120}
TRAINING = {
    "smoke": {"steps": 3, "batch_size": 2, "window": 32, "eval_every": 3, "eval_rows": 4},
    "small": {"steps": 100, "batch_size": 8, "window": 64, "eval_every": 20, "eval_rows": 32},
}
MEASURING = {
    "smoke": Settings(window=32, tokens=400, items=4, prompt_tokens=16, new_tokens=4, repeats=1),
    "small": Settings(window=64, tokens=6000, items=32, prompt_tokens=64, new_tokens=16, repeats=3),
}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
GROUP = 64  # weights that share a scale when the model is compressed


def write_modules(folder: Path, scale: str) -> Path:
    """Write one JSON line for each module: its text, and its name as the document it belongs to.

    Args:
        folder: where the file `modules.jsonl` goes.
        scale: `smoke` or `small`.
    """
    path = folder / "modules.jsonl"
    rows = standard_library(MODULES[scale]).rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(file: Path, scale: str, seed: int) -> FinetuneConfig:
    """LoRA of rank 8 on every linear layer of tiny-lm, on the text in `file`.

    Args:
        file: from `write_modules`, or any file of texts.
        scale: `smoke` or `small`.
        seed: of the training and of the split by document.
    """
    return FinetuneConfig(
        "tiny-lm",
        str(file),
        method="lora",
        method_args=LORA,
        learning_rate=1e-2,
        precision="fp32",
        seed=seed,
        **TRAINING[scale],
    )


def compress(model: Any, method: str, bits: int, windows: list[Any] | None = None) -> Any:
    """A compressed copy of a model; the model itself stays as it is.

    Args:
        model: a dense model.
        method: `rtn`, `gptq` or `nf4`.
        bits: 8, 4, 3 or 2 for each weight; nf4 has 4.
        windows: calibration text for gptq.
    """
    packed = copy.deepcopy(model)
    calibration = windows if method == "gptq" else None
    quantize_model(
        packed, method=method, bits=None if method == "nf4" else bits, group_size=GROUP, calibration=calibration
    )
    return packed


def measured(name: str, model: Any, tokenizer: Any, held_out: data.Examples, scale: str) -> dict[str, Any]:
    """One row for `figures.pareto`: name, bytes of its file, perplexity on held-out text with its 95 % interval.

    Args:
        name: how the point is called.
        model: the model, dense or compressed.
        tokenizer: its own.
        held_out: documents that were not trained on.
        scale: `smoke` or `small`.
    """
    plan = MEASURING[scale]
    found = perplexity(model, tokenizer, held_out, window=plan.window, max_tokens=plan.tokens)
    ends = {"perplexity": found.value, "perplexity_low": found.low, "perplexity_high": found.high}
    return {"name": name, "disk_bytes": stored_bytes(model), **ends, "n": len(found.documents)}


def gained(curve: list[dict[str, float]]) -> pd.DataFrame:
    """First and last evaluation of a fine-tuning, side by side.

    Args:
        curve: `FinetuneResult.curve`.
    """
    scored = [row for row in curve if row.get("eval_loss") is not None]
    rows = [
        {"step": row["step"], "loss on unseen modules (nats per token)": row["eval_loss"]}
        for row in (scored[0], scored[-1])
    ]
    return pd.DataFrame(rows, index=["before", "after"])
