"""CSV in: find the columns, check the units, say what is wrong by row.

A table holds one row per run, or whole curves (several rows per run, then only the last row of each run is fitted). Column
names are guessed and can be named outright. Units are put right only where the header says so (`N (B)`, `tokens_B`,
`params_M`, `ppl`, `bpb`); where a value merely looks odd, a warning says so and the number stays.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.scaling.laws import Law

NAMES = {
    "N": ("n", "params", "parameters", "model_size", "size", "n_params", "num_params", "non_embedding_params"),
    "D": ("d", "tokens", "training_tokens", "n_tokens", "data", "tokens_seen", "dataset_size"),
    "C": ("c", "flop", "flops", "compute", "training_flop", "training_flops"),
    "loss": ("loss", "val_loss", "validation_loss", "eval_loss", "test_loss", "final_loss", "l"),
    "run": ("run", "run_id", "id", "name", "experiment"),
    "m": ("m", "rows", "examples", "train_size", "n_train"),
    "S": ("s", "steps", "step"),
    "P": ("p", "streams"),
    "x": ("x",),
    "L": ("l", "loss"),
}
UNITS = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "millions": 1e6, "b": 1e9, "billion": 1e9,
         "billions": 1e9, "t": 1e12, "trillion": 1e12}  # fmt: skip
NATS = {"nats": 1.0, "nat": 1.0, "bits": np.log(2), "bit": np.log(2)}


@dataclasses.dataclass(frozen=True)
class Runs:
    """A clean table and what was done to get there.

    Args:
        table: the law's columns and `loss` (and `run` when given), all positive finite numbers.
        mapping: law column → column of the file.
        notes: what was converted or dropped, by row.
        warnings: what looks wrong but was kept.
    """

    table: pd.DataFrame
    mapping: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def _key(name: str) -> tuple[str, str | None]:
    """`"Model Size (B)"` → ("model_size", "b"); `"tokens_B"` → ("tokens", "b")."""
    text = str(name).strip()
    unit = re.search(r"[\(\[]\s*([A-Za-z]+)[^)\]]*[\)\]]\s*$", text)
    found = unit.group(1).lower() if unit else None
    base = text[: unit.start()] if unit else text
    tail = re.fullmatch(r"(.+)[_ ]([KMBT]|bits|nats|billions?|millions?)", base.strip())
    if tail and found is None:
        base, found = tail.group(1), tail.group(2).lower()
    return re.sub(r"[^a-z0-9]+", "_", base.lower()).strip("_"), found


def read_runs(source: str | Path | pd.DataFrame, law: Law, columns: dict[str, str] | None = None) -> Runs:
    """Read and clean the runs of a law.

    Args:
        source: a CSV file, or a table already read.
        law: which columns are needed.
        columns: law column (or "loss", "run") → column of the file, where the guess is wrong.

    Raises:
        UserError: file missing or unreadable, a needed column not found, no usable row.
    """
    raw = source if isinstance(source, pd.DataFrame) else _read(Path(source))
    mapping = _match(raw, law, columns or {})
    table = pd.DataFrame(index=raw.index)
    notes: list[str] = []
    for column, name in mapping.items():
        if column == "run":
            table["run"] = raw[name].astype(str)
            continue
        values = pd.to_numeric(raw[name].astype(str).str.replace(",", ""), errors="coerce")
        factor, note = _factor(column, name)
        if note:
            notes.append(note)
        if column == "loss" and _key(name)[0] in ("ppl", "perplexity"):
            values = np.log(values)
            notes.append(f"{name} is a perplexity: its logarithm is the loss in nats.")
        table[column] = values.astype(float) * factor
    if "D" in law.columns and "D" not in table and {"C", "N"} <= set(table):
        table["D"] = table["C"] / (6.0 * table["N"])
        notes.append("D was computed as C / (6·N).")
    table, dropped = _drop_bad(table, law)
    notes += dropped
    if "run" in table and table["run"].duplicated().any():
        before = len(table)
        table = table.groupby("run", sort=False).tail(1)
        notes.append(f"{before} rows belong to {len(table)} runs: the last row of each run is fitted.")
    copies = table.duplicated(subset=[*law.columns, "loss"])
    if copies.any():
        notes.append(
            f"{int(copies.sum())} rows repeat another row exactly (first: row {copies.idxmax() + 2}); kept once."
        )
        table = table[~copies]
    return Runs(table.reset_index(drop=True), mapping, tuple(notes), tuple(_warn(table, law)))


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    try:
        raw = pd.read_csv(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(
            f"{path.name} cannot be read as a table: {error}. Save it as CSV with one header line."
        ) from error
    if raw.empty:
        raise UserError(f"{path.name} has a header but no rows.")
    return raw


def _match(raw: pd.DataFrame, law: Law, columns: dict[str, str]) -> dict[str, str]:
    for column, name in columns.items():
        if name not in raw.columns:
            raise UserError(
                f"There is no column {name!r} for {column}; the file has: {', '.join(map(str, raw.columns))}."
            )
    mapping = dict(columns)
    keys = {name: _key(name)[0] for name in raw.columns}
    for column in (*law.columns, "C", "loss", "run"):
        if column in mapping:
            continue
        known = (column.lower(), *NAMES.get(column, ()), *(("ppl", "perplexity", "bpb") if column == "loss" else ()))
        taken = set(mapping.values())
        found = [n for n in raw.columns if n == column] or [
            name for alias in known for name, key in keys.items() if key == alias and name not in taken
        ]
        if found:
            mapping[column] = found[0]
    derived = {"D"} if {"C", "N"} <= set(mapping) else set()
    missing = [c for c in (*law.columns, "loss") if c not in mapping and c not in derived]
    if missing:
        raise UserError(
            f"The law {law.name} needs {', '.join((*law.columns, 'loss'))}; no column was found for {', '.join(missing)}. "
            f"The file has: {', '.join(map(str, raw.columns))}. Name it with --column {missing[0]}=COLUMN."
        )
    return {c: n for c, n in mapping.items() if c != "C" or (derived and "D" not in mapping)}


def _factor(column: str, name: str) -> tuple[float, str]:
    unit = _key(name)[1]
    if unit is None:
        return 1.0, ""
    if column == "loss" and unit in NATS:
        return NATS[unit], f"{name}: bits became nats (× ln 2)." if unit.startswith("bit") else ""
    if column in ("N", "D", "N_v", "N_e", "N_d") and unit in UNITS:
        return UNITS[unit], f"{name}: values were multiplied by {UNITS[unit]:.0e}."
    return 1.0, ""


def _drop_bad(table: pd.DataFrame, law: Law) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    for column in (*law.columns, "loss"):
        values = table[column]
        bad = ~np.isfinite(values) | ((values <= 0) if column != "loss" or law.log_residuals else False)
        if bad.any():
            rows = ", ".join(str(i + 2) for i in table.index[bad][:5])
            notes.append(f"{int(bad.sum())} rows have no positive number in {column} (file lines {rows}): left out.")
            table = table[~bad]
    if table.empty:
        raise UserError("No usable row is left. " + " ".join(notes))
    return table, notes


def _warn(table: pd.DataFrame, law: Law) -> list[str]:
    found = []
    for column, unit in law.units.items():
        values = table[column]
        if unit in ("parameters", "tokens") and values.median() < 1e4:
            found.append(
                f"{column} is about {values.median():.3g}: is it in millions or billions? The law expects {unit}."
            )
        if values.max() / values.min() > 1e7:
            found.append(f"{column} spans {np.log10(values.max() / values.min()):.0f} decades: are two units mixed?")
    if law.log_residuals and "loss" in table and table["loss"].max() > 20:
        found.append(
            f"The largest loss is {table['loss'].max():.3g}: is it a perplexity? Losses are in nats per token."
        )
    return found
