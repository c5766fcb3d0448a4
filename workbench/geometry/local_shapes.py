"""Training patches made on the fly: what surfaces look like through a small ball, with the exact distance from its centre.

In units of the ball's radius (the released code has r = 0.05 and curvatures −30 … 40, here times r):

    smooth   z = ½(k₁x² + k₂y²), k ~ U(−1.5, 2);  query (0, 0, h), h ~ U(0, 0.8), distance h while h·max k ≤ 1
    crease   z = −s·|x|, s ~ U(0.2, 5)            saddle  z = −s·max(|x|, |y|)·clip(xy/w, −1, 1), s ~ U(0.01, 3)
    cusp     z = −s·√(x² + y²)                    corner  z = −s·max(|x|, |y|);  query (0, 0, t), t ~ U(−0.8, 0.8)

Points are drawn from the disc of radius 1, evenly by the area of the surface, then changed as a scan changes them (noise,
stray points), and only then the ball around the query is cut out, as it happens in use.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §3.1; released code `data/prepare_dataset_smooth.py`, `…_sharp.py`.
Departures: (1) the released set drops queries whose foot is not the origin, which is every one below a ridge; here they keep
their exact distance, and queries of creases and cusps also stand off the axis. (2) 6 to 128 random points instead of 128 of a
dense grid. (3) Noise of any strength up to σ = 0.1 with probability ½ instead of always 0.1 with 0.3; stray points lie inside
the ball (a ball query finds no others). (4) Rotations are even on SO(3); the released quaternions come from one octant.
(5) Heights end at 0.8 of the radius instead of 1: farther queries are never asked. (6) Three more kinds, `boundary` (a smooth
piece that ends), `layers` (a second sheet nearby) and `ends` (two sheets that end above each other); `PAPER` leaves them
out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from workbench.errors import UserError
from workbench.geometry.patches import SLOTS, Patches, make_patches

PAPER = {"smooth": 100.0, "crease": 30.0, "cusp": 18.0, "saddle": 18.0, "corner": 24.0}  # thousands of patches
KINDS = {
    "smooth": 0.36, "crease": 0.16, "cusp": 0.03, "saddle": 0.03, "corner": 0.04,
    "boundary": 0.18, "layers": 0.1, "ends": 0.1,
}  # fmt: skip
HIGHEST = 0.8  # queries farther from the surface than this share of the radius are not asked
LEAST = 6  # a query with fewer points in its ball is not answered


def draw(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def rotations(size: int, generator: torch.Generator) -> torch.Tensor:
    """`size` rotation matrices (size, 3, 3), even on SO(3): normalised Gaussian quaternions."""
    w, x, y, z = torch.nn.functional.normalize(torch.randn(4, size, generator=generator), dim=0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def disc(size: int, n: int, generator: torch.Generator, k: torch.Tensor | None = None) -> torch.Tensor:
    """Points (size, n, 2) in the unit disc, even by the area of z = ½(k₁x² + k₂y²) and denser towards a random side."""
    many = 2 * n
    radius, angle = draw(0, 1, (size, many), generator).sqrt(), draw(0, 2 * torch.pi, (size, many), generator)
    xy = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    weight = (xy * (0.7 * torch.randn(size, 1, 2, generator=generator))).sum(-1)
    if k is not None:
        weight = weight + 0.5 * torch.log1p((xy * k.unsqueeze(1)).square().sum(-1))
    noise = -torch.log(-torch.log(draw(1e-6, 1 - 1e-6, (size, many), generator)))
    best = (weight + noise).topk(n, 1).indices  # Gumbel trick: n of 2n without replacement, by weight
    return xy.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))


def wedge_distance(side: torch.Tensor, up: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Distance from (side, up) to the two half-lines from the origin that fall with `slope` on both sides."""
    best = None
    for sign in (1.0, -1.0):
        length = (1 + slope * slope).sqrt()
        along = ((sign * side - slope * up) / length).clamp(min=0)
        distance = ((side - along * sign / length).square() + (up + along * slope / length).square()).sqrt()
        best = distance if best is None else torch.minimum(best, distance)
    return best


