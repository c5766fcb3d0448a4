"""The miniature: a U-Net of diffusers that paints 32 × 32 scenes from one feature of MiniCLIP, and everything around it.

    z = Haar(x)  (12, 16, 16)     z_t = √ᾱ_t z + √(1 − ᾱ_t) ε     v̂ = U-Net([z_t, column, row], t, e)     e: one token (1, 64)

Where Stable Diffusion has a learned autoencoder, the miniature has one level of the orthonormal Haar transform: half the
side, four times the channels, nothing lost, white noise stays white. Two constant channels tell every place where it is (one
token is added alike everywhere, so a small U-Net would learn places from its zero padding only). The network predicts
v = √ᾱ ε − √(1 − ᾱ) z (Salimans & Ho 2022, arXiv 2202.00512 §4) on a cosine schedule of 1000 steps; samples come from DDIM.
Features get noise while it learns, so that a *text's* feature, which never lies exactly where pictures' do, is no shock.

Source: `StableDiffusionImageVariationPipeline` of diffusers for the role of each part; the sizes are ours. `Miniature`
offers what `fastedit` asks of a base: unet, scheduler, image_feature, text_feature, encode, decode, predict.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import UserError
from workbench.paths import assets
from workbench.vision import need_diffusers
from workbench.vision.captions import tokens
from workbench.vision.miniclip import WIDTH, MiniCLIP

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel

CHANNELS = 12  # of the Haar transform of an RGB picture
SHAPE = (CHANNELS, 16, 16)
WIDTHS = (48, 96)


def folder() -> Path:
    """Where the shipped miniature lives."""
    return assets() / "models" / "mini-diffusion"


def haar(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, 2h, 2w) → (B, 12, h, w): sums and three kinds of differences of every 2 × 2 block, halved (orthonormal)."""
    a, b = pictures[..., ::2, ::2], pictures[..., ::2, 1::2]
    c, d = pictures[..., 1::2, ::2], pictures[..., 1::2, 1::2]
    return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2


def unhaar(z: torch.Tensor) -> torch.Tensor:
    """(B, 12, h, w) → (B, 3, 2h, 2w), the inverse of `haar`."""
    mean, across, down, both = z.chunk(4, 1)
    top = torch.stack([mean + across + down + both, mean - across + down - both], -1)  # (B, 3, h, w, 2)
    low = torch.stack([mean + across - down - both, mean - across - down + both], -1)
    return (torch.stack([top, low], -3) / 2).flatten(-2).flatten(-3, -2)  # (…, h, 2, w, 2) → (…, 2h, 2w)


def build_unet() -> UNet2DConditionModel:
    """A fresh U-Net of the miniature: 14 channels in, 12 out, attention at 8 × 8 places."""
    need_diffusers()
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SHAPE[1], in_channels=CHANNELS + 2, out_channels=CHANNELS, block_out_channels=WIDTHS, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    """DDIM with the cosine schedule (Nichol & Dhariwal 2021) and v-prediction."""
    need_diffusers()
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip


def places(z: torch.Tensor) -> torch.Tensor:
    """(B, 2, h, w) column and row of every place, −1 … 1."""
    h, w = z.shape[-2:]
    row, column = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.stack([column, row]).to(z).expand(len(z), 2, h, w)


class Miniature:
    """The shipped painter as a base for editing.

    Args:
        unet: as `build_unet` makes it.
        clip: the MiniCLIP whose picture features the U-Net was trained on.
        reference: `deltas`, sorted 1 − cos of matching pictures and captions; `gap`, mean text minus mean picture feature.
    """

    name = "miniature"
    shape = SHAPE

    def __init__(self, unet: UNet2DConditionModel, clip: MiniCLIP, reference: dict[str, list[float]]) -> None:
        self.unet, self.clip, self.scheduler = unet, clip, build_scheduler()
        self.deltas = torch.tensor(reference["deltas"])
        self.gap = torch.tensor(reference["gap"])

    @torch.no_grad()
    def image_feature(self, picture: torch.Tensor) -> torch.Tensor:
        """(1, 3, 32, 32) in −1 … 1 → one token (1, 1, 64)."""
        return self.clip.encode_image(picture)[:, None]

    @torch.no_grad()
    def text_feature(self, text: str) -> torch.Tensor:
        """A prompt → one token (1, 1, 64), moved by the mean difference between texts and pictures (`gap`)."""
        return (self.clip.encode_text(tokens([text])) - self.gap)[:, None]

    def discrepancy(self, picture: torch.Tensor, text: str) -> float:
        """δ = 1 − cos of the picture's and the raw text's feature, 0 … 2."""
        with torch.no_grad():
            cosine = torch.cosine_similarity(self.clip.encode_image(picture), self.clip.encode_text(tokens([text])))
        return 1.0 - float(cosine)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) → (B, 12, 16, 16)."""
        return haar(picture)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, 12, 16, 16) → (B, 3, 32, 32) in −1 … 1."""
        return unhaar(z).clamp(-1, 1)

    def predict(self, unet: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """The U-Net's output (B, 12, 16, 16) at noisy z (B, 12, 16, 16), steps t (B,) and tokens e (B, 1, 64)."""
        return unet(torch.cat([z, places(z)], 1), t, encoder_hidden_states=e, return_dict=False)[0]


def load_miniature(path: Path | None = None) -> Miniature:
    """The shipped miniature, in float32 and ready to paint.

    Args:
        path: folder with unet.safetensors, clip-a.safetensors and training.json.

    Raises:
        UserError: when diffusers or the weights are missing.
    """
    need_diffusers()
    path = path or folder()
    unet = build_unet()
    fill(unet, path / "unet.safetensors")
    clip = fill(MiniCLIP(), path / "clip-a.safetensors")
    return Miniature(unet.eval().requires_grad_(False), clip, record(path)["reference"])


def record(path: Path | None = None) -> dict[str, Any]:
    """What `training.json` says: how the weights were made, and the reference of features."""
    file = (path or folder()) / "training.json"
    if not file.is_file():
        raise UserError(f"{file} is missing; make the miniature again with: python -m workbench.vision.train")
    return json.loads(file.read_text(encoding="utf-8"))


def fill(model: torch.nn.Module, file: Path) -> Any:
    """Load float16 weights into a float32 model, frozen and in eval mode; returns the model."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{file} is missing; make the miniature again with: python -m workbench.vision.train")
    model.load_state_dict({name: weight.float() for name, weight in load_file(file).items()})
    return model.eval().requires_grad_(False)


def load_clip(which: str = "b") -> MiniCLIP:
    """MiniCLIP `a` (conditions the painter) or `b` (own seed, only for judging)."""
    return fill(MiniCLIP(), folder() / f"clip-{which}.safetensors")


def load_reader() -> Any:
    """The judge (`workbench.vision.judge.Reader`)."""
    from workbench.vision.judge import Reader

    return fill(Reader(), folder() / "reader.safetensors")
