"""A table of runs for a law: find the columns, check the units, say what is wrong by line of the file.

A table holds one row per run, or whole curves (several rows per run: the last row of each is fitted, or all of them with
the runs as units of resampling). Column names are guessed and can be named outright. Units are put right only where the header
says so (`N (B)`, `tokens_B`, `FLOPs (1E21)`, `ppl`, `bpb`) or the cell does (`7B`); where a value merely looks odd, a warning
says so and the number stays (`workbench.scaling._units`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError, choose
from workbench.scaling import _units
from workbench.scaling._read_table import read_table
from workbench.scaling.laws import Law

NAMES = {
    "N": ("n", "params", "parameters", "model_size", "size", "n_params", "num_params", "non_embedding_params", "model_params"),
    "D": ("d", "tokens", "training_tokens", "train_tokens", "n_tokens", "num_tokens", "data", "tokens_seen", "dataset_size",
          "pretraining_data_size"),
    "U": ("u", "unique_tokens", "different_tokens"),
    "C": ("c", "flop", "flops", "compute", "training_flop", "training_flops", "train_flops"),
    "loss": ("loss", "val_loss", "validation_loss", "eval_loss", "test_loss", "final_loss", "valid_loss", "nll",
             "ppl", "perplexity", "bpb"),
    "run": ("run", "run_id", "id", "name", "experiment"),
    "error": ("error", "task_error", "downstream_error"),
    "m": ("m", "rows", "examples", "train_size", "n_train"),
    "S": ("s", "steps", "step"),
    "P": ("p", "streams"),
    "L": ("l", "loss"),
    "V": ("v", "vocab", "vocab_size", "vocabulary"),
    "B": ("b", "batch", "batch_tokens", "batch_size"),
    "t": ("t", "days"),
}  # fmt: skip
EXTRA = ("C", "loss", "run", "group", "error")
FEW = 40  # a text column with at most so many different entries names kinds of runs


@dataclasses.dataclass(frozen=True)
class Runs:
    """A clean table and what was done to get there.

    Args:
        table: the law's columns and `loss` (with C where N and D are known, run, group and error where given); sizes are
            positive finite numbers. An error that was not measured is NaN.
        mapping: law column → column of the file.
        notes: what was converted or dropped, by line of the file.
        warnings: what looks wrong but was kept.
        groups: unit of resampling of each row, or None when every row is one.
        units: name of that unit.
        target: what the column loss holds, with its unit.
    """

    table: pd.DataFrame
    mapping: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    groups: np.ndarray | None = None
    units: str = "run"
    target: str = "loss (nats per token)"


def missing_columns(raw: pd.DataFrame, law: Law, columns: Mapping[str, str] | None = None) -> list[str]:
    """Columns of the law, and "loss", that `read_runs` would not find in `raw`."""
    mapping = _guess(raw, law, dict(columns or {}))
    return [c for c in (*law.columns, "loss") if c not in mapping and c not in _derived(mapping)]


def read_runs(
    source: str | Path | pd.DataFrame,
    law: Law,
    columns: Mapping[str, str] | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    curves: str = "last",
) -> Runs:
    """Read and clean the runs of a law.

    Args:
        source: a file, the name of a shipped table, or a table already read.
        law: which columns are needed.
        columns: law column (or "loss", "run", "group", "error", "C") → column of the file, where the guess is wrong.
            `1-COLUMN` turns a score into an error. "group" names the unit that is resampled (cell, seed, family).
        where: column of the file → value: keep these rows only.
        curves: where several rows share a run: "last" fits the last row of each, "all" fits all rows and resamples runs.

    Raises:
        UserError: file missing or unreadable, a needed column not found, no usable row.
    """
    choose("way to read curves", curves, ("last", "all"))
    raw = source.reset_index(drop=True) if isinstance(source, pd.DataFrame) else read_table(source)
    notes: list[str] = []
    for name, value in (where or {}).items():
        raw = _filter(raw, name, value, notes)
    mapping = _match(raw, law, dict(columns or {}))
    table = pd.DataFrame(index=raw.index)
    for column, name in mapping.items():
        if column in ("run", "group"):
            table[column] = raw[name].astype(str)
        else:
            table[column] = _units.numbers(raw, column, name, notes)
    table = _derive(table, law, mapping, notes)
    table = _drop_bad(table, raw, law, mapping, notes)
    groups, units = table.get("group"), mapping.get("group", "run")
    warnings: list[str] = []
    if "run" in table and "run" in mapping and table["run"].duplicated().any():
        before, runs = len(table), table["run"].nunique()
        if curves == "last":
            table = table.groupby("run", sort=False).tail(1)
            notes.append(
                f"{before} rows belong to {runs} runs: the last row of each run is fitted "
                "(--curves all fits every row and resamples runs)."
            )
            groups = table.get("group")
        else:
            groups = table["run"] if groups is None else groups
            notes.append(f"{before} rows of {runs} runs are fitted and whole runs are resampled.")
            warnings.append(
                "Rows in the middle of a run carry its learning-rate schedule: the data term they show is not that of "
                "finished runs."
            )
    copies = table.duplicated(subset=[*law.columns, "loss"])
    if copies.any():
        first = copies.idxmax()
        notes.append(f"{int(copies.sum())} rows repeat another row exactly (first: file line {first + 2}); kept once.")
        groups = None if groups is None else groups[~copies]
        table = table[~copies]
    warnings = [*_units.odd(table, law), *_mixed(raw.loc[table.index], mapping, where), *warnings]
    labels = None if groups is None else groups.to_numpy()
    return Runs(table.reset_index(drop=True), mapping, tuple(notes), tuple(warnings), labels, units,
                _units.target(mapping["loss"], law))  # fmt: skip


def _filter(raw: pd.DataFrame, name: str, value: Any, notes: list[str]) -> pd.DataFrame:
    if name not in raw.columns:
        raise UserError(f"There is no column {name!r} to choose rows by; the file has: {_list(raw.columns)}.")
    kept = raw[raw[name].astype(str) == str(value)]
    if kept.empty and pd.api.types.is_numeric_dtype(raw[name]) and isinstance(value, int | float):
        kept = raw[raw[name] == value]
    if kept.empty:
        raise UserError(f"No row has {name} = {value!s}; the values are: {_list(raw[name].unique())}.")
    notes.append(f"{len(kept)} of {len(raw)} rows have {name} = {value}.")
    return kept


def _list(values: Any, most: int = 10) -> str:
    shown = [str(v) for v in values]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _guess(raw: pd.DataFrame, law: Law, mapping: dict[str, str]) -> dict[str, str]:
    keys = {name: _units.key(name)[0] for name in raw.columns}
    word = law.target.split()[0]  # "error", "score", …: what the column of the target may be called, beside "loss"

    def find(column: str) -> None:
        known = (column.lower(), *NAMES.get(column, ()))
        if column == "loss" and word != "loss":
            known = (word, *NAMES.get(word, ()), *known)
        taken = set(mapping.values())
        found = [n for n in raw.columns if n == column and n not in taken] or [
            name for alias in known for name, key in keys.items() if key == alias and name not in taken
        ]
        if found and column not in mapping:
            mapping[column] = found[0]

    for column in dict.fromkeys((*law.columns, "loss", "C", "run", "error")):
        find(column)
    if "C" in law.columns and "C" not in mapping:
        find("N")
        find("D")
    return mapping


def _derived(mapping: Mapping[str, str]) -> set[str]:
    known = set(mapping)
    return {c for c, others in (("D", {"C", "N"}), ("N", {"C", "D"}), ("C", {"N", "D"})) if others <= known}


def _match(raw: pd.DataFrame, law: Law, columns: dict[str, str]) -> dict[str, str]:
    for column, name in columns.items():
        allowed = (*law.columns, *EXTRA, *(("N", "D") if "C" in law.columns else ()))
        choose(f"column of the law {law.name}", column, allowed)
        if _units.plain(name) not in raw.columns:
            raise UserError(f"There is no column {name!r} for {column}; the file has: {_list(raw.columns)}.")
    mapping = _guess(raw, law, columns)
    missing = [c for c in (*law.columns, "loss") if c not in mapping and c not in _derived(mapping)]
    if missing:
        raise UserError(_not_found(raw, law, mapping, missing))
    return {c: n for c, n in mapping.items() if c != "C" or "C" in law.columns or not {"N", "D"} <= set(mapping)}


def _not_found(raw: pd.DataFrame, law: Law, mapping: dict[str, str], missing: list[str]) -> str:
    had = ", ".join(f"{c} = {n}" for c, n in mapping.items() if c in law.columns or c == "loss")
    free = [c for c in raw.select_dtypes("number").columns if c not in mapping.values()]
    losses = [c for c in free if "loss" in str(c).lower()]
    scores = [c for c in free if raw[c].dropna().between(0, 1).all()]
    told = (
        f"The law {law.name} needs {', '.join((*law.columns, 'loss'))}; no column was found for {', '.join(missing)}."
    )
    told += f" Found: {had}." if had else ""
    told += f" The file has: {_list(raw.columns)}."
    if missing == ["loss"] and losses:
        told += f" It holds several losses; choose one, for example --column loss={losses[0]}."
    elif missing == ["loss"] and scores:
        told += f" Its scores are no losses; a score between 0 and 1 becomes an error with --column loss=1-{scores[0]}."
    elif not set(missing) & set(mapping) and not had:
        told += " A scaling law needs runs of several sizes: if the file has none, no law here fits it."
        told += f" Else name them: {_flags(missing)}."
    else:
        told += f" Name {'them' if len(missing) > 1 else 'it'}: {_flags(missing)}."
    return told


def _flags(missing: list[str]) -> str:
    return " ".join(f"--column {column}=COLUMN" for column in missing)


def _derive(table: pd.DataFrame, law: Law, mapping: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    known = set(table)
    if "D" in law.columns and "D" not in known and {"C", "N"} <= known:
        table["D"] = table["C"] / (6.0 * table["N"])
        notes.append("D was computed as C / (6·N).")
    if "N" in law.columns and "N" not in known and {"C", "D"} <= known:
        table["N"] = table["C"] / (6.0 * table["D"])
        notes.append("N was computed as C / (6·D).")
    if "C" not in table and {"N", "D"} <= set(table):
        table["C"] = 6.0 * table["N"] * table["D"]  # floats: 6ND of large runs overflows 64-bit integers
        if "C" in law.columns:
            notes.append("C was computed as 6·N·D.")
    for column, unit in law.units.items():
        if unit.startswith("billion") and table[column].median() > 1e5:
            table[column] = table[column] / 1e9
            notes.append(f"{column} was divided by 1e9: the law {law.name} counts in {unit}.")
    return table


def _drop_bad(
    table: pd.DataFrame, raw: pd.DataFrame, law: Law, mapping: Mapping[str, str], notes: list[str]
) -> pd.DataFrame:
    for column in (*law.columns, "loss"):
        values = table[column]
        bad = ~np.isfinite(values) | ((values <= 0) if column != "loss" or law.log_residuals else False)
        if bad.any():
            lines = ", ".join(str(i + 2) for i in table.index[bad][:5]) + (", …" if bad.sum() > 5 else "")
            name = _units.plain(mapping.get(column, ""))
            held = f", line {bad.idxmax() + 2} holds {_show(raw[name][bad.idxmax()])}" if name in raw else ""
            notes.append(
                f"{int(bad.sum())} rows have no positive number in {column} (file lines {lines}{held}): left out."
            )
            table = table[~bad]
    if table.empty:
        raise UserError("No usable row is left. " + " ".join(notes))
    return table


def _show(value: Any) -> str:
    return "nothing" if pd.isna(value) else repr(value.item() if isinstance(value, np.generic) else value)


def _mixed(raw: pd.DataFrame, mapping: Mapping[str, str], where: Mapping[str, Any] | None) -> list[str]:
    """Text columns with a few different entries: kinds of runs that one law should not mix."""
    found = []
    for name in raw.columns:
        if name in mapping.values() or name in (where or {}) or pd.api.types.is_numeric_dtype(raw[name]):
            continue
        kinds = raw[name].dropna().unique()
        if 2 <= len(kinds) <= FEW and len(raw) >= 3 * len(kinds):
            found.append(
                f"The rows mix {len(kinds)} kinds of {name} ({_list(kinds, 4)}): constants differ from one to the next. "
                f"Fit one with --where {name}={kinds[0]}."
            )
    return found
