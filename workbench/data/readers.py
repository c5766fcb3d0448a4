"""Read one file into raw rows that remember where they came from.

A place is what a person looks for in the file: `line 7` of JSON lines and text, `row 7` of a table. CSV rows are
counted as a spreadsheet shows them, the header being row 1. Damage to the file itself (wrong encoding, a broken line, a
column name used twice) refuses the file here; a cell that cannot be used is the business of `validate`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.data.sections import sections
from workbench.errors import UserError


@dataclass(frozen=True)
class Raw:
    """Rows as read: `places[i]` says where `rows[i]` stood; `name` is what reports call the source."""

    name: str
    columns: list[str]
    rows: list[dict]
    places: list[str]
    notes: tuple[str, ...] = ()


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        UserError: no permission, a reading error of the disk, or nothing in it.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be read ({reason}); check its permissions or copy it elsewhere.") from error
    if not raw:
        raise UserError(f"{path} is empty (0 bytes); give a file with data.")
    return raw


def decode(raw: bytes, name: str) -> str:
    """UTF-8 text (a byte-order mark is dropped).

    Raises:
        UserError: not UTF-8, with line, byte, the likely encoding and the command that converts it.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{name} is UTF-16, not UTF-8 (byte 1 is a UTF-16 mark); convert it: iconv -f utf-16 -t utf-8 {name} > new."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        try:
            raw.decode("cp1252")
            guess = "cp1252"
        except UnicodeDecodeError:
            guess = "latin1"
        raise UserError(
            f"{name} is not UTF-8: byte 0x{raw[error.start]:02x} in line {line} (byte {error.start + 1} of the file); "
            f"save it as UTF-8, for example: iconv -f {guess} -t utf-8 {name} > new."
        ) from error


def _text(path: Path) -> Raw:
    text = decode(read_bytes(path), path.name)
    if not text.strip():
        raise UserError(f"{path} holds only white space; give a file with text.")
    parts = sections(text)
    groups = [path.name] if len(parts) == 1 else [f"{path.name} §{number}" for number in range(1, len(parts) + 1)]
    note = f"{path.name} was cut into {len(parts)} sections at empty lines, so that some can be held out."
    return Raw(
        path.name,
        ["text", "group"],
        [{"text": part, "group": group} for (part, _), group in zip(parts, groups, strict=True)],
        [f"line {line}" for _, line in parts],
        (note,) if len(parts) > 1 else (),
    )


def _csv(path: Path) -> Raw:
    text = decode(read_bytes(path), path.name)
    head = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=head.count)
    usual = csv.field_size_limit(2**31 - 1)  # the standard limit of 131,072 characters is shorter than a chapter
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path.name} is not a well-formed CSV file ({error}); an opening quote without its closing quote is the "
            "usual cause: write quotes inside a field twice."
        ) from error
    finally:
        csv.field_size_limit(usual)
    filled = [(number, cells) for number, cells in enumerate(table, 1) if any(cell.strip() for cell in cells)]
    if not filled:
        raise UserError(f"{path} holds no cells; give a file with a header row and data rows.")
    header = [name.strip() for name in filled[0][1]]
    _unique(header, path.name)
    ragged = [(number, len(cells)) for number, cells in filled[1:] if len(cells) != len(header)]
    if ragged:
        first = ", ".join(f"row {number} has {count}" for number, count in ragged[:3])
        raise UserError(
            f"{path.name} has {len(header)} columns in its header but {len(ragged)} rows differ ({first}); put "
            f" fields that contain {delimiter!r} or a line break between double quotes."
        )
    if len(filled) == 1:
        raise UserError(f"{path.name} has a header ({', '.join(header)}) and no rows; add data below it.")
    rows = [dict(zip(header, cells, strict=True)) for _, cells in filled[1:]]
    return Raw(path.name, header, rows, [f"row {number}" for number, _ in filled[1:]])


def _unique(columns: list[str], name: str) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        where = ", ".join(
            f"{c!r} (columns {', '.join(str(i + 1) for i, x in enumerate(columns) if x == c)})" for c in twice
        )
        raise UserError(f"{name} has the same column name more than once: {where}; rename or delete one.")


def _no_repeat(pairs: list[tuple[str, object]]) -> dict:
    if len({key for key, _ in pairs}) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return dict(pairs)


def _jsonl(path: Path) -> Raw:
    rows, places, broken = [], [], []
    for number, line in enumerate(decode(read_bytes(path), path.name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_no_repeat)
        except ValueError as error:
            broken.append((number, str(error).replace(": line 1 column", " at character").split(" (char")[0]))
            continue
        if not isinstance(row, dict):
            broken.append((number, f"it holds a {type(row).__name__}, not an object {{…}}"))
            continue
        rows.append(row)
        places.append(f"line {number}")
    if broken:
        first = "; ".join(f"line {number}: {reason}" for number, reason in broken[:3])
        raise UserError(
            f"{path.name} has {len(broken)} broken line{'s' if len(broken) > 1 else ''} ({first}); each line must be "
            "one complete JSON object: repair or delete them."
        )
    if not rows:
        raise UserError(f"{path} holds only empty lines; give a file with data.")
    return Raw(path.name, list(dict.fromkeys(key for row in rows for key in row)), rows, places)


def _json(path: Path) -> Raw:
    text = decode(read_bytes(path), path.name)
    try:
        found = json.loads(text, object_pairs_hook=_no_repeat)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise UserError(f"{path.name} holds one object per line; rename it to {path.stem}.jsonl.") from error
        raise UserError(
            f"{path.name} is not valid JSON (line {error.lineno}: {error.msg}); repair that line."
        ) from error
    except ValueError as error:
        raise UserError(f"{path.name} is refused: {error}; keep one of them.") from error
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path.name} must hold a list of objects [{{…}}, {{…}}]; write it so, or as .jsonl.")
    columns = list(dict.fromkeys(key for row in found for key in row))
    return Raw(path.name, columns, found, [f"row {number}" for number in range(1, len(found) + 1)])


def _parquet(path: Path) -> Raw:
    import pyarrow
    import pyarrow.parquet

    raw = read_bytes(path)
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw)).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path.name} is not a readable Parquet file ({error}); write it again.") from error
    _unique(table.column_names, path.name)
    if not table.num_rows:
        raise UserError(f"{path.name} has columns ({', '.join(table.column_names)}) and no rows; add data.")
    return Raw(path.name, table.column_names, table.to_pylist(), [f"row {n}" for n in range(1, table.num_rows + 1)])


READERS: dict[str, Callable[[Path], Raw]] = {
    ".txt": _text, ".md": _text, ".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json,
    ".parquet": _parquet,
}  # fmt: skip
