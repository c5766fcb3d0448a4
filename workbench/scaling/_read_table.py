"""A file of runs as a raw table: CSV with commas, semicolons or tabs, JSON lines, parquet, a shipped table, a published folder.

The row index is kept such that row i of the table is line i + 2 of the file, so that every later sentence can name lines.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workbench.errors import UserError
from workbench.paths import assets


def shipped() -> list[str]:
    """Names of the tables that ship with the package."""
    return sorted(path.stem for path in (assets() / "scaling").glob("*.csv"))


def read_table(source: str | Path) -> pd.DataFrame:
    """Read a file, or a shipped table by its name.

    Raises:
        UserError: not there, not a table, no rows.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        inside = assets() / "scaling" / f"{source}.csv"
        if path.parent == Path() and inside.is_file():
            return pd.read_csv(inside)
        raise UserError(
            f"There is no file {str(path)!r}. Give a CSV of runs, or a shipped table: {', '.join(shipped())}."
        )
    try:
        raw = _parse(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path.name} cannot be read as a table: {reason}. Save it as CSV with one header line."
        ) from error
    raw = raw[~raw.isna().all(axis=1)]
    if raw.empty:
        raise UserError(f"{path.name} has a header but no rows.")
    return raw


def _parse(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(path)
    if suffix in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True)
    if suffix in (".json", ".xlsx", ".xls", ".html", ".zip", ".gz", ".pkl"):
        raise ValueError(f"a {suffix} file is no table of runs (CSV, JSON lines or parquet is)")
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    if head.lstrip()[:1] in ("{", "["):
        raise ValueError("it holds JSON")
    separator = max((",", ";", "\t"), key=head.count)
    return pd.read_csv(path, sep=separator, skip_blank_lines=False)


def _folder(path: Path) -> pd.DataFrame:
    """The published JSON files of mlfoundations/scaling as one table; any other folder is refused with its tables named."""
    if (path / "models").is_dir() and (path / "evals").is_dir():
        from workbench.scaling.gadre import convert

        return convert(path)
    inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in (".csv", ".jsonl", ".parquet"))
    told = f"it holds {', '.join(inside[:5])}" if inside else "it holds no CSV"
    raise UserError(f"{str(path)!r} is a folder, not a file of runs; {told}. Give one file.")
