"""Scenes: 32 × 32 pictures drawn from known factors, so that the ideal result of every edit can be drawn too.

A scene is one object like a sticker (white rim) on a background, perhaps with a small extra thing in a corner. Seven factors
have names that captions use; three *details* have none: they are what a photograph holds and nobody writes down. Position
and size also jitter a little (uniform, `JITTER`).

    factors  (B, 10)  int64, one column per entry of FACTORS, an index into its words
    jitter   (B, 3)   float, in −1 … 1: right, down, larger
    picture  (B, 3, 32, 32) float in −1 … 1, drawn at twice the size and averaged

Held out: the pairs of shape and colour in `held_out` never occur in what the miniature is trained on, so that an edit can
lead to a combination it has not seen. Source: our own; the card of FastEdit asks for known factors.
"""

from __future__ import annotations

import functools
import math

import torch

from workbench.errors import UserError, choose

SIZE = 32
NAMED: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "heart"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "white", "black"),
    "size": ("small", "medium", "large"),
    "position": ("middle", "left", "right", "top", "bottom"),
    "background": ("sky", "night", "grass", "sand", "sea", "brick"),
    "texture": ("plain", "striped", "dotted", "checked"),
    "extra": ("alone", "sun", "moon", "tree"),
}
DETAILS: dict[str, tuple[str, ...]] = {
    "light": ("from the left", "from the right", "from above", "from below"),
    "frame": ("no frame", "dark frame", "pale frame"),
    "ground": ("no ground", "dark ground", "pale ground"),
}
FACTORS: dict[str, tuple[str, ...]] = {**NAMED, **DETAILS}
COLUMN = {name: index for index, name in enumerate(FACTORS)}
JITTER = (0.5, 0.5, 0.03)  # pixels, pixels, share of the radius

COLOURS = ((222, 42, 42), (244, 138, 30), (250, 218, 48), (44, 158, 62), (46, 92, 222), (148, 62, 186), (246, 246, 246),
           (26, 26, 30))  # fmt: skip
SECOND = ((250, 190, 180), (252, 216, 160), (206, 140, 10), (176, 228, 160), (170, 200, 250), (224, 180, 240), (160, 160, 170),
          (130, 130, 140))  # fmt: skip
GROUNDS = ((166, 206, 242), (38, 42, 92), (126, 188, 92), (228, 202, 150), (48, 130, 164), (176, 96, 76))
MARKS = ((206, 230, 250), (222, 222, 170), (94, 156, 66), (196, 166, 110), (120, 190, 214), (216, 178, 160))
RADII = (5.2, 7.2, 9.2)
CENTRES = ((0, 0), (-6, 0), (6, 0), (0, -6), (0, 6))  # right, down, in pixels from the middle


def held_out(factors: torch.Tensor) -> torch.Tensor:
    """(B,) true where shape and colour form one of the six pairs that training never shows."""
    return (factors[:, COLUMN["shape"]] * 3 + factors[:, COLUMN["colour"]]) % 8 == 7


