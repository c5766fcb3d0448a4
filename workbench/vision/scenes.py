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
JITTER = (1.0, 1.0, 0.04)  # pixels, pixels, share of the radius

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
    axis = (torch.arange(2 * SIZE) + 0.5) / 2  # pixels; twice as fine as the result
    y, x = (t[None] for t in torch.meshgrid(axis, axis, indexing="ij"))  # (1, 64, 64)
    picture = _background(column, x, y)
    centre = 16 + torch.tensor(CENTRES)[column["position"]] + moved[:, :2] * torch.tensor(JITTER[:2])  # (B, 2)
    radius = (torch.tensor(RADII)[column["size"]] * (1 + JITTER[2] * moved[:, 2]))[:, None, None]
    across, down = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    kind = column["shape"]
    rim = _inside(across / (radius + 1.1), -down / (radius + 1.1), kind)
    body = _inside(across / radius, -down / radius, kind)
    white = torch.tensor((250.0, 250.0, 250.0)).expand(len(factors), 3)
    picture = _over(picture, rim, white)
    picture = _over(picture, body, torch.tensor(COLOURS, dtype=torch.float)[column["colour"]])
    marks = body & _texture(across, down, column["texture"])
    picture = _over(picture, marks, torch.tensor(SECOND, dtype=torch.float)[column["colour"]])
    picture = _extras(picture, column["extra"], x, y)
    picture = _frame(picture, column["frame"], x, y)
    picture = torch.nn.functional.avg_pool2d(picture, 2)
    return (picture / 127.5 - 1).clamp(-1, 1)


def _over(picture: torch.Tensor, mask: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Paint colour (B, 3) where mask (B, 64, 64) holds."""
    return torch.where(mask[:, None], colour[:, :, None, None], picture)


def _inside(u: torch.Tensor, v: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """(B, 64, 64) true inside the shape; u right and v up in units of its radius."""
    a, b = u.abs(), v.abs()
    turn = torch.atan2(u, v)
    turn = (torch.remainder(turn + math.pi / 5, 2 * math.pi / 5) - math.pi / 5).abs()
    r, tip, inner = (u * u + v * v).sqrt(), 1.12, 0.52
    px, py = r * turn.cos(), r * turn.sin()
    kx, ky = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    p, q = 1.12 * u, 1.12 * v + 0.16
    shapes = (
        r < 0.96,
        torch.maximum(a, b) < 0.86,
        (v > -0.8) & (1.05 - v > 1.85 * a),
        (kx - tip) * py - ky * (px - tip) > 0,
        (torch.minimum(a, b) < 0.36) & (torch.maximum(a, b) < 1.0),
        (p * p + q * q - 1) ** 3 - p * p * q**3 < 0,
    )
    return _pick(shapes, kind)


def _pick(masks: tuple[torch.Tensor, ...], kind: torch.Tensor) -> torch.Tensor:
    chosen = torch.zeros(torch.broadcast_shapes(*(m.shape for m in masks), (len(kind), 1, 1)), dtype=torch.bool)
    for index, mask in enumerate(masks):
        chosen = chosen | (mask & (kind == index)[:, None, None])
    return chosen


def _texture(across: torch.Tensor, down: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    stripes = torch.remainder(down + 1, 4) < 2
    dots = (torch.remainder(across + 2, 4) - 2) ** 2 + (torch.remainder(down + 2, 4) - 2) ** 2 < 1.45
    checks = (torch.remainder(across, 6) < 3) ^ (torch.remainder(down, 6) < 3)
    return _pick((torch.zeros_like(stripes), stripes, dots, checks), kind)


def _background(column: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(B, 3, 64, 64) in 0 … 255: ground colour, its marks, a darker or paler floor, and light from one side."""
    kind = column["background"]
    cell = torch.remainder(torch.floor(x / 8) * 3 + torch.floor(y / 8) * 5, 8)
    lx, ly = torch.remainder(x, 8), torch.remainder(y, 8)
    marks = (
        (ly > 5) & (torch.remainder(x + 8 * torch.floor(y / 8), 16) < 9),  # thin clouds
        ((lx - cell.clamp(1, 6)).abs() < 1) & ((ly - torch.remainder(cell * 3, 8).clamp(1, 6)).abs() < 1),  # stars
        (torch.remainder(x, 4) < 1) & (torch.remainder(y + 4 * torch.floor(x / 4), 8) < 4),  # blades
        (torch.remainder(x + 3 * torch.floor(y / 4), 6) < 2) & (torch.remainder(y, 4) < 1),  # grains
        (torch.remainder(y + 1.6 * torch.sin(x * math.pi / 8), 8) < 2),  # waves
        (ly < 1) | (torch.remainder(x + 8 * torch.floor(y / 8), 16) < 1),  # mortar
    )
    picture = torch.tensor(GROUNDS, dtype=torch.float)[kind][:, :, None, None].expand(-1, 3, 2 * SIZE, 2 * SIZE)
    picture = _over(picture, _pick(marks, kind), torch.tensor(MARKS, dtype=torch.float)[kind])
    floor = (y > 26)[:, None]
    level = torch.tensor((1.0, 0.55, 1.0))[column["ground"]][:, None, None, None]
    veil = torch.tensor((0.0, 0.0, 0.6))[column["ground"]][:, None, None, None]
    picture = torch.where(floor, (picture * level) * (1 - veil) + 250 * veil, picture)
    across, down = (x - 16) / 16, (y - 16) / 16
    slope = torch.stack([-across, across, -down, down], 1).expand(-1, -1, 2 * SIZE, 2 * SIZE)[0]  # (4, 64, 64)
    return picture * (1 + 0.22 * slope[column["light"]][:, None])


def _extras(picture: torch.Tensor, kind: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    def disc(cx: float, cy: float, r: float) -> torch.Tensor:
        return (x - cx) ** 2 + (y - cy) ** 2 < r * r

    layers = (
        (1, disc(26.5, 5.5, 4.6), (250, 250, 250)), (1, disc(26.5, 5.5, 3.7), (252, 196, 24)),
        (2, disc(5.5, 5.5, 4.6) & ~disc(8.6, 4.4, 2.6), (250, 250, 250)),
        (2, disc(5.5, 5.5, 3.7) & ~disc(8.0, 4.6, 3.2), (176, 178, 196)),
        (3, disc(26.5, 23.5, 4.6) | (((x - 26.5).abs() < 2) & (y > 24) & (y < 31)), (250, 250, 250)),
        (3, ((x - 26.5).abs() < 1) & (y > 24) & (y < 30.2), (110, 70, 40)), (3, disc(26.5, 23.5, 3.7), (20, 92, 44)),
    )  # fmt: skip
    for index, mask, colour in layers:
        chosen = mask & (kind == index)[:, None, None]
        picture = _over(picture, chosen, torch.tensor(colour, dtype=torch.float).expand(len(kind), 3))
    return picture


def _frame(picture: torch.Tensor, kind: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    edge = torch.minimum(torch.minimum(x, SIZE - x), torch.minimum(y, SIZE - y)) < 1
    tones = torch.tensor(((0.0,) * 3, (30.0, 26.0, 30.0), (250.0, 246.0, 238.0)))
    return _over(picture, edge & (kind > 0)[:, None, None], tones[kind])
