"""Checkers of the exercises of lesson 17, FastEdit. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.lessons import Check

if TYPE_CHECKING:
    import torch

RANK, WORDS = 16, 768  # FastEdit's rank; numbers per feature of CLIP ViT-L/14
BLOCKS = {320: 5, 640: 5, 1280: 6}  # attention blocks of Stable Diffusion 1 by width


def _block(width: int) -> int:
    return RANK * (14 * width + 2 * WORDS)


def check_trained(block: Any, whole: Any) -> Check:
    """Exercise 1: numbers that LoRA of rank 16 trains in one block of width 320, and in the whole of Stable Diffusion 1.

    Args:
        block: self-attention and cross-attention of one block.
        whole: five blocks of width 320, five of 640, six of 1280.
    """
    for name, value in (("block", block), ("whole", whole)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    if block != _block(320):
        hints = {
            RANK * 8 * 320: "`block` counts self-attention only; the block also attends to the feature.",
            RANK
            * 16
            * 320: "`block` takes all eight layers as 320 → 320; two of them read the feature, which is wider.",
            RANK * (7 * 320 + WORDS): "`block` counts one factor of each pair; LoRA has an A *and* a B.",
            _block(320) // RANK: "`block` is that of rank 1.",
            RANK
            * (
                12 * 320 + 2 * WORDS
            ): "`block` forgets where keys and values of the feature go: they have an output too.",
        }
        return Check(
            False,
            hints.get(block, "`block` is off; list the eight layers with d_in and d_out, and sum r (d_in + d_out)."),
        )
    if whole != sum(count * _block(width) for width, count in BLOCKS.items()):
        hints = {
            16 * block: "`whole` takes all sixteen blocks as 320 wide.",
            sum(
                _block(width) for width in BLOCKS
            ): "`whole` counts each width once; how many blocks of each are there?",
        }
        return Check(False, hints.get(whole, "`whole` is off; the same sum with 320, 640 and 1280, times 5, 5 and 6."))
    return Check(True, "right: 0.37 % of the U-Net's 859 520 964 numbers, which is the share the paper names.")


def check_mix(answer: Callable[..., torch.Tensor]) -> Check:
    """Exercise 2: the token at η, with the sentence's feature brought to the picture's length first.

    Args:
        answer: function (e_picture, e_text, eta) → token.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 1, 64, generator=generator) * 3
    text = torch.randn(1, 1, 64, generator=generator)
    try:
        got = {eta: answer(picture, text, eta) for eta in (0.0, 0.3, 1.0)}
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
    for eta, token in got.items():
        if not isinstance(token, torch.Tensor) or token.shape != picture.shape:
            shape = tuple(token.shape) if isinstance(token, torch.Tensor) else type(token).__name__
            return Check(False, f"at η = {eta:g} the result is {shape}, wanted a tensor of {tuple(picture.shape)}.")
    scaled = text * picture.norm() / text.norm()
    if torch.allclose(got[1.0], picture, atol=1e-4) and torch.allclose(got[0.0], scaled, atol=1e-4):
        return Check(False, "the ends are exchanged: η = 0 is the picture.")
    if not torch.allclose(got[0.0], picture, atol=1e-4):
        return Check(False, "at η = 0 the token must be the picture's feature, untouched.")
    if torch.allclose(got[1.0], text, atol=1e-4):
        return Check(False, "at η = 1 the sentence's feature still has its own length; compare the two norms.")
    if not torch.allclose(got[1.0], scaled, rtol=1e-3, atol=1e-4):
        return Check(False, "at η = 1 the token must point where the sentence points, and be as long as the picture's.")
    if not torch.allclose(got[0.3], 0.7 * picture + 0.3 * scaled, rtol=1e-3, atol=1e-4):
        return Check(
            False, "both ends are right, the way between them is not: at η = 0.3 take seven tenths of one end."
        )
    return Check(True, "right: a straight line from the picture to the words, between two points of equal length.")


def check_passes(plain: Any, guided: Any) -> Check:
    """Exercise 3: forward passes through the U-Net for one edit, 50 steps of fitting and 20 of painting.

    Args:
        plain: at guidance 1.
        guided: at guidance 3.
    """
    for name, value in (("plain", plain), ("guided", guided)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    if plain != 70:
        hints = {50: "`plain` counts the fit only; the picture has to be painted, too.",
                 90: "`plain` asks for the empty token as well; at guidance 1 that answer would cancel.",
                 120: "`plain`: backward passes are not forward passes."}  # fmt: skip
        return Check(False, hints.get(plain, "`plain` is off; every step of either kind is one pass."))
    if guided != 90:
        hints = {70: "`guided` is as `plain`; what does guidance have to know besides the answer with the token?",
                 140: "`guided` doubles the fit as well; guidance belongs to painting.",
                 110: "`guided` grows with guidance; it is one extra question per step, however large."}  # fmt: skip
        return Check(False, hints.get(guided, "`guided` is off; only painting asks twice."))
    return Check(True, "right: guidance costs one more pass per painted step and nothing while fitting.")
