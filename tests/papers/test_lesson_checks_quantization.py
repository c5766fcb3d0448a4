import re

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.figures import style
from workbench.lesson_checks_quantization import (
    check_bits,
    check_closed_form,
    check_compensate,
    check_dice,
    check_round,
    check_windows,
)
from workbench.papers import _quantization_figures as figures


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 4.5, 3.0), "`grid` is None"), ((True, 4.5, 3.0), "put a number"), ((4.0, 1, 1), "stored too"),
        ((4.25, 1, 1), "where is the zero"), ((4.0625, 1, 1), "where is the scale"), ((24.0, 1, 1), "64 weights share it"),
        ((9, 1, 1), "divided among"), ((4.3125, 4.25, 1), "this one has 32"), ((4.3125, 4.5625, 1), "a table needs none"),
        ((4.3125, 4, 1), "32 bits wide"), ((4.3125, 4.5, 3.0), "few is not none"), ((4.3125, 4.5, 3 + 19 / 64), "a whole row"),
        ((4.3125, 4.5, 5), "share one scale"),
    ],
)  # fmt: skip
def test_wrong_bits_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_bits(*answer)
    assert not check.passed and hint in check.text
    assert not re.search(r"4\.31|4\.5\b|3\.03", check.text)


def test_right_bits_pass():
    assert check_bits(4 + (16 + 4) / 64, 4 + 32 / 64, 3 + 19 / 576).passed


def rounded(weight, bits, steps=None, back=True):
    scale = (weight.max() - weight.min()) / (steps or 2**bits - 1)
    zero = torch.round(-weight.min() / scale)
    codes = (torch.round(weight / scale) + zero).clamp(0, 2**bits - 1)
    return scale * (codes - zero) if back else codes


def symmetric(weight, bits):
    scale = 2 * weight.abs().max() / (2**bits - 1)
    return scale * torch.round(weight / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, b: None, "not NoneType"), (lambda w, b: 1 / 0, "ZeroDivisionError"), (lambda w, b: w[:3], "shape (8,)"),
        (lambda w, b: rounded(w, b, back=False), "those are the codes"),
        (lambda w, b: rounded(w, b, steps=2**b), "one step fewer"), (symmetric, "symmetric grid"),
        (lambda w, b: w, "numbers are off"),
        (lambda w, b: (w.max() - w.min()) / 7 * rounded(w, b, back=False), "on the way back"),
    ],
)  # fmt: skip
def test_wrong_rounding_gets_its_hint(answer, hint):
    check = check_round(answer)
    assert not check.passed and hint in check.text


def test_right_rounding_passes():
    assert check_round(rounded).passed


def solved(weight, first, hessian, sign=-1.0):
    return weight[1:] + sign * (first - weight[0]) * torch.linalg.solve(hessian[1:, 1:], hessian[1:, 0])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, q, h: w, "shape (2,)"), (lambda w, q, h: w[1:], "not moved"),
        (lambda w, q, h: solved(w, q, h, 1.0), "wrong way"),
        (lambda w, q, h: w[1:] - (q - w[0]) * h[1:, 0], "help each other"),
        (lambda w, q, h: w[1:] - (q - w[0]) * h[1:, 0] / h.diagonal()[1:], "treated alone"),
        (lambda w, q, h: solved(w, q, h) - w[1:], "change alone"), (lambda w, q, h: 2 * w[1:], "derivative"),
    ],
)  # fmt: skip
def test_wrong_compensation_gets_its_hint(answer, hint):
    check = check_compensate(answer)
    assert not check.passed and hint in check.text


def test_right_compensation_passes():
    assert check_compensate(solved).passed


def variance(logits, other, t, half=2.0, power=2, square=False, warm=None):
    p = torch.softmax(logits / (t if warm is None else warm), -1)
    change = other - logits
    mean = 0 if square else (p * change).sum(-1, keepdim=True)
    return (p * (change - mean) ** 2).sum(-1) / (half * t**power)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b, t: variance(a, b, t, power=1), "squared"), (lambda a, b, t: variance(a, b, t, half=1.0), "one half"),
        (lambda a, b, t: variance(a, b, t, power=0), "missing in the denominator"),
        (lambda a, b, t: variance(a, b, t, square=True), "mean square"),
        (lambda a, b, t: variance(a, b, t, warm=1.0), "at temperature 1"),
        (lambda a, b, t: (b - a).var(-1, correction=0) / (2 * t**2), "counts alike"),
        (lambda a, b, t: a[:, 0], "numbers are off"),
    ],
)  # fmt: skip
def test_wrong_closed_forms_get_their_hint(answer, hint):
    check = check_closed_form(answer)
    assert not check.passed and hint in check.text


