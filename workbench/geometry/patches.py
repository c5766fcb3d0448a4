"""What the network reads: the points inside a ball around a query, in one canonical form, for training and for use alike.

A patch is a query q and the n ≤ 128 points nearest to be seen, with everything that must not matter taken out:

    order     points are sorted by their distance to q, so any order of the cloud gives the same patch
    number    more than 128 points: farthest-point sampling from the one nearest to q; fewer: points are repeated
    place     minus q: the query is the origin
    size      times `scale` = 1 / (largest distance from q), so everything lies in the unit ball
    turn      to the principal axes of the points, the query above: a turned cloud has the same patches

Repeating is the only padding rule here. It is stored without the repeats: slot j of 128 holds point ⌊j·n/128⌋, and rows of a
batch with fewer points than the longest are filled with copies of their last point, which a max-pool cannot see.

Source: Hu et al., "A Lightweight UDF Learning Framework for 3D Reconstruction Based on Local Shape Functions", CVPR 2025,
arXiv 2407.01330, §3.2; released code `src/eval.py`, `data/prepare_dataset_*.py`.
Departures: the released code pads by repetition in training and by the mean in use, and leaves the order of points as it comes.
It also learns from random turns what a turn is (`turn=False`), and its origin is the mean of {q, points} (`origin="mean"`), so
that the features of points do not know where q is. With axes and origin built in, a thousandth of its training will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.errors import choose

SLOTS = 128  # points a patch can hold; the network reads this many distances


@dataclass(frozen=True)
class Patches:
    """A batch of patches.

    Args:
        points: (B, N, 3), normalised, sorted by distance to the query; rows beyond `count` repeat the last point.
        query: (B, 3), normalised.
        count: (B,), distinct points of each patch, 1 … N, N ≤ 128.
        scale: (B,), what lengths of the cloud were multiplied by.
    """

    points: torch.Tensor
    query: torch.Tensor
    count: torch.Tensor
    scale: torch.Tensor

    def __len__(self) -> int:
        return len(self.count)

    @property
    def mask(self) -> torch.Tensor:
        """(B, N), true for points and false for their copies."""
        return torch.arange(self.points.shape[1], device=self.count.device) < self.count[:, None]

    @property
    def slots(self) -> torch.Tensor:
        """(B, 128), which point each of the 128 slots holds."""
        return slots(self.count)


def slots(count: torch.Tensor) -> torch.Tensor:
    """Which of `count` points each of the 128 slots holds: every point is repeated 128/n times, rounded down or up.

    Args:
        count: (B,), from 1 to 128.
    """
    return torch.arange(SLOTS, device=count.device) * count[:, None] // SLOTS


def farthest_points(points: torch.Tensor, count: torch.Tensor, keep: int, start: torch.Tensor) -> torch.Tensor:
    """Farthest-point sampling of all patches at once.

    Args:
        points: (B, N, 3).
        count: (B,), only the first `count` points of a row may be taken; at least `keep`.
        keep: points to take from each row.
        start: (B,), index of the first one.

    Returns:
        (B, keep) indices in the order taken: each is the one farthest from all before it (the first one of equals).
    """
    rows = torch.arange(len(points), device=points.device)
    free = torch.arange(points.shape[1], device=points.device) < count[:, None]
    nearest = torch.where(free, torch.inf, -1.0).to(points.dtype)
    chosen = torch.empty(len(points), keep, dtype=torch.long, device=points.device)
    current = start
    for i in range(keep):
        chosen[:, i] = current
        distance = (points - points[rows, current].unsqueeze(1)).square().sum(-1)
        nearest = torch.minimum(nearest, distance)  # stays -1 on rows' padding
        nearest[rows, current] = -1.0
        current = nearest.argmax(1)
    return chosen


def principal_axes(points: torch.Tensor, query: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """A frame that turns with the patch: columns are the axes of largest, middle and smallest spread of its points.

    The third axis points from the points to the query; the first one to the side where the points are skewed; the second one
    completes a right-handed frame.

    Args:
        points: (B, N, 3).
        query: (B, 3).
        real: (B, N, 1), 1 for points and 0 for copies.

    Returns:
        (B, 3, 3) rotations; `points @ axes` are coordinates in the frame.
    """
    middle = (points * real).sum(1) / real.sum(1)
    local = (points - middle[:, None]) * real
    axes = torch.linalg.eigh(local.transpose(1, 2) @ local)[1].flip(-1)  # ascending eigenvalues, turned round
    up = ((query - middle)[:, None] @ axes[..., 2:]).squeeze(1)
    skew = (local @ axes[..., :1]).pow(3).sum(1)
    normal = torch.where(up < 0, -axes[..., 2], axes[..., 2])
    first = torch.where(skew < 0, -axes[..., 0], axes[..., 0])
    return torch.stack([first, torch.linalg.cross(normal, first), normal], -1)


def make_patches(
    points: torch.Tensor, count: torch.Tensor, query: torch.Tensor, *, turn: bool = True, origin: str = "query"
) -> Patches:
    """Bring raw neighbours into the canonical form.

    Args:
        points: (B, N, 3), neighbours of each query in any order and unit; rows beyond `count` hold anything finite.
        count: (B,), at least 1.
        query: (B, 3), in the same unit.
        turn: to the principal axes; without, as the released code has it, directions stay those of the cloud.
        origin: "query", or "mean" of query and points as the released code has it.

    Returns:
        Patches with at most 128 points each.
    """
    rows = torch.arange(len(points), device=points.device)[:, None]
    distance = (points - query[:, None]).square().sum(-1)
    away = torch.arange(points.shape[1], device=points.device) >= count[:, None]
    order = distance.masked_fill(away, torch.inf).argsort(dim=1, stable=True)
    points = points[rows, order]
    crowded = count > SLOTS
    if crowded.any():
        picked = (
            farthest_points(points[crowded], count[crowded], SLOTS, torch.zeros_like(count[crowded])).sort(1).values
        )
        held = points[crowded][torch.arange(len(picked), device=picked.device)[:, None], picked]
        points = points[:, :SLOTS].clone()
        points[crowded] = held
        count = count.clamp(max=SLOTS)
    longest = int(count.max())
    last = torch.minimum(torch.arange(longest, device=count.device)[None], count[:, None] - 1)
    points = points[rows, last]
    real = (torch.arange(longest, device=count.device) < count[:, None]).unsqueeze(-1)
    if choose("origin", origin, ("query", "mean")) == "query":
        centre = query
    else:
        centre = ((points * real).sum(1) + query) / (count[:, None] + 1)
    points, query = points - centre[:, None], query - centre
    reach = torch.maximum(points.square().sum(-1).amax(1), query.square().sum(-1)).sqrt()
    scale = 1 / reach.clamp(min=torch.finfo(points.dtype).tiny ** 0.5)
    points, query = points * scale[:, None, None], query * scale[:, None]
    if turn:
        axes = principal_axes(points, query, real.to(points.dtype))
        points, query = points @ axes, (query[:, None] @ axes).squeeze(1)
    return Patches(points, query, count, scale)
