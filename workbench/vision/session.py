"""What every editor shares: what it asks of a diffusion model, how it paints, and the walk from a picture to a sentence.

    e = (1 − η) e_I + η e_T,  then z from seeded noise by the base's own scheduler, with guidance

    prediction = f(0) + g (f(e) − f(0))   at guidance g; at g = 1 the all-zero token is not asked at all

Source: Chen et al. 2024 (arXiv 2408.03355), step 4; Ho & Salimans 2022 (arXiv 2207.12598) for guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from workbench.errors import UserError
from workbench.progress import Progress, silent

ADAPTER = "fastedit"


class Base(Protocol):
    """What an editor needs to know of a diffusion model."""

    name: str
    shape: tuple[int, ...]  # (C, h, w) of z
    unet: nn.Module
    scheduler: Any
    deltas: torch.Tensor  # sorted δ of reference pairs

    def image_feature(self, picture: torch.Tensor) -> torch.Tensor: ...
    def text_feature(self, text: str) -> torch.Tensor: ...
    def discrepancy(self, picture: torch.Tensor, text: str) -> float: ...
    def encode(self, picture: torch.Tensor) -> torch.Tensor: ...
    def decode(self, z: torch.Tensor) -> torch.Tensor: ...
    def predict(self, unet: nn.Module, z: torch.Tensor, t: torch.Tensor, e: torch.Tensor) -> torch.Tensor: ...


@torch.no_grad()
def sample(
    base: Base, unet: nn.Module, e: torch.Tensor, z: torch.Tensor, *, steps: int = 50, guidance: float = 1.0,
    start: float = 1.0, progress: Progress = silent,
) -> torch.Tensor:  # fmt: skip
    """Paint from noise with the base's own scheduler.

    Args:
        base: schedule and prediction.
        unet: the network to ask.
        e: (B, 1, D) tokens.
        z: (B, C, h, w) noise, or a noisy picture when start < 1.
        steps: scheduler steps of the whole way.
        guidance: 1 asks the network once a step; more asks it for the all-zero token too and goes beyond.
        start: share of the way that is walked, from there to 0.

    Returns:
        (B, C, h, w) clean.
    """
    scheduler = type(base.scheduler).from_config(base.scheduler.config)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps[len(scheduler.timesteps) - max(1, round(start * len(scheduler.timesteps))) :]
    z = z * scheduler.init_noise_sigma if start == 1 else z
    for index, t in enumerate(times):
        asked = scheduler.scale_model_input(z, t)
        if guidance == 1:
            predicted = base.predict(unet, asked, t.expand(len(z)), e)
        else:
            both = base.predict(unet, torch.cat([asked] * 2), t.expand(2 * len(z)), torch.cat([torch.zeros_like(e), e]))
            nothing, something = both.chunk(2)
            predicted = nothing + guidance * (something - nothing)
        z = scheduler.step(predicted, t, z, return_dict=False)[0]
        progress(index + 1, len(times), f"painting, step {index + 1} of {len(times)}")
    return z


def noise_like(base: Base, seed: int, n: int = 1) -> torch.Tensor:
    """(n, C, h, w) standard normal numbers, the same for every picture of one call: row 0 repeated."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *base.shape, generator=generator).expand(n, *base.shape)


@dataclass
class EditSession:
    """A network that was fitted to one picture, and the two features to walk between.

    Args:
        base: the diffusion model.
        unet: the network that paints (with an adapter, a tuned copy, or untouched).
        source: e_I (1, 1, D), or what was optimised in its place.
        target: e_T (1, 1, D).
        prompt: the sentence.
        seconds: spent on fitting.
        delta: 1 − cos(e_I, e_T); band: the noise steps trained on; trainable: numbers trained; losses: of every step.
    """

    base: Base
    unet: nn.Module
    source: torch.Tensor
    target: torch.Tensor
    prompt: str = ""
    seconds: float = 0.0
    delta: float = 0.0
    band: tuple[int, int] = (0, 0)
    trainable: int = 0
    losses: list[float] = field(default_factory=list)

    def mix(self, eta: float, rescale: bool = True) -> torch.Tensor:
        """(1, 1, D) the token at η: 0 is the picture alone, 1 the sentence alone."""
        target = self.target * (self.source.norm() / self.target.norm()) if rescale else self.target
        if eta in (0, 1):
            return target if eta else self.source
        return (1 - eta) * self.source + eta * target

    def edit(self, eta: float = 0.7, **how: Any) -> torch.Tensor:
        """The picture at one η (1, 3, H, W); keywords as for `sweep`."""
        return self.sweep([eta], **how)

    def sweep(
        self, etas: Sequence[float], *, guidance: float = 1.0, seed: int = 0, steps: int = 50, rescale: bool = True,
        progress: Progress = silent,
    ) -> torch.Tensor:  # fmt: skip
        """Pictures at several η from the same noise.

        Args:
            etas: weights of the sentence, usually 0 … 1.
            guidance: 1 or more, see `sample`.
            seed: of the noise.
            steps: of the scheduler.
            rescale: bring e_T to the length of e_I first.
            progress: called per scheduler step.

        Returns:
            (len(etas), 3, H, W) in −1 … 1.

        Raises:
            UserError: no η, a guidance below 1, or another picture was fitted on this base since.
        """
        if not etas or guidance < 1 or steps < 1:
            raise UserError(
                f"η {list(etas)}, guidance {guidance}, {steps} steps: give at least one of each, guidance ≥ 1."
            )
        owner = getattr(self.base, "session", None)
        if self.unet is self.base.unet and owner is not None and owner is not self:
            raise UserError("Another picture was fitted on this base since; fit this one again, or close that session.")
        e = torch.cat([self.mix(eta, rescale) for eta in etas])
        z = noise_like(self.base, seed, len(etas)).to(e)
        return self.base.decode(sample(self.base, self.unet, e, z, steps=steps, guidance=guidance, progress=progress))

    def save_lora(self, folder: Path | str) -> Path:
        """Write `pytorch_lora_weights.safetensors`, which diffusers loads with `load_lora_weights`.

        Args:
            folder: made if it is not there.

        Raises:
            UserError: when this session has no adapter (a rival, or closed).
        """
        from diffusers.loaders import StableDiffusionLoraLoaderMixin
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        if getattr(self.base, "session", None) is not self:
            raise UserError("There is no LoRA to save: this session is closed, or trained something else.")
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet, adapter_name=ADAPTER))
        StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
        return Path(folder) / "pytorch_lora_weights.safetensors"

    def close(self) -> None:
        """Take the adapter off the base again (does nothing for sessions without one)."""
        if getattr(self.base, "session", None) is self:
            self.base.unet.unload_lora()
            self.base.session = None
