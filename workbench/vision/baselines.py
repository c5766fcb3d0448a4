"""FastEdit's rivals, on the same base and with the same interface.

    variation_only   no fitting: the untouched network at e = (1 − η) e_I + η e_T
    sdedit           no fitting: noise the picture up to a share s of the schedule, then paint on with e_T
    imagic           fit e* from e_T with the network frozen, then fit the whole network at e*, then walk from e* to e_T

Imagic (Kawar et al. 2023, arXiv 2210.09276 §3.2) is the slow one: two searches of hundreds of steps and a copy of all weights.
SDEdit is Meng et al. 2022 (arXiv 2108.01073). Source: these papers. Departures: in Imagic the text embedding has many tokens
and a CLIP of its own; here it is the one token of the base, and the optimised token starts at the text's feature as there.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import UserError
from workbench.progress import Progress, part, silent
from workbench.vision.fastedit import denoising_loss, train
from workbench.vision.session import Base, EditSession, noise_like, sample


def variation_only(base: Base, picture: torch.Tensor, prompt: str) -> EditSession:
    """The untouched network between the picture's and the sentence's feature.

    Args:
        base: the diffusion model, without an adapter.
        picture: (1, 3, H, W).
        prompt: the picture you want.
    """
    _bare(base)
    began = time.perf_counter()
    source, target = base.image_feature(picture), base.text_feature(prompt)
    delta = base.discrepancy(picture, prompt)
    return EditSession(base, base.unet, source, target, prompt, time.perf_counter() - began, delta)


@dataclass
class SDEdit:
    """Noise up, paint back with the sentence.

    Args:
        base: the diffusion model.
        z: (1, C, h, w) of the picture.
        target: e_T (1, 1, D).
    """

    base: Base
    z: torch.Tensor
    target: torch.Tensor
    seconds: float = 0.0
    trainable: int = 0

    def sweep(self, strengths: list[float], *, guidance: float = 1.0, seed: int = 0, steps: int = 50) -> torch.Tensor:
        """Pictures at several strengths, the share of the schedule that is walked (0 leaves the picture as it is).

        Args:
            strengths: in 0 … 1; the more, the freer.
            guidance, seed, steps: as for `EditSession.sweep`.
        """
        return torch.cat([self._at(strength, guidance, seed, steps) for strength in strengths])

    def _at(self, strength: float, guidance: float, seed: int, steps: int) -> torch.Tensor:
        if not 0 <= strength <= 1:
            raise UserError(f"strength is {strength}; give a share between 0 and 1.")
        scheduler = type(self.base.scheduler).from_config(self.base.scheduler.config)
        scheduler.set_timesteps(steps)
        walked = round(strength * len(scheduler.timesteps))
        if walked == 0:
            return self.base.decode(self.z)
        first = scheduler.timesteps[len(scheduler.timesteps) - walked]
        noise = noise_like(self.base, seed).to(self.z)
        noisy = scheduler.add_noise(self.z, noise, first[None]) if walked < len(scheduler.timesteps) else noise
        start = walked / len(scheduler.timesteps)
        z = sample(self.base, self.base.unet, self.target, noisy, steps=steps, guidance=guidance, start=start)
        return self.base.decode(z)


def sdedit(base: Base, picture: torch.Tensor, prompt: str) -> SDEdit:
    """SDEdit on the untouched network; arguments as for `variation_only`."""
    _bare(base)
    began = time.perf_counter()
    z, target = base.encode(picture), base.text_feature(prompt)
    return SDEdit(base, z, target, time.perf_counter() - began)


def imagic(
    base: Base, picture: torch.Tensor, prompt: str, *, embedding_steps: int = 100, model_steps: int = 150,
    embedding_rate: float = 1e-2, model_rate: float = 1e-4, batch: int = 1, seed: int = 0, progress: Progress = silent,
) -> EditSession:  # fmt: skip
    """Imagic's two searches; the base itself is left untouched (its U-Net is copied).

    Args:
        base, picture, prompt: as for `variation_only`.
        embedding_steps: Adam steps on the one token, network frozen.
        model_steps: Adam steps on all weights at that token.
        embedding_rate, model_rate: their learning rates.
        batch: noise draws per step.
        seed: of noise and steps.
        progress: called per step.

    Returns:
        A session whose source is the optimised token.
    """
    _bare(base)
    began, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    z, target, delta = base.encode(picture), base.text_feature(prompt), base.discrepancy(picture, prompt)
    z = z.expand(batch, *z.shape[1:])
    unet = copy.deepcopy(base.unet)
    total = base.scheduler.config.num_train_timesteps

    def loss(token: torch.Tensor) -> torch.Tensor:
        t = torch.randint(0, total, (batch,), generator=generator).to(z.device)
        noise = torch.randn(batch, *base.shape, generator=generator).to(z)
        return denoising_loss(base, unet, z, token.expand(batch, -1, -1), t, noise)

    unet.requires_grad_(False)
    token = target.clone().requires_grad_(True)
    share = embedding_steps / max(1, embedding_steps + model_steps)
    first, second = part(progress, 0, share), part(progress, share, 1)
    losses = train(
        lambda _: loss(token), torch.optim.Adam([token], lr=embedding_rate), embedding_steps, first, "searching"
    )
    source = token.detach()
    unet.requires_grad_(True)
    weights = list(unet.parameters())
    losses += train(lambda _: loss(source), torch.optim.Adam(weights, lr=model_rate), model_steps, second, "fitting")
    unet.requires_grad_(False)
    count = token.numel() + sum(p.numel() for p in weights)
    seconds = time.perf_counter() - began
    return EditSession(base, unet, source, target, prompt, seconds, delta, (0, total), count, losses)


def _bare(base: Any) -> None:
    if getattr(base, "session", None) is not None:
        raise UserError("An edit is still open on this base; close its session before running a rival.")
