"""LoSF: a network that reads the unsigned distance from a query to a surface off the points in a ball around the query.

    F_p, F_v, F_n = three ResNet-PointNets, on the points p_i, on the vectors p_i − q, and on the points again
    a = softmax((W_q F_v)·(W_k F_p,i) / √d) · (W_v F_p,i)       one query per patch, over its own points i
    δ = MLP(attention of F_n with itself ⊕ ‖p_j − q‖)            128 displacements of the distances
    UDF = Softplus(MLP(MLP(a) ⊕ (‖p_j − q‖ + δ_j)))              j = 1 … 128 slots, ascending distance

`LoSFNet()` has 653 121 parameters, `LoSFNet(**LIGHT)` 184 593, as counted in the released code. A block's Linear on
[x_i ⊕ max_i x_i] is computed as W_a x_i + W_b max x: the same numbers with two fifths less work.

Source: Hu et al., CVPR 2025, arXiv 2407.01330, §3.3; released code `src/models/`.
Departures, each with the released behaviour under a name: the released attention pools F_p and F_v first and then attends over
the *other queries of the batch* (`attention="batch"`); its δ is computed and never added (`denoise="inert"`). Distances are
sorted, so a prediction depends neither on its batch nor on the order of points; the released slots are in the cloud's order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import leaky_relu, linear

from workbench.errors import choose
from workbench.geometry.patches import SLOTS, Patches

FULL: dict[str, int] = {"features": 64, "hidden": 64, "width": 128}
LIGHT: dict[str, int] = {"features": 16, "hidden": 32, "width": 32}
ATTENTION, DENOISE = ("points", "batch"), ("added", "inert")


class ResidualBlock(nn.Module):
    """Two fully connected layers beside a shortcut, d_in → d_out; starts as its shortcut."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.fc_0 = nn.Linear(d_in, d_out)
        self.fc_1 = nn.Linear(d_out, d_out)
        self.shortcut = nn.Linear(d_in, d_out, bias=False)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: torch.Tensor, pooled: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, d_in) → (B, N, d_out); with `pooled` (B, 1, d_in/2), x is the first half of the features."""
        if pooled is None:
            hidden, direct = self.fc_0(leaky_relu(x)), self.shortcut(x)
        else:
            half = x.shape[-1]
            own, shared = self.fc_0.weight[:, :half], self.fc_0.weight[:, half:]
            hidden = linear(leaky_relu(x), own) + linear(leaky_relu(pooled), shared, self.fc_0.bias)
            direct = linear(x, self.shortcut.weight[:, :half]) + linear(pooled, self.shortcut.weight[:, half:])
        return direct + self.fc_1(leaky_relu(hidden))


class ResNetPointNet(nn.Module):
    """Features of every point, knowing the whole patch, and of the patch itself."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc_pos = nn.Linear(3, 2 * hidden)
        self.blocks = nn.ModuleList(ResidualBlock(2 * hidden, hidden) for _ in range(5))
        self.fc_c = nn.Linear(hidden, features)

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, 3) → (B, N, features) of points and (B, features) of the patch; repeated points change nothing."""
        x = self.blocks[0](self.fc_pos(points))  # (B, N, hidden)
        for block in self.blocks[1:]:
            x = block(x, x.amax(1, keepdim=True))
        return self.fc_c(leaky_relu(x)), self.fc_c(leaky_relu(x.amax(1)))


class Attention(nn.Module):
    """One head, no output projection."""

    def __init__(self, d_in: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(d_in, width) for _ in range(3))

    def forward(self, asking: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from `asking` (B, d) over `seen`: its own (B, N, d) under `mask`, or without mask over the batch (B, d)."""
        q, k, v = self.query(asking), self.key(seen), self.value(seen)
        if mask is None:
            return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v
        scores = (k * q.unsqueeze(1)).sum(-1) / q.shape[-1] ** 0.5  # (B, N)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return (weights.unsqueeze(-1) * v).sum(1)


class LoSFNet(nn.Module):
    """The distance network.

    Args:
        features: channels that each PointNet gives.
        hidden: channels inside the PointNets.
        width: channels of the attention and the layers after it.
        attention: "points" attends over the patch's own points; "batch" is the released code, over the batch.
        denoise: "added" adds the displacements to the distances; "inert" is the released code, they change nothing.
    """

    def __init__(
        self,
        features: int = 64,
        hidden: int = 64,
        width: int = 128,
        *,
        attention: str = "points",
        denoise: str = "added",
    ) -> None:
        super().__init__()
        self.attention = choose("attention", attention, ATTENTION)
        self.denoise = choose("denoising", denoise, DENOISE)
        self.settings: dict[str, Any] = {"features": features, "hidden": hidden, "width": width}
        self.points_net, self.vectors_net, self.denoise_net = (ResNetPointNet(features, hidden) for _ in range(3))
        self.cross, self.self_attention = Attention(features, width), Attention(features, width)
        self.after = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(width, width), nn.LeakyReLU())))
        wide = width + SLOTS
        self.displace = nn.Sequential(
            nn.Linear(wide, wide), nn.LeakyReLU(), nn.Linear(wide, wide), nn.LeakyReLU(), nn.Linear(wide, SLOTS)
        )
        self.output = nn.Sequential(nn.Linear(wide, wide), nn.LeakyReLU(), nn.Linear(wide, 1), nn.Softplus())

    def forward(self, patches: Patches) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (B,) and displacements (B, 128), both in the unit of the patches' unit ball."""
        vectors = patches.points - patches.query.unsqueeze(1)  # (B, N, 3)
        points, whole = self.points_net(patches.points)
        _, asking = self.vectors_net(vectors)
        noisy, noisy_whole = self.denoise_net(patches.points)
        distances = vectors.square().sum(-1).sqrt().gather(1, patches.slots)  # (B, 128)
        if self.attention == "batch":
            read, noise = self.cross(asking, whole), self.self_attention(noisy_whole, noisy_whole)
        else:
            read, noise = (
                self.cross(asking, points, patches.mask),
                self.self_attention(noisy_whole, noisy, patches.mask),
            )
        moved = self.displace(torch.cat([noise, distances], 1))
        if self.denoise == "added":
            distances = distances + moved
        read = self.after(leaky_relu(read))
        return self.output(torch.cat([read, distances], 1)).squeeze(1), moved
