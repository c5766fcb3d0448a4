"""RandLoRA re-run: which updates does a full-rank sum draw better than a low-rank product of the same count?

A linear layer of size 64 with zero weights learns a target update T by Adam on ‖ΔW − T‖². T has random singular vectors
and singular values k^(−α): α = 0 is flat, larger α falls faster. At about equal counts:

    LoRA rank 4 (512 numbers): its best possible error is known (Eckart–Young) and stands beside the measured one
    RandLoRA r = 9 (584 numbers)

    margin = min(LoRA's error − RandLoRA's at α = 0, RandLoRA's − LoRA's at α = 1 and at α = 2)     relative squared error

Both get the same three learning rates; the best is kept. The rank of every learned update is measured, not assumed.
Departures from the paper: no language or vision model is tuned here. The paper's claim about tasks holds where full
fine-tuning's update has a flat spectrum, and this page shows what "flat" has to mean.
Against peft's own `randlora` (same mathematics, tested): rows with the stored numbers of an adapter on 8 layers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import choose
from workbench.papers import _randlora_figures
from workbench.papers.cells import cell
from workbench.papers.finding import Finding
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

CARD = {
    "slug": "randlora",
    "title": "RandLoRA: Full-rank parameter-efficient fine-tuning of large models",
    "authors": "Albert, Zhang, Rodriguez-Opazo, Saratchandran, van den Hengel, Abbasnejad",
    "year": 2025,
    "arxiv": "2502.00987",
    "family": "adapters",
    "blocks": ["workbench.adapters.randlora"],
    "lesson": "03_adapters",
    "claim": "At equal count RandLoRA draws an update with a flat spectrum better than LoRA, and LoRA draws updates whose "
    "singular values fall like 1/k or faster better than RandLoRA.",
    "metric": "relative squared error",
    "threshold": "RandLoRA's error smaller at α = 0, LoRA's smaller at α = 1 and α = 2",
    "published": [
        {"setting": "Llama-3.2-3B, q and v, GSM8K after MetaMathQA", "LoRA r=32": 0.478, "RandLoRA r=32": 0.478,
         "source": "peft's published comparison"},
    ],
    "cpu_minutes": 3,
}  # fmt: skip

SIZE = 64
ARMS = {"LoRA": ("lora", 4), "RandLoRA": ("randlora", 9)}
DECAYS = (0.0, 0.5, 1.0, 2.0)
RATES = (1e-2, 3e-2, 1e-1)
STEPS = {"smoke": 20, "small": 800, "full": 5000}


def target(decay: float, seed: int, size: int = SIZE) -> Any:
    """T (size, size) with random singular vectors, singular values k^(−decay) and norm 1.

    Args:
        decay: α; 0 is flat.
        seed: of the singular vectors.
        size: of the matrix.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(2))
    values = torch.arange(1, size + 1, dtype=torch.float32) ** -decay
    return left @ torch.diag(values / values.norm()) @ right


def floor(decay: float, rank: int, size: int = SIZE) -> float:
    """Smallest relative squared error of any matrix of a rank (Eckart–Young)."""
    values = [k ** (-2 * decay) for k in range(1, size + 1)]
    return sum(values[rank:]) / sum(values)


def learn(arm: str, decay: float, rate: float, steps: int, seed: int, device: str = "cpu") -> dict[str, Any]:
    """Learn one target with one arm and measure the update: trained numbers, relative squared error, rank."""
    import torch

    update, trainable = learned(arm, decay, rate, steps, seed, device)
    values = torch.linalg.svdvals(update.double())
    error = (update - target(decay, seed).to(device)).square().sum().item()
    return {"trainable": trainable, "error": error, "rank": int((values > 1e-4 * values[0]).sum())}


