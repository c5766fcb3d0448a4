"""Units of a table of runs: what a header says, what a cell says, and what looks odd.

`"Model Size (B)"` counts in billions, `"FLOPs (1E21)"` in 1e21, `"tokens_B"` in billions, `"loss (bits)"` in bits, `ppl` is a
perplexity, `bpb` bits per byte. A cell may carry its own unit (`7B`, `70M`) and thousands separators (`1,024`).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.scaling.laws import Law

SUFFIX = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
UNITS = {**SUFFIX, "thousand": 1e3, "million": 1e6, "millions": 1e6, "billion": 1e9, "billions": 1e9, "trillion": 1e12}
LOSSES = {"nats": 1.0, "nat": 1.0, "bits": np.log(2), "bit": np.log(2)}
SIZES = ("N", "D", "U", "C", "N_v", "N_e", "N_d", "V", "B", "m", "S")
RISES = 0.5  # rank correlation of loss and size from which a falling law is refused
GAP = 2.5  # decades between neighbouring sizes that smell of two units in one column
HIGH = 12.0  # nats per token that no trained model has: ln of a vocabulary of 160,000


def plain(name: str) -> str:
    """The column behind `1-COLUMN`."""
    return name[2:] if str(name).startswith("1-") else name


def key(name: str) -> tuple[str, str | None]:
    """`"Model Size (B)"` → ("model_size", "b"); `"tokens_B"` → ("tokens", "b"); `"FLOPs (1E21)"` → ("flops", "1e21")."""
    text = str(name).strip()
    unit = re.search(r"[\(\[]\s*([A-Za-z0-9.+]+)[^)\]]*[\)\]]\s*$", text)
    found = unit.group(1).lower() if unit else None
    base = text[: unit.start()] if unit else text
    tail = re.fullmatch(r"(.+)[_ ]([KMBT]|bits|nats|billions?|millions?)", base.strip())
    if tail and found is None:
        base, found = tail.group(1), tail.group(2).lower()
    return re.sub(r"[^a-z0-9]+", "_", base.lower()).strip("_"), found


def numbers(raw: pd.DataFrame, column: str, name: str, notes: list[str]) -> pd.Series:
    """Column `name` of the file as the law's `column`, in its unit; what was done is added to `notes`."""
    turned = plain(name) != name and name not in raw
    name = plain(name) if turned else name
    values = _parse(raw[name], name, notes)
    base, unit = key(name)
    factor = _factor(column, unit)
    if factor != 1.0 and column != "loss":
        notes.append(f"{name}: values were multiplied by {factor:.0e}.")
    if column == "loss" and unit in LOSSES and unit.startswith("bit"):
        notes.append(f"{name}: bits became nats (× ln 2).")
    if column == "loss" and base in ("ppl", "perplexity"):
        values = np.log(values.where(values > 0))
        notes.append(f"{name} is a perplexity: its logarithm is the loss in nats.")
    if column == "loss" and base == "bpb":
        factor = np.log(2)
        notes.append(f"{name}: bits per byte became nats per byte (× ln 2); the law's loss is per byte.")
    values = values.astype(float) * factor
    if turned:
        values = 1 - values
        notes.append(f"{column} = 1 − {name}.")
    return values


def _factor(column: str, unit: str | None) -> float:
    if unit is None:
        return 1.0
    if column == "loss":
        return LOSSES.get(unit, 1.0)
    if column not in SIZES:
        return 1.0
    if unit in UNITS:
        return UNITS[unit]
    try:
        return float(unit) if float(unit) > 0 else 1.0
    except ValueError:
        return 1.0


def _parse(values: pd.Series, name: str, notes: list[str]) -> pd.Series:
    """Text to numbers: `1,024` and `7B` are read, `3,14` too (with a note), everything else becomes NaN."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    text = values.astype(str).fillna("").str.strip().str.replace("\u2009", "").str.replace("_", "")
    thousands = text.str.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*[a-zA-Z]?")
    decimal = text.str.fullmatch(r"[+-]?\d+,\d+\s*[a-zA-Z]?") & ~thousands
    if decimal.any():  # one such cell settles the meaning of the comma for its column
        text = text.str.replace(",", ".")
        notes.append(f"{name}: decimal commas were read as points.")
    else:
        text = text.str.replace(",", "")
    parts = text.str.extract(r"^([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([kKmMbBgGtT]?)$")
    found = pd.to_numeric(parts[0], errors="coerce") * parts[1].str.lower().map(SUFFIX).fillna(1.0)
    carried = (parts[1].fillna("") != "") & found.notna()
    if carried.any():
        first = carried.idxmax()
        notes.append(
            f"{name}: {int(carried.sum())} cells carry a unit; {values[first]!s} was read as {found[first]:.4g}."
        )
    return found


def target(name: str, law: Law) -> str:
    """What the column of the target holds, with its unit in brackets."""
    if plain(name) != name:
        return "error (share)"
    return "loss (nats per byte)" if key(name)[0] == "bpb" else law.target


def odd(table: pd.DataFrame, law: Law) -> list[str]:
    """Sentences about numbers that look like another unit."""
    found = []
    for column, unit in law.units.items():
        values = table[column]
        if unit in ("parameters", "tokens", "different tokens", "FLOP") and values.median() < 1e4:
            found.append(
                f"{column} is about {values.median():.3g}: is it in millions or billions? The law expects {unit}."
            )
        elif column in SIZES:
            found += _gap(values, column)
    if law.log_residuals and "nats per token" in law.target and len(table):
        if table["loss"].max() > HIGH:
            row = table["loss"].idxmax()
            found.append(
                f"The largest loss is {table['loss'].max():.3g} (file line {row + 2}): is it a perplexity? "
                "Losses are in nats per token; a column called ppl is converted."
            )
        size = next((c for c in ("C", "N", "x", "D") if c in table), None)
        rising = table[size].corr(table["loss"], method="spearman") if size and len(table) > 4 else 0.0
        if rising > RISES:
            raise UserError(
                f"The loss rises with {size} (rank correlation {rising:.2f}), and these laws can only fall. "
                "If it is a score from 0 to 1, --column loss=1-COLUMN makes an error of it; if not, check the columns."
            )
        if rising > RISES / 2:
            found.append(f"The loss rises with {size} (rank correlation {rising:.2f}): check the columns.")
    return found


def _gap(values: pd.Series, column: str) -> list[str]:
    order = np.log10(values.sort_values())
    steps = order.diff().dropna()
    if steps.empty or steps.max() < GAP:
        return []
    above = steps.idxmax()
    below = order.index[order.index.get_loc(above) - 1]
    return [
        f"{column} jumps from {values[below]:.3g} (file line {below + 2}) to {values[above]:.3g} (line {above + 2}) "
        "with nothing between: are two units mixed?"
    ]
