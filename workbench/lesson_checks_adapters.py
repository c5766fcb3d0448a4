"""Checkers of the exercises of lesson 03, adapters. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check

D, K, N = 192, 24, 4  # size of a layer of the shipped model, width of the bottleneck, number of products


def check_counts(dense: Any, compacter: Any) -> Check:
    """Exercise 1: numbers of one adapter of width 24 behind a layer of size 192, the shared rule left out.

    Args:
        dense: for two full matrices with biases.
        compacter: for Kronecker sums with n = 4.
    """
    for name, value in (("dense", dense), ("compacter", compacter)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    if dense != 2 * D * K + K + D:
        hints = {
            2 * D * K: "`dense` has the two matrices; their biases are missing.",
            D * K + K: "`dense` counts the way down only; there is a way up too.",
            D * K: "`dense` counts one matrix; there are two, and two biases.",
        }
        return Check(False, hints.get(dense, "`dense` is off; it goes from the layer's size to the width and back."))
    if compacter != 2 * (D + K) + K + D:
        hints = {
            2 * (D + K): "`compacter` has the thin factors; the biases are missing.",
            2 * (D + K) + K + D + N**3: "`compacter` includes the shared rule; the whole model pays for it once.",
            2 * N * (D + K)
            + K
            + D: "`compacter` multiplies by n; each of the n pieces has a vector of size d/n, not d.",
        }
        return Check(
            False, hints.get(compacter, "`compacter` is off; n vectors of size d/n are how many numbers together?")
        )
    return Check(True, f"right: {dense / compacter:.1f} times fewer, and n does not even appear.")


def check_map(answer: Callable[..., Any]) -> Check:
    """Exercise 2: y = x H with H = Σ C_m ⊗ (s_m t_mᵀ).

    Args:
        answer: takes x (i,), C (n, n, n), s (n, i/n), t (n, o/n) and returns y (o,).
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    n, i, o = 3, 12, 6
    x, rule, s, t = (torch.randn(*shape, generator=generator) for shape in ((i,), (n, n, n), (n, i // n), (n, o // n)))
    try:
        got = answer(x, rule, s, t)
    except Exception as error:
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or got.shape != (o,):
        return Check(
            False, f"it must return a tensor of shape ({o},), not {getattr(got, 'shape', type(got).__name__)}."
        )
    wanted = x @ sum(torch.kron(rule[m], torch.outer(s[m], t[m])) for m in range(n))
    if torch.allclose(got, wanted, atol=1e-4):
        return Check(True, "right.")
    swapped = x @ sum(torch.kron(torch.outer(s[m], t[m]), rule[m]) for m in range(n))
    if torch.allclose(got, swapped, atol=1e-4):
        return Check(False, "the two factors are the wrong way round: the small matrix stands in front.")
    turned = x @ sum(torch.kron(rule[m].T.contiguous(), torch.outer(s[m], t[m])) for m in range(n))
    if torch.allclose(got, turned, atol=1e-4):
        return Check(False, "the small matrix is transposed: row a of it belongs to block a of x.")
    if torch.allclose(got, x @ torch.kron(rule[0], torch.outer(s[0], t[0])), atol=1e-4):
        return Check(False, "that is the first product; there are n of them to add up.")
    return Check(False, "the numbers are off; `torch.kron` and `torch.outer` do it in one line for each m.")


def check_rank(r: Any) -> Check:
    """Exercise 3: the RandLoRA rank whose count on a 64 × 64 layer is nearest to LoRA's at rank 4.

    Args:
        r: the answer.
    """
    if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= 64:
        return Check(False, f"`r` is {r!r}; put a whole number from 1 to 64 there.")

    def count(rank: int) -> int:
        return -(-64 // rank) * (rank + 64)

    best = min(range(1, 65), key=lambda rank: abs(count(rank) - 512))
    if r == best:
        return Check(True, f"right: {count(r)} numbers against 512.")
    if r == 4:
        return Check(False, "that is LoRA's rank; RandLoRA's means something else, see how its count changes with r.")
    return Check(False, f"{count(r)} numbers, {'more' if count(r) > 512 else 'fewer'} than 512; another r is nearer.")
