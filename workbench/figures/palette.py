"""Colours and marks: one look per method everywhere, in light and dark.

Families keep their Okabe–Ito colour (Okabe & Ito 2008, "Color Universal Design"); methods inside a family differ by
marker and dash, never by a new hue. Quantized variants such as `gptq-4` take their colour from the bits (cividis,
16 → 2) and their marker from the quantizer. Each look has three colours: `fill`, the exact palette colour; `stroke` for
lines and outlines, the same hue moved just far enough from the ground to reach a contrast of 3:1 (WCAG 1.4.11), since
Okabe–Ito sky, orange, purple and yellow are too pale for thin lines on white; `ink` for letters, 4.5:1 (WCAG 1.4.3).
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

LIGHT = {
    "ground": "#FBFAF7", "raised": "#FFFFFF", "line": "#E4E1D8", "text": "#1D2126", "muted": "#5D6570",
    "accent": "#0B6E6E", "good": "#1F7A4D", "caution": "#9A6700", "bad": "#B3261E",
}  # fmt: skip
DARK = {
    "ground": "#14161A", "raised": "#1C1F25", "line": "#2E333C", "text": "#E8E6E1", "muted": "#A0A6B0",
    "accent": "#4FC3BF", "good": "#6FCF97", "caution": "#E0B050", "bad": "#FF8A80",
}  # fmt: skip

COLORS = {
    "base": "#8C8C8C",  # the untouched model
    "full": "#000000",  # white on dark
    "low-rank": "#0072B2",
    "random-basis": "#56B4E9",
    "prompts": "#E69F00",
    "bottleneck": "#009E73",
    "sparse": "#D55E00",
    "bias": "#CC79A7",  # IA³ and other methods that train a scale or a bias
    "other": "#F0E442",  # orthogonal maps, mixtures of adapters
}
BITS = {16: "#00224E", 8: "#414D6B", 4: "#7C7B78", 3: "#BCAF6F", 2: "#FEE838"}  # cividis at 0, ¼, ½, ¾, 1

# The order inside a family decides marker and dash, so new methods go to the end of their line.
METHODS = {
    "base": "base none teacher",
    "full": "full last-n head",
    "low-rank": "lora dora pissa adalora rslora loha lokr hira gralora delora lily frod glora miss tinylora xlora",
    "random-basis": "vera nola randlora fourierft pvera unilora vblora waveft c3a wb-randlora",
    "prompts": "prompt prefix p-tuning dept cpt multitask-prompt adaption-prompt cartridge trainable-tokens",
    "bottleneck": "bottleneck compacter adapter parallel adapterfusion adamss peanut shadow unified",
    "sparse": "sparse shira magnitude wanda sparsegpt diff-pruning deft spiel",
    "bias": "ia3 bitfit ln-tuning beft road",
    "other": "oft boft hra psoft osf poly supertuning",
}
ALIASES = {
    "prompt-tuning": "prompt", "prefix-tuning": "prefix", "ptuning": "p-tuning", "multitask-prompt-tuning": "multitask-prompt",
    "tuned": "lora", "full-fine-tuning": "full", "last-layers": "last-n", "vb-lora": "vblora", "uni-lora": "unilora",
}  # fmt: skip
QUANTIZERS = {
    "rtn": "circle",
    "gptq": "square",
    "nf4": "diamond",
    "awq": "triangle-up",
    "efficientqat": "pentagon",
    "fp": "hexagon",
    "int": "cross",  # int8-mixed
}
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star", "cross", "x")
PATTERNS = {
    "circle": "",
    "square": "/",
    "diamond": ".",
    "triangle-up": "x",
    "triangle-down": "\\\\",
    "pentagon": "-",
}  # bars
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_FAMILY = {m: (family, i) for family, names in METHODS.items() for i, m in enumerate(names.split())}


LINES, LETTERS = 3.05, 4.55  # contrast with the ground that is aimed at: a little above 3:1 and 4.5:1


class Look(NamedTuple):
    """How one method or variant is drawn on a light ground; `theme` turns it for a dark one."""

    family: str
    fill: str
    stroke: str
    ink: str
    marker: str
    dash: str


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb`, 0 (black) to 1 (white), WCAG 2.2 definition."""
    parts = [c / 255 for c in _rgb(color)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours, 1 to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable(color: str, ground: str, ratio: float = LINES) -> str:
    """The colour nearest to `color`, same hue, whose contrast with `ground` is at least `ratio`."""
    target = (0, 0, 0) if luminance(ground) > 0.18 else (255, 255, 255)
    for step in range(101):
        mixed = tuple(round(c + (t - c) * step / 100) for c, t in zip(_rgb(color), target, strict=True))
        hexed = "#{:02X}{:02X}{:02X}".format(*mixed)
        if contrast(hexed, ground) >= ratio:
            return hexed
    raise ValueError(f"no shade of {color} reaches a contrast of {ratio} on {ground}; ask for a smaller ratio.")


def alpha(color: str, opacity: float) -> str:
    """`#rrggbb` with an opacity between 0 and 1, as `rgba(r, g, b, a)`."""
    return "rgba({}, {}, {}, {:g})".format(*_rgb(color), opacity)


def look(name: str) -> Look:
    """The look of a method (`lora`, `PREFIX_TUNING`), a quantized variant (`gptq-4`, `lora+nf4`) or anything else.

    A name that is not known gets the muted grey and a marker that depends on the name alone, so it stays the same in
    every figure.
    """
    key = re.sub(r"[_\s]+", "-", str(name).strip().lower())
    last = key.rsplit("+", 1)[-1].strip("-")
    quantized = re.fullmatch(r"([a-z]+?)-?(\d+)(?:-?bits?|-mixed)?", last)
    if quantized and quantized[1] in {*QUANTIZERS, "nf"} and int(quantized[2]) in BITS:
        family = "nf4" if quantized[1] == "nf" else quantized[1]
        fill = BITS[int(quantized[2])]
        return _look("bits", fill, QUANTIZERS[family], "solid")
    key = ALIASES.get(key, key)
    if key not in _FAMILY:
        at = zlib.crc32(key.encode()) % len(MARKERS)
        return _look("unknown", LIGHT["muted"], MARKERS[at], DASHES[at % len(DASHES)])
    family, i = _FAMILY[key]
    return _look(family, COLORS[family], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


def _look(family: str, fill: str, marker: str, dash: str) -> Look:
    ground = LIGHT["ground"]
    return Look(family, fill, readable(fill, ground), readable(fill, ground, LETTERS), marker, dash)


def _dark_pairs() -> dict[str, str]:
    """Light colour → dark colour, for every colour that `look` and the tokens can give."""
    pairs = {LIGHT[name]: DARK[name] for name in LIGHT}
    for fill in (*COLORS.values(), *BITS.values()):
        look = _look("", fill, "", "")
        bright = readable(fill, DARK["raised"], LETTERS)
        # A light colour that serves twice (blue is letters, line and fill at once) turns into the brightest of its partners.
        for light, dark in ((look.ink, bright), (look.stroke, bright), (fill, fill)):
            pairs.setdefault(light, dark)
    pairs[COLORS["full"]] = "#FFFFFF"
    return {light.upper(): dark.upper() for light, dark in pairs.items()}


DARK_OF = _dark_pairs()
