"""Views of one picture for FastEdit's fine-tuning: flips, a crop, rotations; each gets its own image feature.

Source: the released configuration of FastEdit lists none, horizontal flip, flips, crop 0.6 and rotation by 30°.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import affine_grid, grid_sample

from workbench.errors import choose

VIEWS = ("none", "flip", "flips", "crop", "rotate")


def views(picture: torch.Tensor, kind: str = "none") -> list[torch.Tensor]:
    """The picture and what `kind` adds to it.

    Args:
        picture: (1, 3, H, W).
        kind: `none`, `flip` (left–right), `flips` (also upside down), `crop` (the middle 60 %), `rotate` (by ±30°).
    """
    choose("augmentation", kind, VIEWS)
    if kind in ("flip", "flips"):
        return [picture, picture.flip(3), *([picture.flip(2)] if kind == "flips" else [])]
    if kind == "crop":
        return [picture, _warp(picture, 0.6, 0)]
    if kind == "rotate":
        return [picture, _warp(picture, 1, 30), _warp(picture, 1, -30)]
    return [picture]


def _warp(picture: torch.Tensor, zoom: float, degrees: float) -> torch.Tensor:
    c, s = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    grid = affine_grid(picture.new_tensor([[[c, -s, 0.0], [s, c, 0.0]]]), list(picture.shape), align_corners=False)
    return grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
