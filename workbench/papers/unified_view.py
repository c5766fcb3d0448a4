"""The unified view re-run: at one count, do parallel beat sequential, feed-forward beat attention, and MAM beat all?

The shipped language model learns Python code (`_transfer`). All cells train the same numbers to within two percent; the
sizes are set by counting:

    bottleneck after or beside the attention or the feed-forward block (sequential or parallel, scale 1)
    beside the feed-forward block with scale 4; LoRA on q and v; a prefix; MAM (a prefix of 8 and the rest beside the FFN)

    margin = min(parallel − sequential at the attention, the same at the feed-forward, feed-forward − attention (parallel),
                 1 − MAM behind the best cell)      in percent of loss; each part stands in the note

Both placements start with a zero up-projection here, so that they differ in what they read alone (in the paper's code
sequential ones start from N(0, 0.02²)). Further departures: model and task (BART on XSum, RoBERTa on GLUE there), 40
steps, one budget (about three percent of the model), the prefix without its MLP.

What to know before trusting the badge (three seeds, `assets/findings/unified-view.json`):
- Parallel does not beat sequential here. At the feed-forward block the two are within one percent, sequential ahead in
  every seed; at attention sequential is ahead by 4 to 6 percent. There the parallel adapter of the paper's code adds in
  front of the output layer, the sequential one behind it: the two differ in what they change, not only in what they read.
- Feed-forward ahead of attention holds in every seed, by 7 to 8 percent. MAM is within 1 percent of the best in two of three.
- The prefix learns little in 40 steps at every rate and chose the largest; it takes numbers away from MAM's other half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.papers import _adapter_arms as arms_of
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import nn

CARD = {
    "slug": "unified-view",
    "title": "Towards a Unified View of Parameter-Efficient Transfer Learning",
    "authors": "He, Zhou, Ma, Berg-Kirkpatrick, Neubig",
    "year": 2022,
    "arxiv": "2110.04366",
    "family": "adapters",
    "blocks": ["workbench.adapters.unified_view"],
    "lesson": "03_adapters",
    "claim": "At an equal count of about three percent, adapters beside a block do better than adapters behind it, beside the "
    "feed-forward block better than beside attention, and MAM is within 1 percent of the best of all.",
    "metric": "percent of loss",
    "threshold": "parallel ahead of sequential in both places, feed-forward ahead of attention, MAM at most 1 % behind "
    "the best",
    "published": [
        {"setting": "BART-large on XSum, ROUGE-2", "full": 21.9, "prefix l=200": 20.5, "MAM": 21.9, "source": "recalled"},
    ],
    "cpu_minutes": 9,
}  # fmt: skip

RATES = (1e-3, 4e-3, 1.6e-2, 6.4e-2)
WIDTH = 40  # of the bottlenecks that set the budget
MAM_PREFIX, SCALE = 8, 4.0
SEQ_ATT, PAR_ATT, SEQ_FFN, PAR_FFN, MAM = (
    "behind attention", "beside attention", "behind FFN", "beside FFN", "MAM",
)  # fmt: skip
JUDGED = (SEQ_ATT, PAR_ATT, SEQ_FFN, PAR_FFN, MAM)


def cells(model: nn.Module) -> dict[str, tuple[str, list[Any]]]:
    """The cells with sizes that train the same numbers: name → (look, rows of the design table).

    Args:
        model: decides the sizes.
    """
    from workbench.adapters.unified_view import Delta, UnifiedConfig

    def bottleneck(at: str, read: str, size: int = WIDTH, **more: Any) -> Any:
        return Delta("bottleneck", at, size, read=read, **more)

    def count(*rows: Any) -> int:
        return UnifiedConfig(design="own", deltas=list(rows)).trainable_in(model)

    def prefix(size: int) -> Any:
        return Delta("prefix", "head", size, combine="gated")

    def lora(size: int) -> list[Any]:
        return [Delta("low_rank", at, size, combine="scaled", scale=2.0) for at in ("q", "v")]

    budget = count(bottleneck("ffn", "input"))
    left = budget - count(prefix(MAM_PREFIX))
    scaled = {"combine": "scaled", "scale": SCALE}

    def width(numbers: int) -> int:
        fixed = count(bottleneck("ffn", "input", 2)) - count(bottleneck("ffn", "input", 1))
        base = count(bottleneck("ffn", "input", 1)) - fixed
        return max(1, round((numbers - base) / fixed))

    return {
        SEQ_ATT: ("adapter", [bottleneck("attention", "output")]),
        PAR_ATT: ("parallel", [bottleneck("attention", "input")]),
        SEQ_FFN: ("adapter", [bottleneck("ffn", "output")]),
        PAR_FFN: ("parallel", [bottleneck("ffn", "input")]),
        "beside FFN, scaled": ("parallel", [bottleneck("ffn", "input", **scaled)]),
        "LoRA on q, v": ("lora", lora(round(budget / count(*lora(1))))),
        "prefix": ("prefix", [prefix(round(budget / count(prefix(1))))]),
        MAM: ("bottleneck", [prefix(MAM_PREFIX), bottleneck("ffn", "input", width(left), **scaled)]),
    }


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Run all cells and learning rates for one seed.

    Args:
        scale: `smoke` (a few steps of the judged cells), `small` (tiny-lm) or `full` (SmolLM2-135M, for a GPU).
        seed: split by document, order of batches, starting values.
        device: torch device; by default the GPU when there is one.
        progress: called with done, total, text.

    Returns:
        Finding; one row per cell and learning rate.
    """
    import torch

    from workbench.adapters import UnifiedConfig
    from workbench.papers._transfer import attach, language_task

    plan, progress = arms_of.plan_for(scale), progress or silent
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rates = RATES[1:2] if scale == "smoke" else RATES
    task = language_task(plan, seed, device)

    def put(rows: list[Any]) -> arms_of.Wrap:
        return lambda model: attach(model, UnifiedConfig(design="own", deltas=list(rows)))

    used = {n: (look, put(d)) for n, (look, d) in cells(task.base).items() if scale != "smoke" or n in JUDGED}
    table = pd.DataFrame(arms_of.run_arms(task, used, rates, seed, progress))
    progress(1, 1, f"seed {seed}: done")
    ran = {"plan": vars(plan), "rates": list(rates), "width": WIDTH, "mam": [MAM_PREFIX, SCALE], "device": device}
    told = "; ".join(f"{name} {value:+.2f} %" for name, value in parts(table).items())
    return Finding(table, figure(table), margin(table), ran, f"Seed {seed}: {told}.")


def parts(rows: pd.DataFrame) -> dict[str, float]:
    """The four parts of the claim for the rows of one seed, each in percent of loss, positive when it holds."""
    losses = arms_of.scores(rows)
    best = losses.drop(MAM).idxmin()
    return {
        "parallel over sequential at attention": arms_of.ahead(losses, PAR_ATT, SEQ_ATT),
        "parallel over sequential at FFN": arms_of.ahead(losses, PAR_FFN, SEQ_FFN),
        "FFN over attention": arms_of.ahead(losses, PAR_FFN, PAR_ATT),
        "MAM within 1 of the best": 1 + arms_of.ahead(losses, MAM, best),
    }


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in percent of loss."""
    return min(parts(rows).values())


def figure(rows: pd.DataFrame) -> go.Figure:
    """Every cell's distance to the parallel adapter at the feed-forward block.

    Args:
        rows: of one or more seeds, as `experiment` makes them.
    """
    return arms_of.verdict(
        rows, PAR_FFN, "The design space at one count", "All cells train the same numbers to 2 percent."
    )
