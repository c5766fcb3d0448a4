"""Train the distance network on patches made on the fly; the shipped weights come from here.

    python -m workbench.geometry.train [--steps N] [--size light|full] [--out FOLDER]

Adam, batch 128, warm-up of 200 steps, then a cosine to zero; loss = mean |UDF − distance| + 0.01 · mean |displacement|, both
in the unit ball of the patch. No patch is ever seen twice. A run that is killed goes on from its last 50 steps. Beside the
weights, `training.json` holds the curve and the error on 16 384 patches that were not trained on, per kind and beside two
baselines on the very same patches: the nearest point, and the local quadratic fit.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §3.4. Departures: the paper trains 300 to 1500 epochs over 0.2 M stored patches
at a constant 1e-4; here a few thousand steps at up to 2e-3.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from workbench.errors import choose
from workbench.geometry.local_shapes import KINDS, sample_patches
from workbench.geometry.losf import FULL, LIGHT, LoSFNet
from workbench.paths import assets
from workbench.progress import Progress, ProgressLine, silent

SIZES = {"light": LIGHT, "full": FULL}
STEPS, BATCH, RATE, WARMUP, SEED = 13_000, 128, 2e-3, 200, 0
PENALTY, KEEP_EVERY = 0.01, 50


def rate(step: int, steps: int) -> float:
    """Share of the peak rate at a step: linear warm-up, then half a cosine."""
    warm = min(WARMUP, max(1, steps // 5))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, the same whether the run was interrupted before it or not."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)


def losses(net: LoSFNet, batch: tuple[Any, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss to minimise, mean absolute error of the distances) on one batch, in unit-ball units."""
    patches, label = batch
    udf, moved = net(patches)
    error = (udf - label).abs().mean()
    return error + PENALTY * moved.abs().mean(), error


def train_losf(
    net: LoSFNet,
    steps: int = STEPS,
    *,
    batch: int = BATCH,
    peak: float = RATE,
    seed: int = SEED,
    keep: Path | None = None,
    progress: Progress = silent,
) -> list[tuple[int, float]]:
    """Train in place.

    Args:
        net: the network.
        steps: optimizer steps; each has its own fresh patches.
        batch: patches of a step.
        peak: largest learning rate.
        seed: of the patches.
        keep: file to resume from and to keep the run in.
        progress: called with done, total, text.

    Returns:
        (step, mean absolute error since the last entry), every 50 steps.
    """
    optimizer = torch.optim.Adam(net.parameters(), peak, fused=True)
    curve: list[tuple[int, float]] = []
    first, spent = 0, 0.0
    if keep is not None and keep.is_file():
        state = torch.load(keep, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve, spent = state["step"], state["curve"], state["seconds"]
    net.train()
    begun, recent = time.process_time() - spent, []
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps)
        loss, error = losses(net, sample_patches(batch, step_generator(seed, step)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        recent.append(error.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            curve.append((step + 1, sum(recent) / len(recent)))
            recent = []
            progress(step + 1, steps, f"error {curve[-1][1]:.4f} of the ball's radius")
        if keep is not None and (step + 1) % KEEP_EVERY == 0:
            record = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "curve": curve}
            torch.save(record | {"seconds": time.process_time() - begun}, keep.with_suffix(".part"))
            keep.with_suffix(".part").replace(keep)
    net.eval()
    net.seconds = time.process_time() - begun
    return curve


def held_out(net: LoSFNet, size: int = 16_384, seed: int = 10**6) -> dict[str, dict[str, float]]:
    """Mean absolute errors on fresh patches, in unit-ball units: per kind and over all, clean and as trained (noisy).

    Returns:
        {kind: {"clean": …, "noisy": …, "nearest point": …, "quadratic fit": …}}; the two baselines see the noisy patches.
    """
    from workbench.geometry.baselines import fit_patches, nearest_patches

    found = {}
    for i, kind in enumerate(KINDS):
        rows: dict[str, list[torch.Tensor]] = {"clean": [], "noisy": [], "nearest point": [], "quadratic fit": []}
        for j in range(max(1, round(size * KINDS[kind] / 512))):
            for name, amount in (("clean", {"noise": 0.0, "stray": 0.0}), ("noisy", {})):
                generator = step_generator(seed, 1000 * i + j)
                patches, label = sample_patches(512, generator, kinds={kind: 1.0}, **amount)
                with torch.no_grad():
                    rows[name].append((net(patches)[0] - label).abs())
            rows["nearest point"].append((nearest_patches(patches) - label).abs())
            rows["quadratic fit"].append((fit_patches(patches) - label).abs())
        found[kind] = {name: round(float(torch.cat(parts).mean()), 5) for name, parts in rows.items()}
    total = sum(KINDS.values())
    found["all"] = {
        name: round(sum(KINDS[kind] * found[kind][name] for kind in KINDS) / total, 5) for name in found["smooth"]
    }
    return found


def main() -> None:
    """Command line of the training run."""
    parser = argparse.ArgumentParser(prog="python -m workbench.geometry.train", description=main.__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--size", default="light", help="light (184 593 parameters) or full (653 121)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=None, help="folder of weights and training.json")
    options = parser.parse_args()
    size = choose("size", options.size, SIZES)
    out = options.out or assets() / "models" / f"losf-{size}"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = LoSFNet(**SIZES[size])
    keep = out / "run.pt"
    curve = train_losf(net, options.steps, seed=options.seed, keep=keep, progress=ProgressLine())

    from workbench.geometry.weights import save_losf

    record = {
        "command": "python -m workbench.geometry.train" + ("" if size == "light" else f" --size {size}"),
        "steps": options.steps, "batch": BATCH, "peak_learning_rate": RATE, "seed": options.seed,
        "patches_seen": options.steps * BATCH, "cpu_seconds": round(net.seconds),
        "unit": "mean absolute error in the unit ball of the patch, on patches not trained on",
        "held_out": held_out(net), "curve": [[step, round(error, 5)] for step, error in curve],
    }  # fmt: skip
    save_losf(net, out, record)
    keep.unlink(missing_ok=True)
    print(json.dumps(record["held_out"], indent=1))


if __name__ == "__main__":
    main()
