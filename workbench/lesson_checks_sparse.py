"""Checkers of the exercises of lesson 06, sparse fine-tuning. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check


def check_budget(deltas: Any, share: Any) -> Check:
    """Exercise 1: deltas that match LoRA of rank 4 on one 192 × 512 matrix, and their share of its entries in percent.

    Args:
        deltas: how many.
        share: percent.
    """
    d_in, d_out, rank = 192, 512, 4
    for name, value in (("deltas", deltas), ("share", share)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Check(False, f"`{name}` is {value!r}; put a number there.")
    right = rank * (d_in + d_out)
    if deltas != right:
        hints = {
            rank * d_in: "`deltas` counts one thin matrix; LoRA has two.",
            rank * d_out: "`deltas` counts one thin matrix; LoRA has two.",
            d_in + d_out: "`deltas` is what rank one trains.",
            d_in * d_out: "`deltas` is every entry of the matrix; LoRA trains two thin ones.",
            rank * d_in * d_out: "`deltas` multiplies the sides; a thin matrix has rank times one side.",
        }
        return Check(False, hints.get(int(deltas), "`deltas` is off; LoRA trains a (4, d_in) and a (d_out, 4) matrix."))
    wanted = 100 * right / (d_in * d_out)
    if abs(share - wanted) < 0.02:
        return Check(True, f"right: {wanted:.1f} percent of the entries, and the change can have full rank.")
    if abs(100 * share - wanted) < 0.02:
        return Check(False, "`share` is a fraction; give percent.")
    return Check(False, "`share` is off; deltas over all entries of the matrix, in percent.")


def check_gathered(answer: Callable[..., Any]) -> Check:
    """Exercise 2: the gradient of the values.

    Args:
        answer: takes grad (n, d_out), x (n, d_in) and flat positions (k,); returns the gradient of the values (k,).
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    grad, x = torch.randn(6, 5, generator=generator), torch.randn(6, 4, generator=generator)
    places = torch.tensor([1, 4, 7, 13, 18])
    try:
        got = answer(grad.clone(), x.clone(), places.clone())
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor):
        return Check(False, f"it returned {type(got).__name__}; return a tensor with one number per position.")
    if got.shape != places.shape:
        return Check(
            False, f"the result has shape {tuple(got.shape)}, wanted {tuple(places.shape)}: one number per position."
        )
    dense = grad.T @ x
    if torch.allclose(got, dense.reshape(-1)[places], rtol=1e-4, atol=1e-5):
        return Check(True, "right: single entries of the dense gradient, which itself is not needed afterwards.")
    if torch.allclose(got, (x.T @ grad).reshape(-1)[places], rtol=1e-4, atol=1e-5):
        return Check(
            False, "that is the transposed gradient: position p means row p // d_in of a (d_out, d_in) matrix."
        )
    if torch.allclose(got, dense.reshape(-1)[places] / len(x), rtol=1e-4, atol=1e-5):
        return Check(False, "the mean over the rows was taken; they are summed, the mean is in grad already.")
    return Check(False, "the numbers are off; entry (row, column) is the sum over n of grad[n, row] · x[n, column].")


def check_exchange(answer: Callable[..., Any]) -> Check:
    """Exercise 3: which positions train after a move.

    Args:
        answer: takes values (k,), positions (k,), candidates (c,), score (c,) and a share; returns the set of positions.
    """
    import torch

    cases = (
        ([5.0, 0.1, -0.2, 3.0], [10, 11, 12, 13], [20, 21, 22], [1.0, 3.0, 2.0], 0.5, {10, 13, 21, 22}),
        ([5.0, 0.1, -0.2, 3.0], [10, 11, 12, 13], [13, 21, 22], [9.0, 3.0, 2.0], 0.5, {10, 13, 21, 22}),
        ([-5.0, 0.1, 0.2, -3.0], [10, 11, 12, 13], [11, 22, 23], [9.0, 3.0, 2.0], 0.5, {10, 13, 11, 22}),
    )
    for values, places, candidates, score, share, wanted in cases:
        parts = torch.tensor(values), torch.tensor(places), torch.tensor(candidates), torch.tensor(score)
        try:
            got = {int(place) for place in answer(*parts, share)}
        except Exception as error:
            return Check(False, f"your function stopped: {type(error).__name__}: {error}")
        if got == wanted:
            continue
        if len(got) != len(places):
            return Check(
                False, f"{len(got)} positions train afterwards instead of {len(places)}: as many enter as leave."
            )
        if got == set(places):
            return Check(False, "nothing moved; the share says how many of the deltas leave.")
        if not got >= {places[0], places[3]}:
            return Check(False, "a large delta was dropped; the smallest leave, and the sign does not matter.")
        return Check(False, "the wrong candidates came in; the largest scores that are not still training.")
    return Check(True, "right: the smallest leave, the most wanted enter, and what does both stays.")
