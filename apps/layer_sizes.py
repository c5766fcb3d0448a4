"""Parameters of depthwise layers, counted on real modules that hold no numbers (torch's meta device), and time here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.errors import UserError

LIMITS = {"channels": (1, 1024), "blocks": (1, 64), "size": (3, 63), "count": (1, 1000), "k": (1, 63)}
TIMED = {"channels": (1, 128), "side": (8, 64), "batch": (1, 32), "size": (3, 31), "count": (1, 300), "repeats": (1, 9)}
MOST = 2_000_000  # numbers of one input that is timed: channels · side² · batch


def check(values: dict[str, Any], limits: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Refuse a number outside its limits, and a side that has no middle.

    Raises:
        UserError: beginning with the value's name.
    """
    for name, (low, high) in limits.items():
        if not low <= values[name] <= high:
            raise UserError(f"{name} is {values[name]}; it takes a whole number from {low} to {high}.")
    for name in ("size", "k"):
        if name in values and values[name] % 2 == 0:
            raise UserError(f"{name} is {values[name]}; it takes an odd number, so that the kernel has a middle pixel.")
    if "side" in values and values["channels"] * values["side"] ** 2 * values["batch"] > MOST:
        raise UserError(
            f"batch is {values['batch']}: these pictures hold more than {MOST // 10**6} M numbers; take fewer."
        )
    return values


def sizes(
    channels: int, blocks: int, size: int, count: int, k: int, version: str, shared: bool
) -> list[dict[str, Any]]:
    """What the depthwise layers of one stage hold.

    Args:
        channels: of every layer. blocks: layers of the stage.
        size, count, version: of the DCLS kernels.
        k: side of the dense kernel beside it.
        shared: all blocks stand on one set of positions.

    Returns:
        Rows layer, weights, positions, widths, biases, total, window (pixels a kernel spans).
    """
    from torch import nn

    from workbench.layers.dcls import Dcls2d, share_positions

    with_places = nn.ModuleList(
        Dcls2d(channels, channels, count, size, groups=channels, version=version, device="meta") for _ in range(blocks)
    )
    if shared:
        share_positions(with_places)

    def dense(side: int, dilation: int = 1) -> nn.Module:
        one = {"groups": channels, "dilation": dilation, "device": "meta"}
        return nn.ModuleList(nn.Conv2d(channels, channels, side, **one) for _ in range(blocks))

    rows = [_row(f"DCLS, {count} in {size} × {size}", with_places, size), _row(f"{k} × {k}", dense(k), k)]
    if size != k:
        rows.append(_row(f"{size} × {size}", dense(size), size))
    equal = equal_side(rows[0], {"channels": channels, "blocks": blocks})
    if equal not in (k, size):
        rows.append(_row(f"{equal} × {equal}", dense(equal), equal))
    return rows


def equal_side(row: dict[str, Any], values: dict[str, Any]) -> int:
    """Side of the largest dense kernels that hold no more than a row's layers, bias included."""
    return int((row["total"] / (values["channels"] * values["blocks"]) - 1) ** 0.5)


def _row(name: str, layers: Any, window: int) -> dict[str, Any]:
    held: dict[str, int] = {"weight": 0, "P": 0, "SIG": 0, "bias": 0}
    for path, parameter in layers.named_parameters():  # shared ones appear once
        held[path.rpartition(".")[2]] += parameter.numel()
    return {
        "layer": name, "weights": held["weight"], "positions": held["P"], "widths": held["SIG"], "biases": held["bias"],
        "total": sum(held.values()), "window": window,
    }  # fmt: skip


def times(values: dict[str, int], seed: int = 0) -> pd.DataFrame:
    """Time of one forward and backward pass by layer, measured now; see `workbench.papers._dcls_lesson.step_times`."""
    from workbench.papers._dcls_lesson import step_times

    return step_times(**values, seed=seed)
