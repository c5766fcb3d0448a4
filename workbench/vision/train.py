"""Make the shipped miniature: two MiniCLIPs, the judge, the painter. One command, stop and start it at will.

    python -m workbench.vision.train [--steps N] [--out FOLDER] [--keep FOLDER]

Every batch is drawn from a seed that depends on the part and the step alone, and a checkpoint is kept every 20 s (in the
cache), so a stopped run goes on exactly where it was. The painter's learning rate rises, stays, and falls over the last
quarter of its steps, twice over; weights are averaged (decay 0.999) and the average is what ships. The first 794 steps
weigh the loss by min-SNR-5 (Hang et al. 2023, arXiv 2303.09556 §3.4): backgrounds and detail came fast, but what the
feature says is decided at high noise, where these weights vanish; the first sheet of samples showed it, and the rest of
the run weighs all steps of v alike.
Sheets of samples are written beside the checkpoints every five minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.progress import ProgressLine
from workbench.vision.captions import captions, random_names, tokens
from workbench.vision.judge import Reader, reading_loss, roughen
from workbench.vision.mini_diffusion import SHAPE, build_scheduler, build_unet, folder, haar, places
from workbench.vision.miniclip import WIDTH, MiniCLIP, contrastive_loss, fits, relatives
from workbench.vision.scenes import draw, render

SEEDS = {"clip-a": 1, "clip-b": 2, "reader": 3, "unet": 4}
STEPS = {"clip-a": 700, "reader": 600, "clip-b": 700, "unet": 6300}
RATES = {"clip-a": 1.5e-3, "reader": 1.5e-3, "clip-b": 1.5e-3, "unet": 1e-3}
BATCH = {"clip-a": 128, "clip-b": 128, "reader": 96, "unet": 16}
NOISE, DROP, EMA = 0.3, 0.1, 0.999  # largest noise on features, share of empty tokens, averaging
FIRST_CYCLE = (
    2700  # painter's steps to the first zero of the rate; the shapes were not clear then, so a second cycle follows
)
DETAIL_FIRST = 794  # painter's steps weighted by min-SNR-5; even weights from there on, for what the feature says


def generator_of(part: str, step: int) -> torch.Generator:
    """The source of randomness of one batch."""
    return torch.Generator().manual_seed(SEEDS[part] * 1_000_003 + step)


def clip_loss(model: MiniCLIP, step: int, part: str) -> torch.Tensor:
    """Contrastive loss of one batch: families of four scenes that differ in one or two factors."""
    generator = generator_of(part, step)
    base, _ = draw(BATCH[part] // 4, generator, everything=part == "clip-b")
    factors = relatives(base, 4, generator)
    jitter = torch.rand(len(factors), 3, generator=generator) * 2 - 1
    pictures = roughen(render(factors, jitter), generator)
    mask = random_names(len(factors), generator)
    return contrastive_loss(model(pictures, tokens(captions(factors, mask))), fits(factors, mask))


def reader_loss(model: Reader, step: int) -> torch.Tensor:
    """Classification loss of one batch of all kinds of scenes."""
    generator = generator_of("reader", step)
    factors, jitter = draw(BATCH["reader"], generator, everything=True)
    return reading_loss(model(roughen(render(factors, jitter), generator)), factors)


class Painter:
    """The denoising loss of the U-Net for one batch."""

    def __init__(self, clip: MiniCLIP) -> None:
        self.clip, self.scheduler = clip, build_scheduler()

    def loss(self, unet: nn.Module, step: int) -> torch.Tensor:
        """Weighted error of v at random noise steps."""
        generator = generator_of("unet", step)
        n = BATCH["unet"]
        pictures = render(*draw(n, generator))
        z = haar(pictures).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            e = self.clip.encode_image(pictures)[:, None]
        e = e + NOISE * torch.rand(n, 1, 1, generator=generator) * torch.randn(n, 1, WIDTH, generator=generator)
        e = e * (torch.rand(n, 1, 1, generator=generator) >= DROP)
        spread = (
            torch.arange(n) + torch.rand(n, generator=generator)
        ) / n  # stratified: every batch sees all noise levels
        t = (spread * 1000).long().clamp(0, 999)
        noise = torch.randn(n, *SHAPE, generator=generator)
        noisy, target = self.scheduler.add_noise(z, noise, t), self.scheduler.get_velocity(z, noise, t)
        predicted = unet(torch.cat([noisy, places(z)], 1), t, encoder_hidden_states=e, return_dict=False)[0]
        kept = self.scheduler.alphas_cumprod[t]
        snr = kept / (1 - kept)
        weight = snr.clamp(max=5) / (snr + 1) if step < DETAIL_FIRST else torch.ones(n)
        return (weight * (predicted - target).square().mean((1, 2, 3))).mean()


def share_of_rate(step: int, steps: int) -> float:
    """Warm-up over 100 steps, constant, linear to zero over the last quarter; the painter does this twice (FIRST_CYCLE)."""
    begun = 0 if steps <= FIRST_CYCLE or step < FIRST_CYCLE else FIRST_CYCLE
    end = FIRST_CYCLE if steps > FIRST_CYCLE > step else steps
    return min((step + 1) / 100, 1.0, (end - step) / (0.25 * (end - begun)))


def run(
    part: str, model: nn.Module, loss: Callable[[nn.Module, int], torch.Tensor], steps: int, keep: Path,
    look: Callable[[nn.Module, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one part from its checkpoint on; leaves the averaged weights in `model`.

    Args:
        part: its name; the checkpoint is `keep/<part>.pt`.
        model: fresh weights.
        loss: (model, step) → scalar.
        steps: optimizer steps in all.
        keep: folder of checkpoints.
        look: called with the averaged model every five minutes.

    Returns:
        steps, batch, seconds of computing, parameters, mean loss of every fiftieth of the run.
    """
    file, line = keep / f"{part}.pt", ProgressLine(sys.stderr)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[part], betas=(0.9, 0.99), weight_decay=0.01)
    average, done, seconds, losses = copy.deepcopy(model).eval(), 0, 0.0, []
    if file.is_file():
        kept = torch.load(file, weights_only=True)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        done, seconds, losses = kept["step"], kept["seconds"], kept["losses"]
    began = saved = looked = time.monotonic()
    model.train()
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = RATES[part] * share_of_rate(step, steps)
        value = loss(model, step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(value.item())
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        now = time.monotonic()
        recent = losses[-50:]
        line(step + 1, steps, f"{part} step {step + 1} of {steps}, loss {sum(recent) / len(recent):.4f}")
        if now - saved > 20 or step + 1 == steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"step": step + 1, "seconds": seconds + now - began, "losses": losses}
            torch.save(state, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            saved = now
        if look and (now - looked > 300 or step + 1 == steps):
            look(average, step + 1)
            looked = now
    seconds += time.monotonic() - began
    model.load_state_dict(average.state_dict())
    model.eval().requires_grad_(False)
    width = max(1, len(losses) // 50)
    curve = [round(sum(losses[i : i + width]) / len(losses[i : i + width]), 5) for i in range(0, len(losses), width)]
    return {
        "steps": steps, "batch": BATCH[part], "rate": RATES[part], "seconds": round(seconds), "losses": curve,
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, measure everything, write the folder."""
    parser = argparse.ArgumentParser(prog="python -m workbench.vision.train", description="Train the miniature.")
    parser.add_argument("--steps", type=int, default=STEPS["unet"], help="steps of the painter")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all other parts' steps (tests: 0.01)")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder to write (default: assets/models/mini-diffusion)"
    )
    parser.add_argument("--keep", type=Path, default=None, help="folder of checkpoints (default: in the cache)")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.scale <= 0:
        parser.error(f"--steps {options.steps} --scale {options.scale}: both must be above 0")

    from safetensors.torch import save_file

    from workbench import machine, paths
    from workbench.vision import sheets
    from workbench.vision.measure import measure, reference

    out, keep = options.out or folder(), options.keep or paths.home() / "training" / "mini-diffusion"
    keep.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    models: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for part in ("clip-a", "reader", "clip-b", "unet"):
        torch.manual_seed(SEEDS[part])
        if part == "unet":
            painter = Painter(models["clip-a"])
            model = build_unet().to(memory_format=torch.channels_last)
            look = sheets.writer(models["clip-a"], keep)
            parts[part] = run(part, model, painter.loss, options.steps, keep, look)
        else:
            model = Reader() if part == "reader" else MiniCLIP()
            steps = max(1, round(STEPS[part] * options.scale))
            loss = reader_loss if part == "reader" else lambda m, step, part=part: clip_loss(m, step, part)
            parts[part] = run(part, model, loss, steps, keep)
        models[part] = model
        weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
        save_file(weights, out / f"{part}.safetensors")
        (out / f"{part}.safetensors").chmod(0o644)
    default = options.steps == STEPS["unet"] and options.scale == 1
    told = "python -m workbench.vision.train" + (
        "" if default else f" --steps {options.steps} --scale {options.scale:g}"
    )
    told = {
        "command": told, "parts": parts, "seconds": sum(part["seconds"] for part in parts.values()), **machine.describe(),
        "reference": reference(models["clip-a"]), "measured": measure(models),
    }  # fmt: skip
    (out / "training.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told["measured"], indent=1))


if __name__ == "__main__":
    main()
