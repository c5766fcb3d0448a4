"""Post-training quantization and decoding, re-run: does rounding hurt more at some sampling temperatures than at others?

The shipped model with its weights in eight formats, blocks of 64: int8, NF4 and FP4 (each also with double quantization),
int4 and int3 by absmax, and 4-bit round-to-nearest with zero points. Two levels that are kept apart:

    per token   mean KL(p_T ‖ q_T) and total variation on shared held-out contexts, T = 0.1 … 2, beside the closed form
                Var_{p_T}(ε) / (2T²) with ε the change of the logits (`workbench.evaluation.decoding`)
    per text    texts written with shared dice at T = 0.1 … 1.5: nats per token under the original model, repetition,
                tokens in common (`decoding_samples`, `decoding_study`); shown with intervals, not judged

    margin = min over all temperatures of
        KL(nf4)/KL(int8) − 1,  KL(int4)/KL(nf4) − 1,  KL(int3)/KL(int4) − 1          the order
        0.05 − |KL(nf4-dq)/KL(nf4) − 1|                                             double quantization
        0.10 − |predicted/KL − 1| at 4 and 8 bits,  0.20 − |predicted/KL − 1| at 3  the closed form
        1 − (largest TV / smallest TV)/2, each quantized format                     total variation stays

What this does not say: anything about the quality of the texts, about speed, or about the ranking of NF4 and FP4 on the
paper's model families, which needs those models.

Departures from the paper: Falcon and Llama-2 there, judged on samples; the paper gives no measure that could be used again, so
the claim judged here is the closed form that its question leads to. int8 rounds weights only (the paper's, LLM.int8, also
rounds activations); bf16, the paper's baseline, is the original, since the shipped weights are stored in it. The seeds draw
other contexts, prompts and dice; the model is one, so they say nothing about training.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from workbench.papers import _ptq_impact_figures
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "ptq-impact",
    "title": "Understanding the Impact of Post-Training Quantization on Large Language Models",
    "authors": "Roy",
    "year": 2023,
    "arxiv": "2309.05210",
    "family": "compress",
    "blocks": [
        "workbench.evaluation.decoding", "workbench.evaluation.decoding_samples", "workbench.evaluation.decoding_study",
    ],
    "lesson": "09_when_quantization_hurts",
    "claim": "At every temperature from 0.1 to 2 the next-token distribution moves least with int8, more with NF4, more with "
    "int4 and most with int3, and double quantization changes that by at most 5 percent; half the variance of the logits' "
    "error over the squared temperature predicts the KL divergence within 10 percent at 4 and 8 bits and 20 percent at 3; "
    "and the total variation changes by less than a factor of two over all temperatures.",
    "metric": "relative distance to the nearest of the thresholds",
    "threshold": "KL int8 < nf4 < int4 < int3 at every temperature; nf4-dq within 5 percent of nf4; closed form within 10 "
    "percent (int8, nf4, nf4-dq, fp4, fp4-dq, int4, rtn-4) and 20 percent (int3) of the KL; largest total variation below "
    "twice the smallest",
    "published": [
        {"setting": "Llama-2 and Falcon, quality of sampled texts", "found": "4 bits most sensitive at temperatures 0.5 to 0.8",
         "source": "abstract"},
        {"setting": "NF4 against FP4", "found": "on a par in speed, memory and quality", "source": "abstract"},
        {"setting": "int8", "found": "significantly slower; bf16 is fastest at every size", "source": "abstract"},
    ],
    "cpu_minutes": 4,
}  # fmt: skip

ORDER = ("int8", "nf4", "int4", "int3")
WITHIN = {"int8": 0.1, "nf4": 0.1, "nf4-dq": 0.1, "fp4": 0.1, "fp4-dq": 0.1, "int4": 0.1, "rtn-4": 0.1, "int3": 0.2}
DOUBLE, FACTOR = 0.05, 2.0


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Measure all formats at all temperatures for one seed.

    Args:
        scale: `smoke` (plumbing), `small` (tiny-lm, gives the verdict) or `full` (SmolLM2-135M).
        seed: of the contexts, the prompts and the dice.
        device: torch device; by default the GPU when there is one.
        progress: called with done, total, text.

    Returns:
        Finding; one row per format, temperature and top-k (`part` = "contexts"), and one per format and temperature of the
        texts (`part` = "texts").
    """
    import torch

    from workbench.papers import _ptq_impact_runs as runs

    plan = runs.plan_for(scale)
    device, progress = device or ("cuda" if torch.cuda.is_available() else "cpu"), progress or silent
    progress(0.0, 1.0, f"seed {seed}: reading data")
    table = pd.DataFrame([{"seed": seed, **row} for row in runs.run(plan, seed, device, progress)])
    progress(1.0, 1.0, f"seed {seed}: done")
    return Finding(
        table, figure(table), margin(table), {**asdict(plan), "block": runs.BLOCK, "device": device}, note(table)
    )


def contexts(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of the judged rows (all tokens kept) as a table temperature × format, mean over seeds."""
    own = rows[(rows["part"] == "contexts") & (rows["top_k"] == 0)]
    return own.pivot_table(index="temperature", columns="model", values=column)


def parts(rows: pd.DataFrame) -> dict[str, float]:
    """The signed distance to each threshold, the worst over temperatures and formats.

    Args:
        rows: of one seed.
    """
    kl, predicted, tv = (contexts(rows, column) for column in ("kl", "predicted", "tv"))
    order = min(float((kl[b] / kl[a] - 1).min()) for a, b in pairwise(ORDER))
    off = (predicted / kl - 1).abs()
    closed = min(limit - float(off[name].max()) for name, limit in WITHIN.items())
    spread = max(float(tv[name].max() / tv[name].min()) for name in WITHIN)
    return {
        "order": order,
        "double quantization": DOUBLE - float((kl["nf4-dq"] / kl["nf4"] - 1).abs().max()),
        "closed form": closed,
        "total variation": 1 - spread / FACTOR,
    }


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the nearest threshold for the rows of one seed, relative."""
    return float(min(parts(rows).values()))


def note(rows: pd.DataFrame) -> str:
    """What a reader must know beside the margin."""
    told = ", ".join(f"{name} {value:+.2f}" for name, value in parts(rows).items())
    spread = contexts(rows, "spread").mean(axis=1)
    return (
        f"Distance to each threshold (relative): {told}. Chance that two draws differ: {spread.iloc[0]:.2f} at temperature "
        f"{spread.index[0]:g}, {spread.iloc[-1]:.2f} at {spread.index[-1]:g}."
    )


def figure(rows: pd.DataFrame) -> go.Figure:
    """KL against temperature, measured and predicted.

    Args:
        rows: of one or more seeds, as `experiment` makes them.
    """
    return _ptq_impact_figures.verdict(rows)
