"""Distances without learning, on the same patches: to the nearest point, and to a quadratic fitted to the points.

    nearest point   min_i ‖p_i − q‖: always too large by what lies between the points
    quadratic fit   principal axes of the patch, z = c₀ + c₁x + c₂y + c₃x² + c₄xy + c₅y² by least squares, then the foot of q
                    on it by eight Gauss–Newton steps: exact on smooth surfaces without noise, misled by edges and stray points

Source: the two baselines that Hu et al. (CVPR 2025, arXiv 2407.01330, §1–2) argue against; least squares as in Levin,
"Mesh-independent surface interpolation" (moving least squares) 2003, with equal weights.
"""

from __future__ import annotations

import torch

from workbench.geometry.patches import Patches


def nearest_patches(patches: Patches) -> torch.Tensor:
    """Distance from each query to its nearest point (B,), in the unit of the unit ball."""
    return (patches.points[:, 0] - patches.query).norm(dim=-1)


def fit_patches(patches: Patches, steps: int = 8) -> torch.Tensor:
    """Distance from each query to the quadratic fitted to its patch.

    Args:
        patches: at least 6 points each.
        steps: Gauss–Newton steps towards the foot.

    Returns:
        (B,), in the unit of the unit ball.
    """
    points, real = patches.points.double(), patches.mask.double().unsqueeze(-1)
    number = patches.count.double()[:, None]
    centre = (points * real).sum(1) / number
    local = (points - centre[:, None]) * real
    _, axes = torch.linalg.eigh(local.transpose(1, 2) @ local)  # ascending: the first axis is the normal
    local = local @ axes
    query = ((patches.query.double() - centre)[:, None] @ axes).squeeze(1)
    z, x, y = local.unbind(-1)
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1) * real
    normal = terms.transpose(1, 2) @ terms + 1e-9 * torch.eye(6, dtype=terms.dtype)
    c = torch.linalg.solve(normal, terms.transpose(1, 2) @ z.unsqueeze(-1)).squeeze(-1).unbind(-1)
    qz, qx, qy = query.unbind(-1)
    u, v = qx.clamp(-1, 1), qy.clamp(-1, 1)

    def height(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return c[0] + c[1] * u + c[2] * v + c[3] * u * u + c[4] * u * v + c[5] * v * v

    best = ((u - qx) ** 2 + (v - qy) ** 2 + (height(u, v) - qz) ** 2).sqrt()
    for _ in range(steps):
        slope_u, slope_v = c[1] + 2 * c[3] * u + c[4] * v, c[2] + c[4] * u + 2 * c[5] * v
        miss = height(u, v) - qz
        du, dv = qx - u - slope_u * miss, qy - v - slope_v * miss
        det = 1 + slope_u**2 + slope_v**2  # of J J' for J = [[1, 0, slope_u], [0, 1, slope_v]]
        step_u = ((1 + slope_v**2) * du - slope_u * slope_v * dv) / det
        step_v = ((1 + slope_u**2) * dv - slope_u * slope_v * du) / det
        u, v = (u + step_u).clamp(-1, 1), (v + step_v).clamp(-1, 1)
        best = torch.minimum(best, ((u - qx) ** 2 + (v - qy) ** 2 + (height(u, v) - qz) ** 2).sqrt())
    return best.to(patches.points.dtype)
