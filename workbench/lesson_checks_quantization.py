"""Checkers of the exercises of lessons 08 and 09, quantization. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.lessons import Check


def _number(name: str, value: Any) -> Check | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Check(False, f"`{name}` is {value!r}; put a number there.")
    return None


def _run(answer: Callable[..., Any], arguments: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """The answer's tensor, or the hint why there is none."""
    import torch

    try:
        got = answer(*(x.clone() if isinstance(x, torch.Tensor) else x for x in arguments))
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped: {type(error).__name__}: {error}")
    if not isinstance(got, torch.Tensor) or tuple(got.shape) != shape:
        what = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
        return Check(False, f"it must return a tensor of shape {shape}, not {what}.")
    return got


def check_bits(grid: Any, nf4: Any, row: Any) -> Check:
    """Lesson 08, exercise 1: stored bits per weight of three layouts.

    Args:
        grid: 4-bit codes, a 16-bit scale and a 4-bit zero point for every 64 weights.
        nf4: 4-bit codes and a 32-bit scale for every 64 weights.
        row: 3-bit codes, a 16-bit scale and a 3-bit zero point for a row of 576 weights.
    """
    for name, value in (("grid", grid), ("nf4", nf4), ("row", row)):
        if wrong := _number(name, value):
            return wrong
    if abs(grid - (4 + 20 / 64)) > 1e-3:
        hints = {
            4.0: "has the codes; scales and zero points are stored too.",
            4.25: "has codes and scales; where is the zero point?",
            4.0625: "has codes and zero points; where is the scale?",
            24.0: "counts the scale once for every weight; 64 weights share it.",
        }
        return Check(
            False, "`grid` " + hints.get(grid, "is off; codes, and what 64 weights share, divided among the 64.")
        )
    if abs(nf4 - 4.5) > 1e-3:
        hints = {4.25: "takes 16 bits for the scale; this one has 32.", 4.5625: "has a zero point; a table needs none."}
        return Check(
            False, "`nf4` " + hints.get(nf4, "is off; a table has no zero point, and the scale is 32 bits wide.")
        )
    if abs(row - (3 + 19 / 576)) > 1e-3:
        hints = {
            3 + 19 / 64: "shares the scale among 64 weights; here it is a whole row.",
            3.0: "leaves the shared bits out; few is not none.",
        }
        return Check(
            False,
            next(
                (f"`row` {hint}" for value, hint in hints.items() if abs(row - value) < 1e-3),
                "`row` is off; 576 weights share one scale and one zero point.",
            ),
        )
    return Check(
        True, "right: groups of 64 cost a third of a bit, whole rows next to nothing, and a 32-bit scale half a bit."
    )


def check_round(answer: Callable[..., Any]) -> Check:
    """Lesson 08, exercise 2: round a group of weights to an asymmetric grid and back.

    Args:
        answer: takes weights [n] and bits; returns ŵ [n].
    """
    import torch

    weight = torch.tensor([0.9, -0.31, 0.12, 0.0, -0.5, 0.47, 0.33, 0.08])
    bits, top = 3, 7
    got = _run(answer, (weight, bits), (8,))
    if isinstance(got, Check):
        return got
    scale = (weight.max() - weight.min()) / top
    zero = torch.round(-weight.min() / scale)
    right = scale * ((torch.round(weight / scale) + zero).clamp(0, top) - zero)
    if torch.allclose(got.float(), right, atol=1e-4):
        return Check(True, "right.")
    codes = (torch.round(weight / scale) + zero).clamp(0, top)
    step16 = (weight.max() - weight.min()) / (1 << bits)
    zero16 = torch.round(-weight.min() / step16)
    symmetric = 2 * weight.abs().max() / top
    known = {
        "those are the codes; turn them back into weights.": codes,
        "the zero point is not taken off again on the way back.": scale * codes,
        "there are 2^bits codes, but one step fewer between the first and the last.": step16
        * ((torch.round(weight / step16) + zero16).clamp(0, top) - zero16),
        "that is rounding without limits: codes have only so many bits; clamp them.": scale
        * torch.round(weight / scale),
        "that is the symmetric grid; here the range goes from the smallest weight to the largest.": symmetric
        * torch.round(weight / symmetric).clamp(-4, 3),
    }
    for hint, wrong in known.items():
        if torch.allclose(got.float(), wrong, atol=1e-4):
            return Check(False, hint)
    return Check(False, "the numbers are off; scale, zero point, codes clamped to 0 … 2^bits − 1, and back.")


