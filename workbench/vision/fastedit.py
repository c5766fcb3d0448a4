"""FastEdit: edit one picture by one sentence with 50 steps of LoRA on an image-variation diffusion model.

Imagic first searches a text embedding that reproduces the picture (hundreds of steps), then trains the whole U-Net (as
many more). A model that is conditioned on *picture features* makes the search needless: the picture's own feature e_I is
that embedding, and the sentence's feature e_T lives in the same space. What is left is to bind the picture to e_I, then walk:

    fit    min over LoRA of ‖ε − ε_θ(z_t, t, e_I)‖², t drawn from a band T(δ), δ = 1 − cos(e_I, e_T)
    edit   e = (1 − η) e_I + η e_T, sampled from seeded noise; guidance against an all-zero token

    z (1, C, h, w)   e (1, 1, D)   LoRA: rank r = α on to_q, to_k, to_v, to_out.0 of every attention, Σ r (d_in + d_out) numbers

Source: Chen et al. 2024 (arXiv 2408.03355) §3 and the released configuration: r = 16, Gaussian A, B = 0, AdamW, 4e-4, 50 steps.
Departures: that T depends on δ is the paper's, how it does could not be verified; `semantic_timesteps` is our reading (far
texts train noisier steps), with its reverse and a uniform draw beside it. δ is ranked among reference pairs, since raw
cosines between words and pictures hardly vary. Where the base predicts v or z instead of ε, the loss is on that. e_T is brought
to the length of e_I before mixing (`rescale=False` mixes raw, as the released code does).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workbench.errors import JobError, UserError, choose
from workbench.progress import Progress, silent
from workbench.vision.session import ADAPTER, Base, EditSession

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
MODES = ("semantic", "uniform", "fixed", "reverse")
CENTRES, HALF = (
    (0.35, 0.65),
    0.35,
)  # centre of the band for the nearest and the farthest text, half its width; shares of T
SD1_UNET: dict[str, Any] = {  # the published base: sd-image-variations v2.0 has the U-Net of Stable Diffusion 1
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8,
}  # fmt: skip


def semantic_timesteps(
    delta: float, deltas: torch.Tensor, n_steps: int = 1000, mode: str = "semantic"
) -> tuple[int, int]:
    """The band of noise steps to train on.

    Args:
        delta: 1 − cos of the picture's and the text's feature.
        deltas: sorted δ of reference pairs; δ's rank among them places the band.
        n_steps: noise steps of the schedule.
        mode: `semantic` (far texts: noisier), `reverse`, `fixed` (as for the median pair) or `uniform` (all steps).

    Returns:
        First step and one past the last.
    """
    choose("way to draw time steps", mode, MODES)
    if mode == "uniform":
        return 0, n_steps
    rank = float((deltas < delta).float().mean())
    rank = {"semantic": rank, "reverse": 1 - rank, "fixed": 0.5}[mode]
    centre = CENTRES[0] + (CENTRES[1] - CENTRES[0]) * rank
    return round(max(0.0, centre - HALF) * n_steps), round(min(1.0, centre + HALF) * n_steps)


def lora_layers(unet: nn.Module) -> list[nn.Linear]:
    """The linear layers that LoRA is put on: q, k, v and out of every attention."""
    return [m for name, m in unet.named_modules() if isinstance(m, nn.Linear) and name.endswith(TARGETS)]


def trainable_formula(unet: nn.Module, rank: int = 16) -> int:
    """Σ r (d_in + d_out) over the adapted layers of a bare U-Net; 3 188 736 for Stable Diffusion 1 at rank 16."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in lora_layers(unet))


def add_lora(unet: nn.Module, rank: int = 16, seed: int = 0) -> list[nn.Parameter]:
    """Put FastEdit's adapter on a U-Net of diffusers and return what is to be trained; everything else is frozen.

    Args:
        unet: a `UNet2DConditionModel` (or any diffusers model with attention).
        rank: r, and α as well, so the update is BA without a factor.
        seed: of the Gaussian A; B starts at zero, so nothing changes before the first step.
    """
    from peft import LoraConfig

    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
        unet.add_adapter(config, adapter_name=ADAPTER)
    return [p for p in unet.parameters() if p.requires_grad]


