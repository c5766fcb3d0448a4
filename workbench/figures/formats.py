"""How numbers are written everywhere: three significant digits, thin-space thousands, the unit always, `0.842 ± 0.013`.

Bytes are decimal (1 MB = 10⁶ bytes, 1 GB = 10⁹), times are written as people say them, parameters as `1.2 M (0.31 %)`.
A value that is absent or not finite is written as an en dash. Plotly gets the same manners through `SEPARATORS`.
"""

from __future__ import annotations

import math

from workbench.progress import span

THIN = "\u2009"  # thin space: between thousands, and between a number and its unit
MINUS = "\u2212"
ABSENT = "–"
SEPARATORS = "." + THIN  # plotly: decimal sign, then the sign between thousands
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def fixed(value: float, decimals: int) -> str:
    """`value` with that many decimals, thin-space thousands and a true minus sign."""
    text = f"{abs(value):,.{max(0, decimals)}f}".replace(",", THIN)
    return (MINUS if value < 0 and text.strip("0.") else "") + text


def number(value: float | None, digits: int = 3) -> str:
    """A measured value to `digits` significant digits: `0.842`, `12.3`, `4 620`, `1.2 × 10⁻⁵`.

    Args:
        value: the number; None, NaN and infinities are written as an en dash.
        digits: significant digits kept.
    """
    if _missing(value):
        return ABSENT
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - exponent)
    exponent = math.floor(math.log10(abs(rounded)))  # 9.996 becomes 10.0: one decimal fewer
    if exponent < -4 or exponent > 8:
        mantissa = fixed(rounded / 10.0**exponent, digits - 1)
        return f"{mantissa} × 10{str(exponent).translate(_SUPERSCRIPT)}"
    return fixed(rounded, digits - 1 - exponent)


def count(value: float | None) -> str:
    """An exact whole number: `135 430 272`."""
    return ABSENT if _missing(value) else fixed(round(value), 0)


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """An estimate with its 95 % interval: `0.842 ± 0.013`, or `24.1 (21.9–27.8)` where the two sides differ by over 20 %.

    The half width keeps two significant digits and decides the decimals of everything else.
    """
    if _missing(value):
        return ABSENT
    if _missing(low) or _missing(high):
        return number(value)
    half = (high - low) / 2
    if half <= 0:
        return number(value)
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    if abs((high - value) - (value - low)) <= 0.2 * half * 2:
        return f"{fixed(value, decimals)} ± {fixed(half, decimals)}"
    join = "–" if low >= 0 else " to "
    return f"{fixed(value, decimals)} ({fixed(low, decimals)}{join}{fixed(high, decimals)})"


def size(n_bytes: float | None) -> str:
    """Bytes as people read them: `4.62 MB`, from 10⁹ on `1.24 GB`."""
    if _missing(n_bytes):
        return ABSENT
    if abs(n_bytes) >= 999.5e6:
        return f"{number(n_bytes / 1e9)}{THIN}GB"
    return f"{number(n_bytes / 1e6)}{THIN}MB"


def parameters(trainable: float | None, total: float | None = None) -> str:
    """A number of parameters, with its share of `total` in per cent when given: `1.20 M (0.310 %)`."""
    if _missing(trainable):
        return ABSENT
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(trainable) >= 0.9995 * scale:
            text = f"{number(trainable / scale)}{THIN}{unit}"
            break
    else:
        text = count(trainable)
    return text if not total else f"{text} ({number(100 * trainable / total)}{THIN}%)"


def seconds(value: float | None) -> str:
    """A duration: `0.31 s` below ten seconds, then `42 s`, `2 min 10 s`, `1 h 05 min`."""
    if _missing(value):
        return ABSENT
    return f"{number(value, 2)} s" if 0 < value < 9.95 else span(value)