def quadratic(xy: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Points (…, 3) of z = ½(k₁x² + k₂y²) over xy (B, n, 2), k (B, 2)."""
    return torch.cat([xy, 0.5 * (xy.square() * k.unsqueeze(1)).sum(-1, keepdim=True)], -1)


def _smooth(size: int, n: int, g: torch.Generator, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kinds smooth, boundary, layers and ends: points, queries, distances."""
    flat, ending = kind in ("layers", "ends"), kind in ("boundary", "ends")
    k = draw(-0.7, 0.7, (size, 2), g) if flat else draw(-1.5, 2.0, (size, 2), g)
    if ending:
        k = 0.6 * k
    xy = disc(size, n, g, k)
    h = HIGHEST * draw(0, 1, (size,), g) * (1 / k.amax(1).clamp(min=1.0))  # the origin stays the foot: h · max k ≤ 1
    across = torch.zeros(size)
    if ending:  # nothing beyond x = edge; the query stands above the origin, or off the edge at the origin
        beyond = draw(0, 1, (size,), g) < 0.6
        edge = torch.where(beyond, 0.0, draw(0, 0.9, (size,), g))
        x = torch.where(xy[..., 0] > edge[:, None], -xy[..., 0], xy[..., 0])
        xy = torch.stack([x, xy[..., 1]], -1)
        angle = draw(0, torch.pi / 2, (size,), g)
        across = torch.where(beyond, h * angle.sin(), 0.0)
        h = torch.where(beyond, h * angle.cos(), h)
    points = quadratic(xy, k)
    if flat:  # the second sheet is not nearer than the first: above it twice as high or more, or below
        h = 0.6 * h
        above = draw(0, 1, (size,), g) < 0.5
        gap = torch.where(above, 2 * h + draw(0, 0.6, (size,), g).clamp(min=0.05), -draw(0.15, 1, (size,), g))
        second = draw(0, 1, (size, n), g) < draw(0.3, 0.6, (size, 1), g)
        points[..., 2] += torch.where(second, gap[:, None], 0.0)
    query = torch.stack([across, torch.zeros(size), h], -1)
    return points, query, query.norm(dim=-1)


def _sharp(size: int, n: int, g: torch.Generator, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kinds crease, cusp, corner and saddle: points, queries, distances."""
    xy = disc(size, n, g)
    slope = draw(0.01, 3, (size,), g) if kind == "saddle" else draw(0.2, 5, (size,), g)
    up = draw(-HIGHEST, HIGHEST, (size,), g)
    side = torch.zeros(size) if kind in ("corner", "saddle") else draw(-0.6, 0.6, (size,), g)
    query = torch.stack([side, torch.zeros(size), up], -1)
    query = query / query.norm(dim=-1, keepdim=True).clamp(min=1.0)

    def height(at: torch.Tensor) -> torch.Tensor:
        x, y = at[..., 0].abs(), at[..., 1].abs()
        if kind == "crease":
            return -slope[:, None] * x
        if kind == "cusp":
            return -slope[:, None] * at.norm(dim=-1)
        fall = torch.maximum(x, y)
        return -slope[:, None] * (fall if kind == "corner" else fall * (10 * at[..., 0] * at[..., 1]).clamp(-1, 1))

    if kind == "saddle":
        line = torch.linspace(-1, 1, 81)
        grid = torch.cartesian_prod(line, line).expand(size, -1, 2)
        dense = torch.cat([grid, height(grid).unsqueeze(-1)], -1)
        label = torch.minimum((dense - query[:, None]).norm(dim=-1).amin(1), query[:, 2].abs())
    else:
        label = wedge_distance(query[:, 0], query[:, 2], slope)
    return torch.cat([xy, height(xy).unsqueeze(-1)], -1), query, label


def raw_patches(
    kind: str, size: int, n: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Surface points (size, n, 3), queries (size, 3) and exact distances (size,) of one kind, in radii, clean and unrotated.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"There is no kind of patch called {kind!r}; choose one of: {', '.join(KINDS)}.")
    make = _smooth if kind in ("smooth", "boundary", "layers", "ends") else _sharp
    return make(size, n, generator, kind)


def sample_patches(
    size: int,
    generator: torch.Generator,
    *,
    kinds: Mapping[str, float] = KINDS,
    points: tuple[int, int] = (20, 100),
    noise: float = 0.1,
    stray: float = 0.15,
) -> tuple[Patches, torch.Tensor]:
    """A batch of training patches with labels.

    Args:
        size: patches in the batch.
        generator: decides everything.
        kinds: share of each kind (any scale).
        points: least and most points on the disc; one number is drawn per batch, evenly in its logarithm.
        noise: largest standard deviation of the noise, in radii; half of the patches have none.
        stray: largest share of stray points; 60 % of the patches have none.

    Returns:
        The patches, turned at random, and the distances (size,) in the unit of each patch's unit ball.
    """
    low, high = points
    n = round(low * (high / low) ** float(torch.rand((), generator=generator)))
    names, shares = list(kinds), torch.tensor(list(kinds.values()), dtype=torch.float64)
    drawn = torch.multinomial(shares, size, replacement=True, generator=generator)
    made = [
        raw_patches(name, int((drawn == i).sum()), n, generator)
        for i, name in enumerate(names)
        if int((drawn == i).sum())
    ]
    cloud, query, label = (torch.cat(parts) for parts in zip(*made, strict=True))
    sigma = draw(0, noise, (size, 1, 1), generator) * (draw(0, 1, (size, 1, 1), generator) < 0.5)
    cloud = cloud + sigma * torch.randn(cloud.shape, generator=generator)
    share = draw(0, stray, (size, 1), generator) * (draw(0, 1, (size, 1), generator) < 0.4)
    lost = draw(0, 1, (size, n), generator) < share
    inside = torch.nn.functional.normalize(torch.randn(size, n, 3, generator=generator), dim=-1)
    inside = inside * draw(0, 1, (size, n, 1), generator) ** (1 / 3)
    cloud = torch.where(lost.unsqueeze(-1), query[:, None] + inside, cloud)
    turn = rotations(size, generator)
    cloud, query = cloud @ turn, (query[:, None] @ turn).squeeze(1)
    distance = (cloud - query[:, None]).norm(dim=-1)
    order = distance.argsort(1)[:, :SLOTS]
    count = (distance <= 1).sum(1).clamp(min=min(LEAST, n), max=SLOTS)
    cloud = cloud.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
    patches = make_patches(cloud, count, query)
    return patches, label * patches.scale
