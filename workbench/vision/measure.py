"""What the miniature can do, measured on scenes it has not seen; and the reference that FastEdit ranks δ against.

Everything is computed from the finished weights by `train` and stands in `training.json`.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.vision.captions import captions, random_names, tokens
from workbench.vision.judge import Reader
from workbench.vision.mini_diffusion import Miniature
from workbench.vision.miniclip import MiniCLIP, fits
from workbench.vision.requests import make_requests
from workbench.vision.scenes import COLUMN, DETAILS, FACTORS, draw, render

FRESH = 99  # seed of scenes that nothing was trained on


@torch.no_grad()
def reference(clip: MiniCLIP, n: int = 480) -> dict[str, list[float]]:
    """Reference pairs for ranking δ, and the gap between words and pictures.

    Args:
        clip: the MiniCLIP that conditions the painter.
        n: edit requests to draw; all differ from those of any page.

    Returns:
        deltas: 1 − cos(picture, prompt) of n requests, sorted; gap: mean text minus mean picture feature over full captions.
    """
    asked = make_requests(n, 900_000)
    pictures = torch.cat([request.picture for request in asked])
    cosines = torch.cosine_similarity(
        clip.encode_image(pictures), clip.encode_text(tokens(request.prompt for request in asked))
    )
    factors, jitter = draw(1024, torch.Generator().manual_seed(FRESH))
    mask = random_names(len(factors), torch.Generator().manual_seed(FRESH), 0.6)
    gap = clip.encode_text(tokens(captions(factors, mask))).mean(0) - clip.encode_image(render(factors, jitter)).mean(0)
    return {
        "deltas": [round(v, 5) for v in (1 - cosines).sort().values.tolist()],
        "gap": [round(v, 5) for v in gap.tolist()],
    }


@torch.no_grad()
def measure(models: dict[str, Any], n: int = 512, painted: int = 64) -> dict[str, Any]:
    """Accuracy of the judge, of both MiniCLIPs, and of what the painter makes of a picture's feature.

    Args:
        models: clip-a, clip-b, reader, unet.
        n: scenes for the judge and the encoders.
        painted: scenes that are painted anew from their feature.

    Returns:
        Shares between 0 and 1, by factor where it says so.
    """
    factors, jitter = draw(n, torch.Generator().manual_seed(FRESH + 1), everything=True)
    pictures = render(factors, jitter)
    reader: Reader = models["reader"]
    found: dict[str, Any] = {"reader": _by_factor(reader.read(pictures), factors)}
    for which in ("clip-a", "clip-b"):
        found[which] = recall(models[which], factors, pictures)
    base = Miniature(models["unet"], models["clip-a"], {"deltas": [0.0], "gap": [0.0]})
    from workbench.vision.session import noise_like, sample

    e = models["clip-a"].encode_image(pictures[:painted])[:, None]
    z = torch.cat([noise_like(base, seed) for seed in range(painted)])
    again = base.decode(sample(base, base.unet, e, z, steps=25))
    found["painted from the feature"] = _by_factor(reader.read(again), factors[:painted])
    return found


@torch.no_grad()
def recall(clip: MiniCLIP, factors: torch.Tensor, pictures: torch.Tensor) -> dict[str, float]:
    """How often the best caption of a picture, among full captions that differ in one factor, is the right one.

    Args:
        clip: encoders.
        factors, pictures: scenes.

    Returns:
        By named factor, and `one of all`: share of full captions whose nearest picture fits, among all pictures.
    """
    everything = torch.ones(len(factors), 7, dtype=torch.bool)
    seen, shares = clip.encode_image(pictures), {}
    for name, words in FACTORS.items():
        if name in DETAILS:
            continue
        scores = []
        for value in range(len(words)):
            other = factors.clone()
            other[:, COLUMN[name]] = value
            scores.append((clip.encode_text(tokens(captions(other, everything))) * seen).sum(1))
        shares[name] = round(float((torch.stack(scores, 1).argmax(1) == factors[:, COLUMN[name]]).float().mean()), 4)
    logits = clip(pictures, tokens(captions(factors, everything)))
    right = fits(factors, everything)
    shares["one of all"] = round(float(right[torch.arange(len(factors)), logits.argmax(1)].float().mean()), 4)
    return shares


def _by_factor(read: torch.Tensor, factors: torch.Tensor) -> dict[str, float]:
    return {name: round(float((read[:, i] == factors[:, i]).float().mean()), 4) for name, i in COLUMN.items()}
