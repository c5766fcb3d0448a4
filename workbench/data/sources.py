"""Find the reader for a file or folder. Nothing that can run code is opened: pickles, `.pt` and such are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.data.readers import READERS, Raw, decode, read_bytes
from workbench.errors import UserError

_UNSAFE = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".dill"}
_ARRAYS = {".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".mat"}
_SHEETS = {".xlsx", ".xls", ".ods", ".numbers"}


def read_path(path: Path) -> Raw:
    """Read one file or folder.

    Args:
        path: .txt, .md, .csv, .tsv, .jsonl, .ndjson, .json, .parquet, or a folder of one of these, or a folder written
            by `datasets`' `save_to_disk`.

    Raises:
        UserError: missing, unreadable, empty, damaged or of another type.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise UserError(f"There is no file {path}; check the name and the folder you start from ({Path.cwd()}).")
    return _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], Raw]:
    suffix = path.suffix.lower()
    if suffix in READERS:
        return READERS[suffix]
    if suffix in _UNSAFE:
        raise UserError(
            f"{path.name} is refused: a {suffix} file can run code when it is opened; save the data as .jsonl or .csv."
        )
    if suffix in _ARRAYS:
        raise UserError(f"{path.name} holds arrays of numbers, not text; save the text itself as .txt, .jsonl or .csv.")
    if suffix in _SHEETS:
        raise UserError(f"{path.name} is a spreadsheet; export it from its program as CSV (UTF-8) and give that file.")
    known = ", ".join(READERS)
    raise UserError(f"{path.name} has the ending {suffix or '(none)'}, which cannot be read; use one of {known}.")


def _folder(path: Path) -> Raw:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        from workbench.data.hub import read_saved

        return read_saved(path)
    files = sorted(
        f for f in path.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.relative_to(path).parts)
    )
    kinds = [
        suffix for suffix in (".txt", ".jsonl", ".csv", ".parquet") if any(f.suffix.lower() == suffix for f in files)
    ]
    if not kinds:
        raise UserError(
            f"The folder {path} has no .txt, .jsonl, .csv or .parquet file; give a folder that has, or a file."
        )
    if len(kinds) > 1:
        raise UserError(f"The folder {path} mixes {' and '.join(kinds)} files; give one file, or a folder of one type.")
    chosen = [file for file in files if file.suffix.lower() == kinds[0]]
    if len(chosen) == 1:
        return READERS[kinds[0]](chosen[0])
    if kinds == [".txt"]:
        return _text_folder(path, chosen)
    parts = [READERS[kinds[0]](file) for file in chosen]
    if any(set(part.columns) != set(parts[0].columns) for part in parts):
        other = next(part for part in parts if set(part.columns) != set(parts[0].columns))
        raise UserError(
            f"{other.name} has the columns {', '.join(other.columns)} but {parts[0].name} has "
            f"{', '.join(parts[0].columns)}; give the files one by one, or make their columns equal."
        )
    places = [f"{part.name} {place}" for part in parts for place in part.places]
    return Raw(path.name, parts[0].columns, [row for part in parts for row in part.rows], places)


def _text_folder(path: Path, files: list[Path]) -> Raw:
    """One document per file; an empty file becomes an empty cell that `validate` reports."""
    names = [file.relative_to(path).as_posix() for file in files]
    texts = [
        decode(read_bytes(file), name) if file.stat().st_size else "" for file, name in zip(files, names, strict=True)
    ]
    rows = [{"text": text, "group": name} for text, name in zip(texts, names, strict=True)]
    return Raw(path.name, ["text", "group"], rows, names)
