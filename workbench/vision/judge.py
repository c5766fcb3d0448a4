"""The judge: a classifier that reads all ten factors back from a picture, and the scores of an edit made of its readings.

It is trained on its own (other seed, all scenes, with blur and noise so that a painted picture is not foreign to it) and has
no part in making edits. Per edit, with `changed` the factors the prompt changes:

    target     share of the changed factors that read as wanted
    kept       share of all other factors, named and unnamed, that read as in the original
    harmonic   2 · target · kept / (target + kept)
    distance   root mean square difference to the ideal picture, which can be drawn; 0 … 2
    feature    the same in the judge's last layer, a stand-in for LPIPS; 0 … about 1.4

Source: the card's measures; LPIPS is Zhang et al. 2018 (arXiv 1801.03924), here with a network of our own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, normalize

from workbench.vision.miniclip import convolutions
from workbench.vision.scenes import COLUMN, FACTORS


class Reader(nn.Module):
    """Ten classifiers on one trunk.

    Args:
        wide: channels of the first convolution.
    """

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.trunk = nn.Sequential(convolutions(wide), nn.Linear(64 * wide, 128), nn.SiLU())
        self.heads = nn.Linear(128, sum(map(len, FACTORS.values())))

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, 32, 32) → one (B, words) tensor of logits per factor, in the order of FACTORS."""
        return list(self.heads(self.trunk(pictures)).split([len(words) for words in FACTORS.values()], 1))

    @torch.no_grad()
    def read(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 10) the most likely factors."""
        return torch.stack([logits.argmax(1) for logits in self(pictures)], 1)


def reading_loss(logits: list[torch.Tensor], factors: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the ten factors, nats."""
    return sum(cross_entropy(part, factors[:, i]) for i, part in enumerate(logits)) / len(logits)


def roughen(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the pictures slightly blurred, all with a little noise: what a painted picture may look like."""
    soft = interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear", align_corners=False)
    shape = (len(pictures), 1, 1, 1)
    blend = torch.rand(shape, generator=generator) * 0.6 * (torch.rand(shape, generator=generator) < 0.5)
    noise = torch.randn(pictures.shape, generator=generator) * torch.rand(shape, generator=generator) * 0.12
    return (pictures * (1 - blend) + soft * blend + noise).clamp(-1, 1)


@torch.no_grad()
def judge(
    reader: Reader, pictures: torch.Tensor, original: torch.Tensor, wanted: torch.Tensor, ideal: torch.Tensor,
    changed: Iterable[str],
) -> list[dict[str, float]]:  # fmt: skip
    """Score edits of one picture.

    Args:
        reader: the trained judge.
        pictures: (B, 3, 32, 32) the edits.
        original: (10,) factors of the scene that was edited.
        wanted: (10,) factors of the ideal edit.
        ideal: (3, 32, 32) the ideal picture.
        changed: names of the factors that the prompt changes.

    Returns:
        Per edit: target, kept, harmonic (shares), distance, feature.
    """
    columns = [COLUMN[name] for name in changed]
    others = [column for column in range(len(FACTORS)) if column not in columns]
    seen = reader.read(pictures)
    target = (seen[:, columns] == wanted.flatten()[columns]).float().mean(1)
    kept = (seen[:, others] == original.flatten()[others]).float().mean(1)
    distance = (pictures - ideal).square().mean((1, 2, 3)).sqrt()
    features = normalize(reader.trunk(torch.cat([ideal[None], pictures])), dim=1)
    feature = (features[1:] - features[:1]).norm(dim=1)
    return [
        {"target": t, "kept": k, "harmonic": harmonic(t, k), "distance": d, "feature": f}
        for t, k, d, f in zip(*(v.tolist() for v in (target, kept, distance, feature)), strict=True)
    ]


def harmonic(target: float, kept: float) -> float:
    """Harmonic mean of two shares, 0 when both are."""
    return 2 * target * kept / (target + kept) if target + kept else 0.0