def learned(arm: str, decay: float, rate: float, steps: int, seed: int, device: str = "cpu") -> tuple[Any, int]:
    """Learn one target with one arm.

    Args:
        arm: a name in ARMS.
        decay: α of the target.
        rate: peak learning rate of Adam; it falls linearly to zero.
        steps: optimizer steps.
        seed: target and starting values.
        device: torch device.

    Returns:
        The update (64, 64) and how many numbers were trained.
    """
    import torch
    from peft import LoraConfig

    from workbench.adapters import WbRandLoraConfig
    from workbench.papers._transfer import attach

    torch.manual_seed(seed)
    base = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE, bias=False, device=device))
    torch.nn.init.zeros_(base[0].weight)
    r = ARMS[arm][1]
    config = LoraConfig(r=r, lora_alpha=r, target_modules=["0"]) if arm == "LoRA" else WbRandLoraConfig(
        r=r, seed=seed, target_modules=["0"]
    )  # fmt: skip
    model, wanted, eye = attach(base, config), target(decay, seed).to(device), torch.eye(SIZE, device=device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(eye).T - wanted).square().sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return model(eye).T, sum(p.numel() for p in trained)


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Learn every target with both arms at every rate, for one seed.

    Args:
        scale: `smoke` (20 steps), `small` or `full` (5000 steps).
        seed: targets and starting values.
        device: torch device; the processor by default (the matrices are small).
        progress: called with done, total, text.

    Returns:
        Finding; one row per decay, arm and learning rate, and two rows about files.
    """
    steps, progress, device = STEPS[choose("scale", scale, STEPS)], progress or silent, device or "cpu"
    rows: list[dict[str, Any]] = []
    jobs = [(decay, arm, rate) for decay in DECAYS for arm in ARMS for rate in RATES]
    for done, (decay, arm, rate) in enumerate(jobs):
        progress(done, len(jobs), f"seed {seed}: α = {decay:g}, {arm}, learning rate {rate:g}")
        found = cell(f"{decay} {arm} {rate}", partial(learn, arm, decay, rate, steps, seed, device))
        best = floor(decay, ARMS[arm][1]) if arm == "LoRA" else None
        rows.append({"seed": seed, "kind": "draw", "decay": decay, "arm": arm, "rate": rate, "floor": best, **found})
    rows += [{"seed": seed, "kind": "file", **row} for row in stored()]
    table = pd.DataFrame(rows)
    progress(1, 1, f"seed {seed}: done")
    ran = {"steps": steps, "size": SIZE, "rates": list(RATES), "device": device}
    return Finding(table, figure(table), margin(table), ran)


def stored(layers: int = 8, size: int = SIZE, r: int = 8) -> list[dict[str, Any]]:
    """Numbers in the file of an adapter on a tower of layers, peft's class with its default and ours.

    Args:
        layers, size: the tower.
        r: basis rank.
    """
    import torch
    from peft import RandLoraConfig, get_peft_model_state_dict

    from workbench.adapters import WbRandLoraConfig
    from workbench.papers._transfer import attach

    found = []
    for arm, config in (
        ("peft's randlora", RandLoraConfig(r=r, target_modules=r"\d+")),
        ("wb_randlora", WbRandLoraConfig(r=r, target_modules=r"\d+")),
    ):
        tower = torch.nn.Sequential(*(torch.nn.Linear(size, size) for _ in range(layers)))
        model = attach(tower, config)
        numbers = sum(tensor.numel() for tensor in get_peft_model_state_dict(model).values())
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found.append({"arm": arm, "trainable": trainable, "stored": numbers})
    return found


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """The row with the smallest error of every seed, decay and arm."""
    drawn = rows[rows["kind"] == "draw"]
    return drawn.loc[drawn.groupby(["seed", "decay", "arm"])["error"].idxmin()]


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed, in relative squared error."""
    error = best(rows).set_index(["decay", "arm"])["error"]
    flat = error[0.0, "LoRA"] - error[0.0, "RandLoRA"]
    return float(min(flat, *(error[decay, "RandLoRA"] - error[decay, "LoRA"] for decay in (1.0, 2.0))))


def figure(rows: pd.DataFrame) -> go.Figure:
    """Error against the fall of the spectrum, both arms and the best that rank 4 can do.

    Args:
        rows: of one or more seeds, as `experiment` makes them.
    """
    return _randlora_figures.errors(best(rows), rows[rows["kind"] == "file"])
