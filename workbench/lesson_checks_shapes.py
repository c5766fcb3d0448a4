"""Checkers of the exercises of lesson 16, shapes from points. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.lessons import Check

POINTS, DISPLACEMENTS = 128, 128


def check_parameters(pointnet: Any, attention: Any, rest: Any) -> Check:
    """Exercise 1: how many parameters the parts of the lighter network have (features 16, hidden 32, width 32).

    Args:
        pointnet: one ResNet-PointNet: Linear 3 → 64, five blocks, Linear 32 → 16. A block is Linear 64 → 32, Linear 32 → 32 and
            a shortcut 64 → 32 without bias.
        attention: one attention: three Linear 16 → 32.
        rest: what the 184 593 leave when three PointNets and two attentions are taken away.
    """
    for name, value in (("pointnet", pointnet), ("attention", attention), ("rest", rest)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    block = (64 * 32 + 32) + (32 * 32 + 32) + 64 * 32
    right = (3 * 64 + 64) + 5 * block + (32 * 16 + 16)
    hints = {
        right + 5 * 32: "`pointnet` counts a bias for the shortcuts; they have none.",
        right - 5 * 64 * 32: "`pointnet` leaves the shortcuts out; 64 channels cannot be added to 32 without one.",
        right - 4 * block: "`pointnet` counts one block; there are five.",
        right - (3 * 64 + 64): "`pointnet` leaves out the first layer, which lifts three coordinates to 64 channels.",
        right - (32 * 16 + 16): "`pointnet` leaves out the last layer, from 32 to 16 channels.",
        right - 64 - 10 * 32 - 16: "`pointnet` counts weights only; every layer but the shortcuts has a bias.",
        3 * right: "`pointnet` counts all three networks; one is asked.",
    }
    if pointnet != right:
        return Check(
            False,
            hints.get(pointnet, "`pointnet` is off; count weights d_in · d_out and d_out biases, layer by layer."),
        )
    one = 3 * (16 * 32 + 32)
    if attention != one:
        known = {
            16 * 32 + 32: "`attention` counts one layer; query, key and value are three.",
            3 * 16 * 32: "`attention` counts weights only; the three layers have biases.",
            2 * one: "`attention` counts both attentions; one is asked.",
        }
        return Check(False, known.get(attention, "`attention` is off; three layers from 16 to 32 channels."))
    left = 184_593 - 3 * right - 2 * one
    if rest != left:
        known = {
            184_593 - right - one: "`rest`: take away three PointNets and two attentions, not one of each.",
            184_593 - 3 * right - one: "`rest`: there are two attentions, one of them in the denoising branch.",
        }
        return Check(
            False, known.get(rest, "`rest` is off; it is the total without three PointNets and two attentions.")
        )
    return Check(True, f"right: {left / 184_593:.0%} of the network are the layers that see the 128 sorted distances.")


def check_iso(smallest: Any, largest: Any) -> Check:
    """Exercise 2: for two sheets 0.05 apart on a grid of step 0.0165, the smallest and the largest `iso` that work.

    Args:
        smallest: below it the skin has holes: half the diagonal of a grid cell.
        largest: above it the skins of the two sheets touch.
    """
    for name, value in (("smallest", smallest), ("largest", largest)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            return Check(False, f"`{name}` is {value!r}; put a length there.")
    step, gap = 0.0165, 0.05
    if abs(smallest - step * 3**0.5 / 2) > 0.0003:
        hints = (
            (step, "`smallest` is one step; how far can a point of the surface be from every node of the grid?"),
            (
                step * 3**0.5,
                "`smallest` is the whole diagonal; a point in the middle of a cell is nearer to the corners.",
            ),
            (step / 2, "`smallest` is half an edge; the middle of a cell is farther from its corners than that."),
            (step * 2**0.5 / 2, "`smallest` is half the diagonal of a square; the cells are cubes."),
        )
        return Check(
            False, _near(smallest, hints, "`smallest` is off; take the middle of a cell and one of its corners.")
        )
    if abs(largest - gap / 2) > 0.0005:
        hints = (
            (gap, "`largest`: each sheet has its own skin, and they come from both sides."),
            (gap - step, "`largest`: the step does not matter here, only the distance between the sheets."),
            (gap / 4, "`largest` is too careful; one skin on each sheet faces the other, not two."),
        )
        return Check(
            False, _near(largest, hints, "`largest` is off; where do two skins meet that grow from both sheets?")
        )
    return Check(
        True, "right: between the two, 64 nodes are just enough for this pair. Nearer sheets need a finer grid."
    )


def check_nearest(answer: Callable[..., Any]) -> Check:
    """Exercise 3: how far the nearest point of a plane's sample is, seen from height h, when points stand s apart.

    Args:
        answer: function (h, s) → the error of the nearest-point distance for a query above the middle of a square of four
            points with side s, that is √(h² + s²/2) − h.
    """
    cases = ((0.1, 0.02), (0.0, 0.02), (0.01, 0.03))
    for h, s in cases:
        try:
            got = float(answer(h, s))
        except Exception as error:  # a participant's function may fail in any way; the hint must still come
            return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
        foot = s / 2**0.5
        right = float(np.hypot(h, foot) - h)
        if abs(got - right) > 1e-9:
            known = (
                (np.hypot(h, foot), "that is the distance itself; the error is what it has too much."),
                (np.hypot(h, s) - h, "the corner of the square is not a whole side away from its middle."),
                (np.hypot(h, s / 2) - h, "that is the middle of an edge; the corner is farther away."),
                (foot - h, "a right triangle, not a straight line: square, add, take the root."),
            )
            return Check(
                False, _near(got, known, f"for h = {h}, s = {s} your function gives {got:.4g}; draw the triangle.")
            )
    return Check(
        True,
        "right: far away the error falls as s²/4h, on the surface it is s/√2. Learning helps most where it is near.",
    )


def _near(value: float, hints: tuple[tuple[float, str], ...], otherwise: str) -> str:
    return next((text for known, text in hints if abs(value - known) <= 1e-3 * abs(known) + 1e-12), otherwise)
