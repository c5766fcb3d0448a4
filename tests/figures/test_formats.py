from __future__ import annotations

import math

import pytest

from workbench.figures import formats as f

T = f.THIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8423, "0.842"),
        (12.34, "12.3"),
        (999.6, f"1{T}000"),
        (9.996, "10.0"),
        (12_345, f"12{T}300"),
        (-0.0521, "\u22120.0521"),
        (0, "0"),
        (1.234e-6, "1.23 × 10⁻⁶"),
        (9.999e-6, "1.00 × 10⁻⁵"),
        (3.1e12, "3.10 × 10¹²"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_number_keeps_three_digits(value, text):
    assert f.number(value) == text


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        ((0.842, 0.829, 0.855), "0.842 ± 0.013"),
        ((24.06, 21.73, 26.84), "24.1 ± 2.6"),
        ((24.06, 23.0, 29.0), "24.1 (23.0–29.0)"),
        ((0.1, -0.3, 0.2), "0.10 (\u22120.30 to 0.20)"),
        ((0.0, -0.3, 0.3), "0.00 ± 0.30"),
        ((5.0, 5.0, 5.0), "5.00"),
        ((5.0, math.nan, 6.0), "5.00"),
        ((math.nan, 1.0, 2.0), "–"),
        ((143_600.0, 121_000.0, 166_200.0), f"143{T}600 ± 22{T}600"),
    ],
)
def test_interval(triple, text):
    assert f.interval(*triple) == text


def test_units_are_decimal_and_always_there():
    assert f.size(4_620_000) == f"4.62{T}MB"
    assert f.size(1_240_000_000) == f"1.24{T}GB"
    assert f.size(999_600_000) == f"1.00{T}GB"
    assert f.size(None) == "–"
    assert f.parameters(1_200_000, 387_000_000) == f"1.20{T}M (0.310{T}%)"
    assert f.parameters(999_999) == f"1.00{T}M"
    assert f.parameters(58) == "58"
    assert f.count(135_430_272) == f"135{T}430{T}272"
    assert [f.seconds(s) for s in (0.314, 42.2, 130, 3900)] == ["0.31 s", "42 s", "2 min 10 s", "1 h 05 min"]
