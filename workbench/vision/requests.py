"""Edit requests on scenes, each with its exact answer: what is asked, what must change, and the ideal picture.

The prompts are short, as people write them: they name the object by colour and shape, and the change. Everything else has to
come from the picture. Six kinds cover what the abstract of FastEdit lists: content addition, style transfer (texture or
colour), background replacement, change of position; and two at once. Source: TEdBench of Kawar et al. 2023 (arXiv 2210.09276)
for the form of a request, our scenes for its content.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.vision.captions import caption
from workbench.vision.scenes import COLUMN, FACTORS, draw, held_out, render

ABILITIES: dict[str, tuple[str, ...]] = {
    "addition": ("extra",),
    "texture": ("texture",),
    "background": ("background",),
    "position": ("position",),
    "colour": ("colour",),
    "two at once": ("background", "position"),
}


@dataclass(frozen=True)
class Request:
    """One edit to make.

    Args:
        original: (10,) factors of the scene that is given.
        jitter: (3,) of that scene, kept in the ideal edit.
        wanted: (10,) factors of the ideal edit.
        changed: names of the factors that differ.
        prompt: what the editor is told.
        ability: a name of ABILITIES.
    """

    original: torch.Tensor
    jitter: torch.Tensor
    wanted: torch.Tensor
    changed: tuple[str, ...]
    prompt: str
    ability: str

    @property
    def picture(self) -> torch.Tensor:
        """(1, 3, 32, 32) the scene that is given."""
        return render(self.original[None], self.jitter[None])

    @property
    def ideal(self) -> torch.Tensor:
        """(1, 3, 32, 32) the scene as it should become."""
        return render(self.wanted[None], self.jitter[None])

    @property
    def seen(self) -> bool:
        """True when training has shown the wanted pair of shape and colour."""
        return not bool(held_out(self.wanted[None]))


def make_requests(n: int, seed: int) -> list[Request]:
    """Draw n requests, the abilities taking turns; every second change of colour leads to a pair never seen in training.

    Args:
        n: how many.
        seed: of scenes and changes.
    """
    generator = torch.Generator().manual_seed(7_000_000 + seed)
    factors, jitter = draw(n, generator)
    kinds = list(ABILITIES)
    return [_one(factors[i], jitter[i], kinds[i % len(kinds)], i // len(kinds) % 2 == 1, generator) for i in range(n)]


def _one(
    original: torch.Tensor, jitter: torch.Tensor, ability: str, unseen: bool, generator: torch.Generator
) -> Request:
    """One request; with `unseen` a change of colour leads to the pair of shape and colour that training left out."""
    changed = ABILITIES[ability]
    if ability == "addition":
        original = original.clone()
        original[COLUMN["extra"]] = 0
    wanted = original.clone()
    for name in changed:
        step = 1 + int(torch.randint(0, len(FACTORS[name]) - 1, (1,), generator=generator))
        wanted[COLUMN[name]] = (original[COLUMN[name]] + step) % len(FACTORS[name])
    if ability == "colour" and unseen:
        wanted[COLUMN["colour"]] = (7 - 3 * original[COLUMN["shape"]]) % 8  # see `held_out`
    return Request(original, jitter, wanted, changed, caption(wanted, {"colour", "shape", *changed}), ability)
