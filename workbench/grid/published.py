"""Results that others have published, as rows of the same table: peft's `method_comparison`.

Its folders `MetaMathQA/results` hold one JSON file a run: settings, time, memory, file size, accuracy on 1 319 questions of
GSM8K, one seed, no answers item by item. So the interval is that of a share over independent questions (Wilson), it knows
nothing of other seeds, no paired test is possible, and no winner is named: every row whose unpaired two-sided test against
the best is not significant after Holm is called tied. Runs that did not finish are left out and listed; a forgetting score
that is missing stays missing.

Source: huggingface/peft, folder method_comparison, Apache-2.0 (read from a folder of yours, not shipped here).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from workbench.errors import UserError
from workbench.evaluation.statistics import holm

QUESTIONS = 1319  # GSM8K's test part
NAMES = {"prompt-tuning": "prompt", "prefix-tuning": "prefix"}


def load_peft_results(folder: Path | str, *, questions: int = QUESTIONS) -> dict[str, Any]:
    """Read a folder of result files.

    Args:
        folder: searched with its subfolders for *.json.
        questions: test items behind the accuracies.

    Returns:
        {what, rows (as `record.rows_of` makes them where the columns exist), tied_best, left_out: sentences}.

    Raises:
        UserError: no such folder, or no result in it.
    """
    folder = Path(folder)
    files = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no .json files; give the folder method_comparison/MetaMathQA/results of peft.")
    rows, left_out = [], []
    for file in files:
        try:
            row = _row(json.loads(file.read_text(encoding="utf-8")), questions)
        except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            left_out.append(f"{file.name} is no result of peft's comparison ({type(error).__name__}: {error}).")
            continue
        if isinstance(row, str):
            left_out.append(f"{file.name}: {row}.")
        else:
            rows.append(row)
    if not rows:
        raise UserError(f"None of the {len(files)} files in {folder} is a finished run: {left_out[0]}")
    _tie(rows)
    rows.sort(key=lambda row: -row["accuracy"])
    return {
        "what": "published", "rows": rows, "tied_best": [row["name"] for row in rows if row["accuracy_tied"]],
        "left_out": left_out,
    }  # fmt: skip


def _row(result: dict[str, Any], questions: int) -> dict[str, Any] | str:
    run, train, meta = result["run_info"], result["train_info"], result.get("meta_info", {})
    if train["status"] != "success":
        return f"its status is {train['status']}"
    last = train["metrics"][-1]
    if "test accuracy" not in last:
        return "it has no accuracy on the test part"
    accuracy, config = float(last["test accuracy"]), run["train_config"]
    peft = run.get("peft_config") or {}
    kind = str(peft.get("peft_type") or "full").lower().replace("_", "-")
    method = "dora" if peft.get("use_dora") else "rslora" if peft.get("use_rslora") else NAMES.get(kind, kind)
    low, high = stats.binomtest(round(accuracy * questions), questions).proportion_ci(0.95, method="wilson")
    forgetting = last.get("forgetting", train.get("forgetting"))
    base = config["model_id"].rpartition("/")[2]
    name = run["experiment_name"].replace(f"/{base}-", " ").replace(f"/{base[0].lower()}{base[1:]}-", " ")
    return {
        "name": name,
        "method": method, "model": config["model_id"], "task": "gsm8k", "base": "none", "metric": "accuracy",
        "accuracy": accuracy, "accuracy_low": float(low), "accuracy_high": float(high), "accuracy_n": questions,
        "seeds": 1, "within_budget": True, "trainable": train["num_trainable_params"], "total": train["num_total_params"],
        "file_bytes": train["file_size"], "peak_bytes": train.get("cuda_memory_max"), "train_seconds": train["train_time"],
        "steps": config["max_steps"], "learning_rate": config["optimizer_kwargs"]["lr"], "seed": config["seed"],
        "forgetting": None if forgetting is None else float(forgetting), "date": run["created_at"],
        "device": meta.get("system_info", {}).get("gpu"), "peft": meta.get("package_info", {}).get("peft-version"),
    }  # fmt: skip


def _tie(rows: list[dict[str, Any]]) -> None:
    """Unpaired: z test of two shares against the best, Holm over all rows."""
    best = max(rows, key=lambda row: row["accuracy"])
    others = [row for row in rows if row is not best]
    n, p1 = best["accuracy_n"], best["accuracy"]
    p_values = []
    for row in others:
        both = (p1 + row["accuracy"]) / 2
        spread = math.sqrt(2 * both * (1 - both) / n)
        p_values.append(float(2 * stats.norm.sf((p1 - row["accuracy"]) / spread)) if spread else 1.0)
    best["accuracy_tied"] = True
    for row, p in zip(others, holm(np.array(p_values)) if p_values else [], strict=True):
        row["p_holm"], row["accuracy_tied"] = float(p), bool(p > 0.05)
