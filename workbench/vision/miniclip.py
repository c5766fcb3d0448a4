"""MiniCLIP: pictures and sentences in one space of 64 numbers, learned by telling which sentence fits which scene.

    image (B, 3, 32, 32) → convolutions → (B, 64)        text (B, 16) → two transformer layers, mean → (B, 64)
    loss = ½ (CE(s, P) + CE(sᵀ, Pᵀ)),  s = cos(text, image) / τ,  P = fits / Σ fits (row-wise)

`fits[i, j]` is true when every factor that caption i names is as in picture j: in a batch of scenes that differ in one or two
factors a short caption fits several pictures, and calling those wrong would teach nonsense. Features leave with length √64,
so that a number is about 1 in size, as the painter expects. Source: Radford et al. 2021 (arXiv 2103.00020) §2.3, at a
ten-thousandth of the size; several right answers per row are our addition. `Reader` (in `judge`) shares the convolutions.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.functional import log_softmax, normalize

from workbench.vision.captions import LENGTH, WORDS
from workbench.vision.scenes import COLUMN, NAMED

WIDTH = 64  # numbers per feature; also the width of the painter's condition


def convolutions(wide: int = 24) -> nn.Sequential:
    """(B, 3, 32, 32) → (B, 4·wide·16): four convolutions, each but the first halving the picture."""
    sizes, layers = (3, wide, 2 * wide, 3 * wide, 4 * wide), []
    for index, (d_in, d_out) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Conv2d(d_in, d_out, 3, stride=2 if index else 1, padding=1), nn.GroupNorm(8, d_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten())


class MiniCLIP(nn.Module):
    """Two encoders and a temperature.

    Args:
        wide: channels of the first convolution.
    """

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.image = nn.Sequential(convolutions(wide), nn.Linear(64 * wide, WIDTH))
        self.word = nn.Embedding(len(WORDS), WIDTH, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # 1/τ = 10

    def encode_image(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, 32, 32) in −1 … 1 → (B, 64) of length 8."""
        return normalize(self.image(pictures), dim=-1) * WIDTH**0.5

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, 16) word ids → (B, 64) of length 8."""
        empty = ids == 0
        hidden = self.text(self.word(ids) + self.place, src_key_padding_mask=empty)  # (B, 16, 64)
        kept = (~empty)[..., None]
        mean = (hidden * kept).sum(1) / kept.sum(1)
        return normalize(self.out(mean), dim=-1) * WIDTH**0.5

    def forward(self, pictures: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits (texts, pictures): cosine over temperature."""
        scale = self.log_scale.clamp(max=4.0).exp() / WIDTH
        return scale * self.encode_text(ids) @ self.encode_image(pictures).T


def fits(factors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, B) true where caption i is true of picture j.

    Args:
        factors: (B, 10) of the pictures; caption i was written for picture i.
        mask: (B, 7) which named factors caption i mentions.
    """
    named = factors[:, [COLUMN[name] for name in NAMED]]
    same = named[:, None] == named[None]  # (B, B, 7)
    return (same | ~mask[:, None]).all(-1)


def contrastive_loss(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean of both directions' cross-entropy against the share of right answers (nats).

    Args:
        logits: (B, B) texts by pictures.
        right: (B, B) true where they fit.
    """
    right = right.to(logits.dtype)
    by_text = -(log_softmax(logits, 1) * right).sum(1) / right.sum(1)
    by_picture = -(log_softmax(logits, 0) * right).sum(0) / right.sum(0)
    return (by_text.mean() + by_picture.mean()) / 2


def relatives(factors: torch.Tensor, each: int, generator: torch.Generator) -> torch.Tensor:
    """Scenes that differ from given ones in one or two named factors: the hard cases of a batch.

    Args:
        factors: (N, 10).
        each: scenes per given one, itself included.
        generator: where the changes come from.

    Returns:
        (N · each, 10).
    """
    family = factors.repeat_interleave(each, 0).clone()
    change = torch.arange(len(family)) % each > 0
    sizes = torch.tensor([len(words) for words in NAMED.values()])
    for again in range(2):
        column = torch.randint(0, len(NAMED), (len(family),), generator=generator)
        step = 1 + (torch.rand(len(family), generator=generator) * (sizes[column] - 1)).long()
        rows = change if again == 0 else change & (torch.rand(len(family), generator=generator) < 0.5)
        picked = torch.arange(len(family))[rows]
        old = family[picked, column[rows]]
        family[picked, column[rows]] = (old + step[rows]) % sizes[column[rows]]
    return family