def draw(n: int, generator: torch.Generator, *, everything: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw random scenes.

    Args:
        n: how many.
        generator: where the randomness comes from.
        everything: include the held-out pairs of shape and colour.

    Returns:
        factors (n, 10) and jitter (n, 3).
    """
    factors = torch.stack([torch.randint(0, len(words), (n,), generator=generator) for words in FACTORS.values()], 1)
    if not everything:
        step = held_out(factors).long()  # the next colour is never held out as well
        factors[:, COLUMN["colour"]] = (factors[:, COLUMN["colour"]] + step) % 8
    return factors, torch.rand(n, 3, generator=generator) * 2 - 1


def scene(words: dict[str, str] | None = None, **more: str) -> torch.Tensor:
    """(1, 10) factors from words; what is not named takes the first word of its factor.

    Args:
        words: factor → word, for example {"shape": "star", "colour": "red"}.
        more: the same as keywords.

    Raises:
        UserError: an unknown factor or word, with the nearest ones.
    """
    row = [0] * len(FACTORS)
    for name, word in {**(words or {}), **more}.items():
        choose("factor", name, FACTORS)
        row[COLUMN[name]] = FACTORS[name].index(choose(name, word, FACTORS[name]))
    return torch.tensor([row])


def words_of(factors: torch.Tensor) -> dict[str, str]:
    """Factor → word of one scene, (10,) or (1, 10)."""
    return {name: words[int(index)] for (name, words), index in zip(FACTORS.items(), factors.flatten(), strict=True)}


def render(factors: torch.Tensor, jitter: torch.Tensor | None = None) -> torch.Tensor:
    """Draw scenes.

    Args:
        factors: (B, 10) indices.
        jitter: (B, 3) in −1 … 1; None draws every object exactly in its place.

    Returns:
        (B, 3, 32, 32) in −1 … 1.
    """
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise UserError(f"factors have shape {tuple(factors.shape)}; give (scenes, {len(FACTORS)}).")
    column = {name: factors[:, index] for name, index in COLUMN.items()}
    moved = torch.zeros(len(factors), 3) if jitter is None else jitter
    x, y = _grid()
    picture = _grounds()[column["background"]]  # (B, 3, 64, 64) in 0 … 255
    picture = _floor_and_light(picture, column, x, y)
    centre = 16 + torch.tensor(CENTRES)[column["position"]] + moved[:, :2] * torch.tensor(JITTER[:2])  # (B, 2)
    radius = (torch.tensor(RADII)[column["size"]] * (1 + JITTER[2] * moved[:, 2]))[:, None, None]
    across, down = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    kind = column["shape"]
    rim = _inside(across / (radius + 1.1), -down / (radius + 1.1), kind)
    body = _inside(across / radius, -down / radius, kind)
    white = torch.full((len(factors), 3), 250.0)
    picture = _over(picture, rim, white)
    picture = _over(picture, body, torch.tensor(COLOURS, dtype=torch.float)[column["colour"]])
    marks = body & _texture(x, y, column["texture"])
    picture = _over(picture, marks, torch.tensor(SECOND, dtype=torch.float)[column["colour"]])
    masks, things = _extras()
    picture = torch.where(masks[column["extra"]][:, None], things[column["extra"]], picture)
    picture = _frame(picture, column["frame"], x, y)
    picture = torch.nn.functional.avg_pool2d(picture, 2)
    return (picture / 127.5 - 1).clamp(-1, 1)


@functools.cache
def _grid() -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 64, 64) each: x to the right and y down in pixels, twice as fine as the result."""
    axis = (torch.arange(2 * SIZE) + 0.5) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x[None], y[None]


def _over(picture: torch.Tensor, mask: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Paint colour (B, 3) where mask (B, 64, 64) holds."""
    return torch.where(mask[:, None], colour[:, :, None, None], picture)


def _inside(u: torch.Tensor, v: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64) true inside the shape; u right and v up in units of its radius."""
    inside = torch.zeros(u.shape, dtype=torch.bool)
    for index, shape in enumerate((_circle, _square, _triangle, _star, _cross, _heart)):
        rows = kind == index
        inside[rows] = shape(u[rows], v[rows])
    return inside


def _circle(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return u * u + v * v < 0.92


def _square(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.maximum(u.abs(), v.abs()) < 0.86


def _triangle(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (v > -0.8) & (1.05 - v > 1.85 * u.abs())


def _star(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Fold the plane onto one half point of the five; inside is left of the edge from its tip to the notch."""
    turn = (torch.remainder(torch.atan2(u, v) + math.pi / 5, 2 * math.pi / 5) - math.pi / 5).abs()
    r, tip, notch = (u * u + v * v).sqrt(), 1.12, 0.52
    px, py = r * turn.cos(), r * turn.sin()
    kx, ky = notch * math.cos(math.pi / 5), notch * math.sin(math.pi / 5)
    return (kx - tip) * py - ky * (px - tip) > 0


def _cross(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    a, b = u.abs(), v.abs()
    return (torch.minimum(a, b) < 0.36) & (torch.maximum(a, b) < 1.0)


def _heart(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    p, q = 1.12 * u, 1.12 * v + 0.16
    return (p * p + q * q - 1) ** 3 - p * p * q**3 < 0


def _texture(x: torch.Tensor, y: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64) where the second colour goes: a cloth that stays in place while the shape is cut out of it."""
    across, down = torch.remainder(x, 4) < 2, torch.remainder(y, 4) < 2
    checks = (torch.remainder(x, 8) < 4) ^ (torch.remainder(y, 8) < 4)
    wanted = kind[:, None, None]
    return (down & (wanted == 1)) | (across & down & (wanted == 2)) | (checks & (wanted == 3))


@functools.cache
def _grounds() -> torch.Tensor:
    """(6, 3, 64, 64) in 0 … 255: every background with its marks, evenly lit."""
    x, y = (t[0] for t in _grid())
    ly, odd = torch.remainder(y, 8), 8 * torch.remainder(torch.floor(y / 8), 2)
    shifted = torch.remainder(x + odd, 16)  # every second row of cells moves by half a step
    marks = torch.stack([
        (ly > 6) & (shifted < 8),  # thin clouds
        (shifted >= 2) & (shifted < 4) & (ly >= 2) & (ly < 4),  # stars
        (torch.remainder(x, 4) < 1) & (torch.remainder(y + 4 * torch.floor(x / 4), 8) < 4),  # blades
        (shifted >= 2) & (shifted < 6) & (ly >= 4) & (ly < 5),  # grains
        (ly < 2) & (torch.remainder(x, 8) < 4) | (ly >= 2) & (ly < 4) & (torch.remainder(x, 8) >= 4),  # waves
        (ly < 1) | (shifted < 1),  # mortar
    ])  # fmt: skip
    plain = torch.tensor(GROUNDS, dtype=torch.float)[:, :, None, None].expand(-1, 3, 2 * SIZE, 2 * SIZE)
    return _over(plain, marks, torch.tensor(MARKS, dtype=torch.float))


def _floor_and_light(
    picture: torch.Tensor, column: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """A darker or paler floor, then light from one side (B, 3, 64, 64)."""
    level = torch.tensor((1.0, 0.55, 0.4))[column["ground"]][:, None, None, None]
    veil = torch.tensor((0.0, 0.0, 150.0))[column["ground"]][:, None, None, None]
    picture = torch.where((y > 26)[:, None], picture * level + veil, picture)
    across, down = (x - 16) / 16, (y - 16) / 16
    slope = torch.cat([-across, across, -down, down])  # (4, 64, 64)
    return picture * (1 + 0.22 * slope[column["light"]][:, None])


@functools.cache
def _extras() -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (4, 64, 64) and colours (4, 3, 64, 64) of nothing, sun, moon and tree."""
    x, y = (t[0] for t in _grid())

    def disc(cx: float, cy: float, r: float) -> torch.Tensor:
        return (x - cx) ** 2 + (y - cy) ** 2 < r * r

    layers = (
        (1, disc(26.5, 5.5, 4.6), (250, 250, 250)), (1, disc(26.5, 5.5, 3.7), (252, 196, 24)),
        (2, disc(5.5, 5.5, 4.6) & ~disc(8.6, 4.4, 2.6), (250, 250, 250)),
        (2, disc(5.5, 5.5, 3.7) & ~disc(8.0, 4.6, 3.2), (176, 178, 196)),
        (3, disc(26.5, 23.5, 4.6) | (((x - 26.5).abs() < 2) & (y > 24) & (y < 31)), (250, 250, 250)),
        (3, ((x - 26.5).abs() < 1) & (y > 24) & (y < 30.2), (110, 70, 40)), (3, disc(26.5, 23.5, 3.7), (20, 92, 44)),
    )  # fmt: skip
    masks = torch.zeros(4, 2 * SIZE, 2 * SIZE, dtype=torch.bool)
    things = torch.zeros(4, 3, 2 * SIZE, 2 * SIZE)
    for index, mask, colour in layers:
        masks[index] |= mask
        things[index] = torch.where(mask, torch.tensor(colour, dtype=torch.float)[:, None, None], things[index])
    return masks, things


def _frame(picture: torch.Tensor, kind: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    edge = torch.minimum(torch.minimum(x, SIZE - x), torch.minimum(y, SIZE - y)) < 1
    tones = torch.tensor(((0.0,) * 3, (30.0, 26.0, 30.0), (250.0, 246.0, 238.0)))
    return _over(picture, edge & (kind > 0)[:, None, None], tones[kind])
