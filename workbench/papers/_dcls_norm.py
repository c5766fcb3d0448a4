"""A batch norm for pixels with their channels last, where a ConvNeXt block has its layer norm (page `dcls`)."""

from __future__ import annotations

from torch import Tensor, nn


class PixelBatchNorm(nn.BatchNorm1d):
    """torch's batch norm over all but the last axis, (N, H, W, C) → (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)
