"""The grid: models × tasks × methods × quantized bases × seeds at one stated budget, judged with intervals and paired tests.

    settings ─► plan (sizes solved on the real shapes) ─► cells, a fresh process each ─► rows, tests, ties ─► report

A *cell* is one training: model, task, base, method with its arguments, learning rate, seed. Every method gets the same
number of tuning trials (the learning rate is always among what is tuned), judged on the evaluation part; the chosen
setting is then trained anew with other seeds and judged on the test part. The model as it is (`base`) and full fine-tuning
(`full`) are always rows. Answers are kept item by item, so every number can be computed again from the record.

Source: the design follows Xu et al. 2023, arXiv 2312.12148, whose table compared eleven methods with single runs.

    from workbench.grid import run_grid
    record = run_grid({"models": ["minilm-l6"], "tasks": ["sotu-century"], "methods": ["lora", "ia3"]}, Path("out"))
"""

from __future__ import annotations

from workbench._lazy import lazy

_HOMES = {
    "DEFAULTS": "settings",
    "Match": "solver",
    "forecast": "forecasting",
    "judge": "judging",
    "load_peft_results": "published",
    "match_budget": "solver",
    "plan": "planning",
    "run_grid": "running",
    "standing": "record",
}
__all__ = [
    "DEFAULTS",
    "Match",
    "forecast",
    "judge",
    "load_peft_results",
    "match_budget",
    "plan",
    "run_grid",
    "standing",
]

__getattr__, _ = lazy(__name__, _HOMES)