def denoising_loss(
    base: Base, unet: nn.Module, z: torch.Tensor, e: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the prediction at noise steps t.

    Args:
        base: names schedule and what is predicted (ε, v or z).
        unet: the network in training.
        z: (B, C, h, w) clean.
        e: (B, 1, D) tokens.
        t: (B,) steps.
        noise: (B, C, h, w).
    """
    kind = base.scheduler.config.prediction_type
    noisy = base.scheduler.add_noise(z, noise, t)
    target = {"epsilon": noise, "sample": z}.get(kind)
    if target is None:
        target = base.scheduler.get_velocity(z, noise, t)
    return (base.predict(unet, noisy, t, e) - target).square().mean()


def train(
    loss: Callable[[int], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int, progress: Progress, text: str
) -> list[float]:
    """Plain steps of an optimizer; returns the loss of each.

    Raises:
        JobError: when the loss is no longer a number.
    """
    losses = []
    for step in range(steps):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if losses[-1] != losses[-1]:
            raise JobError(f"The loss is not a number after {step + 1} steps; give a smaller learning rate.")
        progress(step + 1, steps, f"{text}, step {step + 1} of {steps}")
    return losses


class FastEdit:
    """The recipe on one base.

    Args:
        base: `workbench.vision.mini_diffusion.load_miniature()` or `workbench.vision.real.load_checkpoint(folder)`.
    """

    def __init__(self, base: Base) -> None:
        self.base = base

    def fit(
        self, picture: torch.Tensor, prompt: str, *, steps: int = 50, rank: int = 16, rate: float = 4e-4,
        timesteps: str = "semantic", batch: int = 1, augment: str = "none", seed: int = 0, progress: Progress = silent,
    ) -> EditSession:  # fmt: skip
        """Bind a picture to its own feature by LoRA.

        Args:
            picture: (1, 3, H, W) in −1 … 1.
            prompt: the picture you want, in words.
            steps: optimizer steps.
            rank: of LoRA.
            rate: AdamW's learning rate.
            timesteps: how noise steps are drawn, one of MODES.
            batch: noise draws per step.
            augment: views of the picture that are trained too, see `workbench.vision.views`.
            seed: of A, noise and steps.
            progress: called per step.

        Returns:
            The session to edit with; it owns the base's adapter until it is closed or another picture is fitted.
        """
        from workbench.vision.views import views

        began, base = time.perf_counter(), self.base
        target, delta = base.text_feature(prompt), base.discrepancy(picture, prompt)
        seen = views(picture, augment)
        z, e = torch.cat([base.encode(v) for v in seen]), torch.cat([base.image_feature(v) for v in seen])
        low, high = semantic_timesteps(delta, base.deltas, base.scheduler.config.num_train_timesteps, timesteps)
        if rank < 1 or steps < 1 or batch < 1:
            raise UserError(f"rank {rank}, {steps} steps, batch {batch}: give 1 or more of each.")
        if getattr(base, "session", None) is not None:
            base.session.close()
        parameters = add_lora(base.unet, rank, seed)
        optimizer = torch.optim.AdamW(parameters, lr=rate)
        generator = torch.Generator().manual_seed(seed)

        def loss(step: int) -> torch.Tensor:
            which = torch.randint(0, len(z), (batch,), generator=generator)
            t = torch.randint(low, high, (batch,), generator=generator)
            noise = torch.randn(batch, *base.shape, generator=generator).to(z)
            return denoising_loss(base, base.unet, z[which], e[which], t.to(z.device), noise)

        try:
            losses = train(loss, optimizer, steps, progress, "fitting the picture")
        except BaseException:
            base.unet.unload_lora()
            raise
        session = EditSession(
            base, base.unet, e[:1], target, prompt, time.perf_counter() - began, delta, (low, high),
            sum(p.numel() for p in parameters), losses,
        )  # fmt: skip
        base.session = session
        return session
