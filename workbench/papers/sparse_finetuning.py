"""Sparse fine-tuning re-run: does it pay to look for the entries that are trained, and how far is that from LoRA?

(a) A 64 × 64 map of which 80 entries were changed: which of them do 80 deltas hold at the end (`_sparse_lab.planted`)?
(b) The shipped language model on two tasks it was not made for (`_transfer`). All arms train as many numbers as LoRA of
rank 2 on all linear layers of the blocks:

    LoRA r=2 · AG, deltas moved by gradients · random positions · MA (moved by SM3's sums) · positions by gradient, once ·
    AG whose newcomers start with empty averages (to find a reason, see below)

and on the classification the first three, beside training the output layer alone. Every arm gets three learning rates (MA
four times larger ones, for another optimizer); the one that is best on the eval part is scored on the test part.

    margin = min(100 · (worst share found by AG − 0.9),   100 · (0.05 − mean share found by random positions),
                 mean lead of AG over random positions,   AG against LoRA: level on one task, at most 1 behind on the other)

in points: percent of found entries, percent of loss on Python code, percent of passages dated right.
Departures from the paper: models and tasks (Llama-2 tuned on Flan-v2 and Tülu 2 there), 80 and 60 steps with 4 and 3 moves,
no weight decay, no quantized base.

What to know before trusting the badge (three seeds, `assets/findings/sparse-finetuning.json`):
- The planted part holds in every seed. The text fails clearly: AG is 10 to 13 percent of loss behind random positions and 7 to
  9 behind LoRA; random positions are ahead of LoRA in every seed.
- Most of it is the start of newcomers. They get the averages of the gradients they were chosen by, which are large and not
  clipped, while what follows is clipped: momentum carries them too far. With empty averages AG is ahead of LoRA and of
  positions chosen once in every seed, and still 3 percent behind random positions. The paper's code starts them as AG does
  here; its runs are far longer. No clipping at all made AG no better in a pilot.
- The rest is the learning rate. At the two smaller ones such an AG is ahead of random positions, which chose the largest and
  might do better beyond it. AG's deltas touch 37 percent of the rows and columns, random ones 96.
- On the classification every arm lies within 3 points of the output layer alone: that half decides little.
- Two pilots (seed 9, 40 and 80 steps on Python code) set the number of steps and the grid, and showed AG behind random
  positions before the claim was run. The claim was planned before them, and got its present form (the average of both tasks)
  after them and before the three seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import choose
from workbench.papers import _adapter_arms as arms_of
from workbench.papers.cells import cell
from workbench.papers.finding import Finding
from workbench.progress import Progress, part, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from peft import PeftConfig

    from workbench.papers._transfer import Plan as TaskPlan

CARD = {
    "slug": "sparse-finetuning",
    "title": "Scaling Sparse Fine-Tuning to Large Language Models",
    "authors": "Ansell, Vulić, Sterz, Korhonen, Ponti",
    "year": 2024,
    "arxiv": "2401.16405",
    "family": "adapters",
    "blocks": [
        "workbench.adapters.sparse", "workbench.adapters._sparse_delta", "workbench.adapters._sparse_delta_select",
        "workbench.adapters._sparse_delta_optim",
    ],
    "lesson": "06_sparse_fine_tuning",
    "claim": "Deltas that are moved by gradients find at least 90 percent of 80 planted entries in 4096, random positions at "
    "most 5 percent; and with the count of LoRA at rank 2 they do better than random positions on a new text domain and a "
    "classification on average, and as well as LoRA on one of the two and at most 1 point behind on the other.",
    "metric": "points: percent of planted entries, percent of loss, percent of passages dated right",
    "threshold": "AG finds 90 % in each of five problems, random positions 5 % on average; AG ahead of random positions on "
    "average of both tasks; not behind LoRA on one task and at most 1 point behind on the other",
    "published": [
        {"setting": "Llama-2-7B, Flan-v2, MMLU", "LoRA": 49.3, "AG": 50.7, "MA": 48.8, "source": "recalled from the paper"},
    ],
    "cpu_minutes": 8,
}  # fmt: skip

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, MORE = 2, 4.0  # LoRA's rank that gives the count; MA's learning rates are so many times larger
LORA, AG, RANDOM, MA, ONCE, FRESH, HEAD = (
    "LoRA r=2", "AG, moved by gradients", "random positions", "MA, moved by sums", "gradient, chosen once",
    "AG, newcomers start empty", "output layer alone",
)  # fmt: skip
ARMS = {  # name: (method for its look, selection, score that places the deltas once)
    LORA: ("lora", None, None),
    AG: ("spiel", "gradient", None),
    RANDOM: ("shira", "static", None),
    MA: ("spiel", "momentum", None),
    ONCE: ("shira", "static", "gradient"),
    FRESH: ("spiel", "gradient", None),
    HEAD: ("base", None, None),
}
SHORT = {AG: "AG", MA: "MA", ONCE: "gradient, once", FRESH: "AG, empty start"}  # on the axis of the verdict


@dataclass(frozen=True)
class Plan:
    """What a scale runs: planted problems, and per task its data, arms and learning rates."""

    problems: int
    tasks: dict[str, TaskPlan]
    arms: dict[str, tuple[str, ...]]
    rates: dict[str, tuple[float, ...]]


def plan_for(scale: str) -> Plan:
    """The plan of a scale: `smoke` (plumbing), `small` (gives the verdict) or `full` (SmolLM2-135M, for a GPU)."""
    from workbench.papers._transfer import Plan as Data

    judged, all_arms = (LORA, AG, RANDOM), (LORA, AG, RANDOM, MA, ONCE, FRESH)
    arms = {"python": all_arms, "century": (*judged, HEAD)}
    rates = {"python": (1e-2, 4e-2, 1.6e-1), "century": (2e-3, 8e-3, 3.2e-2)}
    one = {task: own[:1] for task, own in rates.items()}
    known = {
        "smoke": lambda: Plan(1, {
            "python": Data("tiny-lm", window=32, batch=4, steps=6, evaluated=8, tested=8, documents=12),
            "century": Data("tiny-lm", window=32, batch=4, steps=6, evaluated=8, tested=16),
        }, dict.fromkeys(arms, judged), one),
        "small": lambda: Plan(5, {
            "python": Data("tiny-lm", window=64, batch=4, steps=80, evaluated=48, tested=192, documents=60),
            "century": Data("tiny-lm", window=40, batch=8, steps=60, evaluated=256, tested=900),
        }, arms, rates),
        "full": lambda: Plan(5, {
            "python": Data("smollm2-135m", window=256, batch=16, steps=2000, evaluated=128, tested=768, documents=160),
            "century": Data("smollm2-135m", window=160, batch=32, steps=1000, evaluated=512, tested=1600),
        }, arms, {task: (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2) for task in arms}),
    }  # fmt: skip
    return known[choose("scale", scale, known)]()


def config_of(arm: str, seed: int) -> PeftConfig | None:
    """The adapter of an arm; None for the output layer alone."""
    from peft import LoraConfig

    from workbench.adapters import SpielConfig

    if arm == HEAD:
        return None
    if arm == LORA:
        return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
    return SpielConfig(like_lora_rank=RANK, selection=ARMS[arm][1], seed=seed, target_modules=list(TARGETS))


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Run the planted problems, and all arms, tasks and learning rates, for one seed.

    Args:
        scale: `smoke`, `small` or `full`.
        seed: planted problems, split by document, order of batches, first positions, starting values.
        device: torch device; by default the GPU when there is one.
        progress: called with done, total, text.

    Returns:
        Finding; one row per planted problem and selection, and one per task, arm and learning rate.
    """
    import torch

    from workbench.papers import _sparse_lab as lab
    from workbench.papers import _transfer as transfer

    plan, progress = plan_for(scale), progress or silent
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    total = 1 + sum(map(len, plan.arms.values()))
    progress(0, total, f"seed {seed}: planted entries")
    rows = cell("planted", partial(planted_rows, seed, plan.problems))
    done, taken = 1, {}
    for name, arms in plan.arms.items():
        task = transfer.TASKS[name](plan.tasks[name], seed, device)
        for arm in arms:
            inner = part(progress, done / total, (done + 1) / total)
            method, _, once = ARMS[arm]
            rates = tuple(MORE * rate for rate in plan.rates[name]) if arm == MA else plan.rates[name]
            rates = (transfer.HEAD_RATE,) if arm == HEAD else rates
            make = partial(lab.run_arm, task, arm, method, config_of(arm, seed), rates, seed, inner, once, arm == FRESH)
            rows, done = rows + cell(f"{name}, {arm}", make), done + 1
        if name == "python":
            configs = {arm: config_of(arm, seed) for arm in (LORA, AG)}
            taken = lab.step_seconds(task, configs, repeats=2 if scale == "smoke" else 15)
    table = pd.DataFrame(rows)
    progress(total, total, f"seed {seed}: done")
    note = (
        f"Seed {seed}: a pass of AG that watches gradients took {taken[AG] / taken[LORA]:.2f} of LoRA's processor time."
    )
    return Finding(table, figure(table), margin(table), {**asdict(plan), "step seconds": taken, "device": device}, note)


