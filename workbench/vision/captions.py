"""Captions of scenes: one fixed word order, any subset of the named factors, and the words the miniature knows.

    a large striped red star at the left on grass with a sun

`caption` writes, `tokens` reads. A word that is not known is refused with the list of those that are: a small model that
guesses at words it has never seen would only pretend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from workbench.errors import UserError
from workbench.vision.scenes import COLUMN, FACTORS, NAMED

SAME = {"big": "large", "tiny": "small", "centre": "middle", "center": "middle", "color": "colour", "an": "a", "upper": "top",
        "lower": "bottom", "bricks": "brick", "stripes": "striped", "dots": "dotted", "plus": "cross"}  # fmt: skip
PLACES = {"middle": "in the middle", **{side: f"at the {side}" for side in ("left", "right", "top", "bottom")}}
GLUE = ("a", "at", "the", "in", "on", "with", "thing")
WORDS = ("<pad>", *GLUE, *(word for words in NAMED.values() for word in words))
INDEX = {word: index for index, word in enumerate(WORDS)}
LENGTH = 16  # tokens; the longest caption has 15


def caption(factors: torch.Tensor, named: Iterable[str] = tuple(NAMED)) -> str:
    """The sentence that names some factors of one scene.

    Args:
        factors: (10,) indices of one scene.
        named: which factors the sentence mentions.
    """
    mentioned = set(named)
    said = {
        name: FACTORS[name][int(factors[COLUMN[name]])] if name in mentioned else "" for name in NAMED
    }  # "" is a factor the sentence is silent about
    parts = ["a", said["size"], said["texture"], said["colour"], said["shape"] or "thing"]
    parts.append(PLACES.get(said["position"], ""))
    parts.append(f"on {said['background']}" if said["background"] else "")
    parts.append({"": "", "alone": "alone"}.get(said["extra"], f"with a {said['extra']}"))
    return " ".join(part for part in parts if part)


def split(text: str) -> list[str]:
    """Known words of a prompt, in order.

    Raises:
        UserError: when the prompt is empty or holds unknown words.
    """
    found = [SAME.get(word, word) for word in re.findall(r"[^\s,.;:!?\"'()]+", text.lower())]
    if not found:
        raise UserError("The prompt is empty; describe the picture you want, for example: a red star on sand.")
    unknown = [word for word in found if word not in INDEX or word == "<pad>"]
    if unknown:
        known = "; ".join(f"{name}: {', '.join(words)}" for name, words in NAMED.items())
        raise UserError(
            f"The miniature does not know {', '.join(map(repr, dict.fromkeys(unknown)))}. It knows {known}. "
            "Any other words need a real checkpoint (--model FOLDER)."
        )
    if len(found) > LENGTH:
        raise UserError(f"The prompt has {len(found)} words; the miniature reads {LENGTH}. Shorten it.")
    return found


def tokens(texts: Iterable[str]) -> torch.Tensor:
    """(B, 16) int64, padded with 0."""
    rows = [[INDEX[word] for word in split(text)] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows], dtype=torch.long)


def factors_named(text: str) -> dict[str, str]:
    """Factor → word for every factor word of a prompt (the last one wins)."""
    return {name: word for word in split(text) for name, words in NAMED.items() if word in words}


def random_names(n: int, generator: torch.Generator, share: float = 0.6) -> torch.Tensor:
    """(n, 7) which named factors each of n captions mentions, each with probability `share`, at least one."""
    mask = torch.rand(n, len(NAMED), generator=generator) < share
    mask[torch.arange(n), torch.randint(0, len(NAMED), (n,), generator=generator)] = True
    return mask


def captions(factors: torch.Tensor, mask: torch.Tensor) -> list[str]:
    """One caption per scene; mask (B, 7) says which factors it names."""
    names = list(NAMED)
    return [
        caption(row, [name for name, said in zip(names, chosen, strict=True) if said])
        for row, chosen in zip(factors.tolist(), mask.tolist(), strict=True)
    ]
