"""Pictures, networks and training of the page `dcls`: motifs far apart, enlarged digits, three arms of equal size.

**Motifs.** 32 × 32 pixels of noise hold four pairs of 3 × 3 motifs (a plus and a cross), one pair in each band of 8 rows; the
two of a pair stand side by side, 6 to 9 pixels apart. Label "same": every pair is of equal motifs, two pairs of each kind.
Label "different": every pair is mixed. Counting motifs tells nothing (chance is 50 %); only who stands beside whom does.

**Digits.** scikit-learn's 8 × 8 digits, enlarged to 24 × 24 (bilinear): 1 297 to train on, 500 to test.

**Networks.** A ConvNeXt of transformers with two stages of 16 and 32 channels, at full and at half resolution. Its blocks
are untouched but for the arms' depthwise layers and the width of the pointwise ones; outside of the blocks batch norms
replace layer norms, and none follows the stem (of pictures with one channel it would keep the sign of each pixel only).
With the layer norms neither 7 × 7 nor DCLS had left chance after 400 steps. Layers start as torch starts them. The
pointwise layers of the smaller arms are widened until all have the same number of parameters:

    7 × 7            dense, 49 weights per channel and layer
    fixed dilation   6 × 6 weights three pixels apart, 16 pixels wide: the 34 weights of DCLS on the nearest regular grid
    DCLS             34 weights in 17 × 17, positions shared by the blocks of a stage
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import choose

if TYPE_CHECKING:
    import torch
    from torch import nn

ARMS = ("7 × 7", "fixed dilation", "DCLS")
SIDE = {"motifs": 32, "digits": 24}
CLASSES = {"motifs": 2, "digits": 10}
NEAR, FAR = 6, 9  # pixels between the motifs of a pair
SIZE, COUNT = 17, 34  # of the DCLS kernels
GRID, SPACING = 6, 3  # of the fixed dilation
MOTIFS = ("010111010", "101010101")  # a plus and a cross
PAIRS = 4


@dataclass(frozen=True)
class Plan:
    """What one scale trains.

    Args:
        steps: optimizer steps on motifs, and on digits.
        rates: learning rate of each arm.
        faster: how many times the rate DCLS positions get.
        batch: pictures a step.
        test: motif pictures in the test.
        channels, depths: of the two stages.
        expansion: width of the pointwise layers over channels, before the arms are made equal.
        noise: standard deviation of the background; motifs are ±1.
    """

    steps: dict[str, int]
    rates: dict[str, float]
    faster: float = 5.0
    batch: int = 32
    test: int = 1000
    channels: tuple[int, int] = (16, 32)
    depths: tuple[int, int] = (1, 1)
    expansion: int = 2
    noise: float = 0.6


def motif_shapes() -> torch.Tensor:
    """The motifs, (kinds, 3, 3), as ±1."""
    import torch

    return torch.tensor([[int(c) for c in row] for row in MOTIFS], dtype=torch.float32).view(-1, 3, 3) * 2 - 1


def motif_pictures(count: int, generator: torch.Generator, noise: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 1, 32, 32) and labels (count,), 1 for "same".

    Args:
        count: pictures.
        generator: of all draws, on the CPU.
        noise: standard deviation of the background.
    """
    import torch

    side, band = SIDE["motifs"], SIDE["motifs"] // PAIRS
    pictures = noise * torch.randn(count, side, side, generator=generator)
    label = torch.randint(0, 2, (count,), generator=generator)
    first = torch.rand(count, PAIRS, generator=generator).argsort(1) % 2  # as many of either kind
    second = torch.where(label.bool().unsqueeze(1), first, 1 - first)
    index, spot, shapes = torch.arange(count).view(-1, 1, 1), torch.arange(3), motif_shapes()
    for pair in range(PAIRS):
        apart = torch.randint(NEAR, FAR + 1, (count,), generator=generator)
        y = torch.randint(0, band - 2, (count,), generator=generator) + band * pair
        x = (torch.rand(count, generator=generator) * (side - 2 - apart)).long()
        for kinds, left in ((first[:, pair], x), (second[:, pair], x + apart)):
            rows = (y.view(-1, 1, 1) + spot.view(1, 3, 1)).expand(-1, 3, 3)
            pictures[index, rows, left.view(-1, 1, 1) + spot] += shapes[kinds]
    return pictures.unsqueeze(1), label


@functools.cache
def digit_pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """All digits as pictures (1797, 1, 24, 24) between 0 and 1, and their labels."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return interpolate(small, SIDE["digits"], mode="bilinear"), torch.tensor(data.target)


def extra_width(arm: str, plan: Plan) -> int:
    """Hidden units that every pointwise pair of an arm gets on top, so that all arms have equally many parameters."""
    layers = [d for d, depth in zip(plan.channels, plan.depths, strict=True) for _ in range(depth)]
    shared = 2 * COUNT * sum(plan.channels)
    spatial = {"7 × 7": 49 * sum(layers), "fixed dilation": GRID**2 * sum(layers), "DCLS": COUNT * sum(layers) + shared}
    return round((max(spatial.values()) - spatial[arm]) / sum(2 * d + 1 for d in layers))


def network(arm: str, task: str, plan: Plan) -> nn.Module:
    """A fresh ConvNeXt for one arm, drawn from torch's present random state."""
    from torch import nn
    from transformers import ConvNextConfig, ConvNextForImageClassification

    from workbench.layers.dcls import replace_depthwise

    choose("arm", arm, ARMS)
    config = ConvNextConfig(
        num_channels=1, patch_size=1, num_stages=2, hidden_sizes=list(plan.channels), depths=list(plan.depths),
        num_labels=CLASSES[task], layer_scale_init_value=1.0,
    )  # fmt: skip
    model = ConvNextForImageClassification(config)
    if arm == "DCLS":
        replace_depthwise(model, SIZE, COUNT, version="v1")
    stem = model.convnext.embeddings
    stem.patch_embeddings, stem.layernorm = nn.Conv2d(1, plan.channels[0], 1), nn.Identity()
    for stage in model.convnext.encoder.stages:
        if len(stage.downsampling_layer):
            stage.downsampling_layer[0] = nn.BatchNorm2d(plan.channels[0])
        for block in stage.layers:
            d = block.dwconv.in_channels
            width = plan.expansion * d + extra_width(arm, plan)
            block.pwconv1, block.pwconv2 = nn.Linear(d, width), nn.Linear(width, d)
            if arm == "fixed dilation":
                block.dwconv = fixed_dilation(d)
            nn.init.kaiming_uniform_(block.dwconv.weight, a=math.sqrt(5))
    model.convnext.layernorm = nn.BatchNorm1d(plan.channels[-1])
    return model


def fixed_dilation(d: int) -> nn.Module:
    """A depthwise dilated convolution, 6 × 6 weights three pixels apart; as a frozen DCLS layer, which convolves faster."""
    import torch

    from workbench.layers.dcls import Dcls2d

    layer = Dcls2d(d, d, GRID**2, SIZE, padding=SIZE // 2, groups=d, version="v1")
    places = torch.arange(GRID) * float(SPACING) - SIZE // 2  # −8, −5 … 7
    with torch.no_grad():
        layer.P[0], layer.P[1] = places.repeat(GRID), places.repeat_interleave(GRID)
    layer.P.requires_grad_(False)
    return layer