def check_compensate(answer: Callable[..., Any]) -> Check:
    """Lesson 08, exercise 3: the best change of all other weights when the first one is rounded.

    Args:
        answer: takes weight [n], the rounded first weight, and H [n, n]; returns the other weights after the change [n − 1].
    """
    import torch

    weight = torch.tensor([1.4, 0.7, -0.2])
    hessian = torch.tensor([[1.0, 0.6, 0.3], [0.6, 1.0, 0.5], [0.3, 0.5, 2.0]])
    got = _run(answer, (weight, 1.0, hessian), (2,))
    if isinstance(got, Check):
        return got
    moved, rest, cross = 1.0 - weight[0], hessian[1:, 1:], hessian[1:, 0]
    best = torch.linalg.solve(rest, cross)
    if torch.allclose(got.float(), weight[1:] - moved * best, atol=1e-4):
        return Check(True, "right. GPTQ does this for every column, with one factorization for all of them.")
    known = {
        "the others have not moved at all.": weight[1:],
        "they move the wrong way: rounding down must be made up for by going up.": weight[1:] + moved * best,
        "the others help each other too: solve with their own part of H, not with the first column alone.": weight[1:]
        - moved * cross,
        "each is treated alone; the others' inputs go along with each other as well.": weight[1:]
        - moved * cross / rest.diagonal(),
        "that is the change alone; add it to the weights.": -moved * best,
    }
    for hint, wrong in known.items():
        if torch.allclose(got.float(), wrong, atol=1e-4):
            return Check(False, hint)
    return Check(False, "the numbers are off; set the derivative of Δ H Δᵀ to zero for the entries you may choose.")


def check_closed_form(answer: Callable[..., Any]) -> Check:
    """Lesson 09, exercise 1: the closed form of the KL divergence.

    Args:
        answer: takes logits [n, v], other logits [n, v] and a temperature; returns nats [n].
    """
    import torch

    from workbench.evaluation.decoding import closed_form_kl

    chance = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 12, generator=chance)
    other, temperature = logits + 0.5 + 0.3 * torch.randn(5, 12, generator=chance), 0.5
    got = _run(answer, (logits, other, temperature), (5,))
    if isinstance(got, Check):
        return got
    right = closed_form_kl(logits, other, temperature)
    if torch.allclose(got.float(), right, rtol=1e-3, atol=1e-5):
        return Check(True, "right.")
    change, p = other - logits, torch.softmax(logits / temperature, -1)
    square = (p * change**2).sum(-1)
    known = {
        "the temperature is squared in the denominator.": right * temperature,
        "the factor one half is missing.": 2 * right,
        "the temperature is missing in the denominator.": right * temperature**2,
        "that is the mean square, not the variance: a shift of all logits would count.": square / (2 * temperature**2),
        "the variance is under p at this temperature; yours is under p at temperature 1.": closed_form_kl(
            logits, other, 1.0
        )
        / temperature**2,
        "every token counts alike; the likely ones should count more.": change.var(-1, correction=0)
        / (2 * temperature**2),
    }
    for hint, wrong in known.items():
        if torch.allclose(got.float(), wrong, rtol=1e-3, atol=1e-5):
            return Check(False, hint)
    return Check(False, "the numbers are off; the variance of the logits' change under p_T, over 2 T².")


def check_dice(answer: Callable[..., Any]) -> Check:
    """Lesson 09, exercise 2: draw tokens with given Gumbel noise.

    Args:
        answer: takes logits [n, v], a temperature and noise [n, v]; returns token numbers [n].
    """
    import torch

    from workbench.evaluation.decoding_samples import choose_tokens, gumbel

    logits = 2 * torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    noise, temperature = gumbel(400, 12, 1, 0), 0.4
    got = _run(answer, (logits, temperature, noise), (400,))
    if isinstance(got, Check):
        return got
    right = choose_tokens(logits, noise, temperature)
    if torch.equal(got.long(), right):
        return Check(
            True, "right: a draw from softmax(ℓ/T), and the same draw for every model that gets the same noise."
        )
    known = {
        "the temperature has no say: only the logits are divided by it, not the noise.": (logits + noise).argmax(-1),
        "the logits are multiplied by the temperature.": choose_tokens(logits, noise, 1 / temperature),
        "the noise has no say: that is greedy decoding.": logits.argmax(-1),
        "the noise is added to probabilities; it belongs to the logits.": (
            torch.softmax(logits / temperature, -1) + noise
        ).argmax(-1),
        "the noise is taken off; add it.": choose_tokens(logits, -noise, temperature),
    }
    for hint, wrong in known.items():
        if torch.equal(got.long(), wrong):
            return Check(False, hint)
    return Check(False, "the tokens are others; the largest of ℓ/T + g.")


def check_windows(windows: Any) -> Check:
    """Lesson 09, exercise 3: fewest calibration windows of 64 tokens for a layer with 1536 inputs.

    Args:
        windows: the answer.
    """
    if isinstance(windows, bool) or not isinstance(windows, int):
        return Check(False, f"`windows` is {windows!r}; put a whole number there.")
    if windows == 1536 // 64:
        return Check(
            True,
            "right. That is the least at which H can be inverted at all; four times as many is a habit worth having.",
        )
    hints = {
        1536: "that counts tokens; a window has 64 of them.",
        576 // 64: "that is for the 576 wide inputs; the widest layer decides.",
        1: "one window has 64 tokens, so H would have at most 64 directions.",
        4 * 1536 // 64: "that is comfortable, not the least.",
    }  # fmt: skip
    return Check(
        False, hints.get(windows, "a token adds one direction to H; how many directions has it for 1536 inputs?")
    )