def test_right_closed_form_passes():
    assert check_closed_form(variance).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, t, g: ((x + g) / t).argmax(-1), "not the noise"), (lambda x, t, g: (x * t + g).argmax(-1), "multiplied"),
        (lambda x, t, g: x.argmax(-1), "greedy"), (lambda x, t, g: (torch.softmax(x / t, -1) + g).argmax(-1), "probabilities"),
        (lambda x, t, g: (x / t - g).argmax(-1), "taken off"), (lambda x, t, g: g.argmax(-1), "the largest of"),
    ],
)  # fmt: skip
def test_wrong_dice_get_their_hint(answer, hint):
    check = check_dice(answer)
    assert not check.passed and hint in check.text


def test_right_dice_pass():
    assert check_dice(lambda x, t, g: (x / t + g).argmax(-1)).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (24.0, "whole number"),
        (1536, "counts tokens"),
        (9, "widest"),
        (1, "64 directions"),
        (96, "not the least"),
        (5, "one direction"),
    ],
)
def test_wrong_windows_get_their_hint(answer, hint):
    check = check_windows(answer)
    assert not check.passed and hint in check.text
    assert "24" not in check.text.replace("24.0", "")


def test_right_windows_pass():
    assert check_windows(24).passed


def test_two_rules_by_hand():
    # first weight 1.45 → 1; its 0.45 goes to the second, 1.35 + 0.9 · 0.45 = 1.755 → 2.
    found = figures.two_rules((1.45, 1.35), 0.9)
    assert found["nearest"][0] == [1, 1] and found["GPTQ"][0] == [1, 2]
    assert found["nearest"][1] == pytest.approx(0.45**2 + 2 * 0.9 * 0.45 * 0.35 + 0.35**2)
    assert found["GPTQ"][1] == pytest.approx(0.45**2 - 2 * 0.9 * 0.45 * 0.65 + 0.65**2)
    assert figures.two_rules((1.45, 1.35), 0.0)["GPTQ"] == figures.two_rules((1.45, 1.35), 0.0)["nearest"]


def ladder_rows():
    row = {"group": 64, "source": "all", "windows": 24, "loss": 4.0, "half": 0.001, "tested": 72}
    return pd.DataFrame(
        [{**row, "method": method, "bits": bits, "size": bits + 0.3, "kl": kl, "gap": kl - 0.001}
         for method, bits, kl in (("rtn", 3, 0.1), ("rtn", 8, 1e-5), ("gptq", 3, 0.05), ("nf4", 4, 0.02))]
    )  # fmt: skip


def calibration_rows():
    row = {"method": "gptq", "bits": 3, "group": 64, "size": 3.3, "loss": 4.0, "gap": 0.0, "half": 0.01, "tested": 72}
    told = [("none", 0, 0.1), ("all", 8, 0.06), ("all", 24, 0.05), ("kjv", 8, 0.08), ("kjv", 24, 0.07)]
    return pd.DataFrame([{**row, "source": source, "windows": count, "kl": kl} for source, count, kl in told])


def test_figures_are_in_the_house_style_and_say_the_finding():
    weights = np.random.default_rng(0).normal(size=192)
    rows = ladder_rows()
    shown = {
        "staircase": figures.staircase(weights, 3, 64), "tables": figures.tables(weights, "nf4"),
        "int4": figures.tables(weights, "int4"),
        "two": figures.two_weights(), "ladder": figures.ladder(rows, rows.iloc[:1]),
        "calibration": figures.calibration(calibration_rows()),
        "loud": figures.loud_tokens({"a": [0.1, 0.9], "b": [0.01, 0.02]}), "gaps": figures.gaps(0.3, 0.2),
    }  # fmt: skip
    for fig in shown.values():
        style.check(fig)
        style.check(style.theme(fig, dark=True))
        assert style.alt(fig).endswith(".")
    assert "a up to 90.0%, b up to 2.0%" in style.alt(shown["loud"])
    first, star = shown["ladder"].data[0], shown["ladder"].data[-1]
    assert list(first.y) == [0.1, 1e-5] and list(first.error_y.array) == [0.001, 0.001] and star.marker.symbol == "star"
    assert first.text[1] == "loss -0.0010 nats" and "72 windows" in style.theme(shown["ladder"]).layout.meta["caption"]
    assert "all 0.0550, kjv 0.0750; rounding 0.1000" in style.alt(shown["calibration"])
    assert all(trace.error_x.array is not None for trace in shown["calibration"].data)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_both_areas_are_half_the_shift_squared_over_the_temperature(temperature):
    told = re.findall(r"\d\.\d+", style.alt(figures.gaps(0.4, temperature)))
    assert [float(x) for x in told] == pytest.approx([0.4**2 / (2 * temperature)] * 2, abs=2e-4)
