"""How fast each format reads and writes: all of them in one process, in turn, round after round.

Speed depends on the format that codes are stored in, not on how they were found, so there is one model per format: the dense
one, integers of each width, a table of floats, and the mixed product. Numbers of different hours on a shared machine cannot be
compared; those of one round can, because whatever slows the machine slows all.
"""

from __future__ import annotations

import statistics
from typing import Any

from workbench.compress.nf4 import TABLES
from workbench.compress.variant import BASE, Variant, parse
from workbench.progress import Progress

PROMPT, NEW, ROUNDS = 64, 16, 3


def format_of(variant: Variant) -> Variant:
    """The cheapest variant to make with the same format: rounding stands for every method with integer codes."""
    if variant.method in TABLES:
        return parse("nf4")
    return variant if variant.method in (BASE, "int8-mixed") else parse(f"rtn-{variant.bits}")


def measure_speeds(full: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure one model per format in turn.

    Args:
        full: settings of the job.
        progress: over all formats.

    Returns:
        {measured (a sentence), bandwidth (bytes per second, the best seen), formats: {name: {prefill, decode}}}: tokens per
        second of every round.
    """
    import torch

    from workbench.compress.frontier_cells import bandwidth, make
    from workbench.evaluation import speed

    formats = list(dict.fromkeys(format_of(parse(name)) for name in full["variants"]))
    made, found, best = {}, {v.name: {"prefill": [], "decode": []} for v in formats}, 0.0
    steps = len(formats) * (1 + ROUNDS)
    for number, variant in enumerate(formats):
        progress(number, steps, f"speed: making {variant.name}")
        made[variant.name] = make(variant, full, full["seed"], lambda *now: None)[:2]
    for turn in range(ROUNDS):
        best = max(best, bandwidth())
        for number, (name, (model, tokenizer)) in enumerate(made.items()):
            progress(len(formats) * (1 + turn) + number, steps, f"speed: round {turn + 1}, {name}")
            once = speed(model, tokenizer, PROMPT, NEW, 1)
            found[name]["prefill"].append(once.prefill_tps)
            found[name]["decode"].append(once.decode_tps)
    measured = (
        f"Median of {ROUNDS} rounds over all formats in turn, on {once.device} with {torch.get_num_threads()} threads, "
        f"batch 1: {PROMPT} tokens read at once, then {NEW} written one by one."
    )
    return {"measured": measured, "bandwidth": best, "formats": found}


def add_speeds(rows: dict[str, dict[str, Any]], speeds: dict[str, Any]) -> None:
    """Put prefill_tps, decode_tps and bound_tps into the rows (name → row); bytes_per_token goes into the bound."""
    for name, row in rows.items():
        own = speeds["formats"][format_of(parse(name)).name]
        row["prefill_tps"] = statistics.median(own["prefill"])
        row["decode_tps"] = statistics.median(own["decode"])
        row["bound_tps"] = speeds["bandwidth"] / row.pop("bytes_per_token")