def planted_rows(seed: int, problems: int) -> list[dict[str, Any]]:
    """Share of the planted entries found in each problem by AG, MA and random positions."""
    from workbench.papers import _sparse_lab as lab

    return [
        {"seed": seed, "task": "planted", "arm": arm, "problem": index,
         "found": lab.planted(ARMS[arm][1], problems * seed + index)["recovered"]}
        for arm in (AG, MA, RANDOM) for index in range(problems)
    ]  # fmt: skip


def leads(rows: pd.DataFrame, other: str) -> tuple[float, float]:
    """How far AG is ahead of another arm in points: percent of its loss on `python`, percent right on `century`."""
    test = {task: arms_of.scores(rows[rows["task"] == task]) for task in ("python", "century")}
    return arms_of.ahead(test["python"], AG, other), float(100 * (test["century"][AG] - test["century"][other]))


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in points."""
    found = rows[rows["task"] == "planted"].groupby("arm")["found"]
    text, dates = leads(rows, LORA)
    level = max(min(text, dates + 1), min(dates, text + 1))
    worst, chance = 100 * (found.min()[AG] - 0.9), 100 * (0.05 - found.mean()[RANDOM])
    return float(min(worst, chance, sum(leads(rows, RANDOM)) / 2, level))


def one_point(selection: str, rate: float, interval: int = 20, scale: str = "small", seed: int = 0) -> dict[str, Any]:
    """Train deltas on the task `python` with settings of your choice: a point of the lesson's knob.

    Args:
        selection: `gradient`, `momentum` or `static`.
        rate: peak learning rate.
        interval: updates from one move to the next.
        scale, seed: as in `experiment`.

    Returns:
        A row like those of `experiment`, scored on the eval part, with arm `yours`.
    """
    from workbench.adapters import SpielConfig
    from workbench.papers import _sparse_lab as lab
    from workbench.papers import _transfer as transfer

    task = transfer.language_task(plan_for(scale).tasks["python"], seed, "cpu")
    config = SpielConfig(
        like_lora_rank=RANK, selection=selection, interval=interval, seed=seed, target_modules=list(TARGETS)
    )
    (row,) = lab.run_arm(task, "yours", "spiel", config, (rate,), seed, silent)
    return row


def figure(rows: pd.DataFrame) -> go.Figure:
    """Every arm's distance to LoRA on Python code; the other two parts of the claim stand in the caption.

    Args:
        rows: of one or more seeds, as `experiment` makes them.
    """
    found = rows[rows["task"] == "planted"].groupby("arm")["found"].mean()
    means = arms_of.chosen(rows[rows["task"] == "century"]).groupby("arm")["test"].mean()
    dated = ", ".join(f"{arm.split(',')[0]} {means[arm]:.1%}" for arm in (LORA, AG, RANDOM))
    note = (
        f"Planted entries found: AG {found[AG]:.0%}, MA {found[MA]:.0%}, random positions {found[RANDOM]:.0%}. "
        f"Passages dated right: {dated}."
    )
    told = rows[rows["task"] == "python"].assign(arm=lambda t: t["arm"].replace(SHORT))
    return arms_of.verdict(told, LORA, "Single entries against LoRA at equal count", note)
