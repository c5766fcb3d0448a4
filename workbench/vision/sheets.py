"""Sheets of small pictures: enlarged without smoothing, side by side, as PIL images and PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.vision.mini_diffusion import Miniature
from workbench.vision.miniclip import MiniCLIP
from workbench.vision.scenes import draw, render

if TYPE_CHECKING:
    from PIL import Image


def to_image(picture: torch.Tensor, zoom: int = 8) -> Image.Image:
    """A tensor (3, H, W) or (1, 3, H, W) in −1 … 1 as a PIL image.

    Args:
        picture: one picture.
        zoom: how many screen pixels one pixel becomes; a power of two keeps the exact values recoverable.
    """
    from PIL import Image

    picture = picture[0] if picture.ndim == 4 else picture
    values = ((picture.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).byte()
    image = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def sheet(pictures: torch.Tensor, columns: int, zoom: int = 3, gap: int = 4) -> Image.Image:
    """Pictures (B, 3, H, W) row by row on a white ground.

    Args:
        pictures: what to show.
        columns: per row.
        zoom: see `to_image`.
        gap: white pixels between them.
    """
    from PIL import Image

    tiles = [to_image(picture, zoom) for picture in pictures]
    w, h = tiles[0].width + gap, tiles[0].height + gap
    canvas = Image.new("RGB", (columns * w - gap, -(-len(tiles) // columns) * h - gap), "white")
    for index, tile in enumerate(tiles):
        canvas.paste(tile, (index % columns * w, index // columns * h))
    return canvas


def writer(clip: MiniCLIP, keep: Path) -> Callable[[nn.Module, int], None]:
    """A function that writes `samples-<step>.png`: scenes above what the painter makes of their features.

    Args:
        clip: conditions the painter.
        keep: folder for the PNG files.
    """
    pictures = render(*draw(16, torch.Generator().manual_seed(5)))

    def look(unet: nn.Module, step: int) -> None:
        from workbench.vision.session import noise_like, sample

        base = Miniature(unet, clip, {"deltas": [0.0], "gap": [0.0]})
        with torch.no_grad():
            e = clip.encode_image(pictures)[:, None]
        z = torch.cat([noise_like(base, seed) for seed in range(len(pictures))])
        made = base.decode(sample(base, unet, e, z, steps=20))
        sheet(torch.cat([pictures, made]), 16, 4).save(keep / f"samples-{step:05d}.png")

    return look


def beside(images: list[Image.Image], gap: int = 8) -> Image.Image:
    """PIL images of one height next to each other on white."""
    from PIL import Image

    canvas = Image.new("RGB", (sum(i.width + gap for i in images) - gap, max(i.height for i in images)), "white")
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + gap
    return canvas
