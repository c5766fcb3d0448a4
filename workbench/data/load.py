"""`load`: any source that a user can name becomes checked `Examples`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from workbench.data import bundled
from workbench.data.columns import choose_columns
from workbench.data.examples import Examples, Report
from workbench.data.hub import HUB_ID, read_hub
from workbench.data.readers import READERS
from workbench.data.sources import read_path
from workbench.data.validate import check_labels, validate
from workbench.errors import UserError, choose


def load(
    source: str | Path,
    *,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Examples:
    """Read and check a data set; nothing about a model is needed or loaded.

    Args:
        source: a bundled name (`list_data`), a file (.txt, .md, .csv, .tsv, .jsonl, .json, .parquet), a folder of such
            files, a folder from `datasets`' `save_to_disk`, or a hub id `owner/name[:config][#split]`.
        kind: text, prompt-completion, chat or classification; None guesses it from the columns.
        columns: role → column name, where the guess should not decide (roles: text, label, prompt, input, completion,
            messages, group).
        limit: use this many rows, evenly spread over the source (and over the labels); None uses all.

    Returns:
        The usable rows, and the report of those that are not.

    Raises:
        UserError: anything wrong with the source, with the row or line, the reason and the repair.
    """
    examples = _load(source, kind, columns)
    return examples if limit is None else take(examples, limit)


def _load(source: str | Path, kind: str | None, columns: Mapping[str, str] | None) -> Examples:
    name = str(source).strip()
    if not name:
        raise UserError(f"No data was named; give a file, a folder, or one of: {', '.join(bundled.names())}.")
    if name in bundled.names():
        return _bundled(name, kind, columns)
    path = Path(name).expanduser()
    if path.exists() or path.is_symlink() or _looks_like_path(name):
        return validate(read_path(path), kind=kind, columns=columns)
    if not HUB_ID.fullmatch(name):
        choose("data set, file or folder", name, bundled.names())
    return validate(read_hub(name), kind=kind, columns=columns)


def _looks_like_path(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return name.startswith((".", "/", "~")) or "\\" in name or suffix in READERS or suffix in {".pkl", ".npy", ".pt"}


def _bundled(name: str, kind: str | None, columns: Mapping[str, str] | None) -> Examples:
    examples = bundled.load_bundled(name)
    available = [key for key in ("text", "label", "group") if key in examples.rows[0]]
    kind, _ = choose_columns(available, name, kind=kind, columns=columns)
    if kind == examples.kind:
        return examples
    rows = [{"text": row["text"], "group": row["group"]} for row in examples.rows]  # the labels are not asked for
    return Examples(kind, rows, name, Report(name, len(rows), len(rows)))


def take(examples: Examples, limit: int) -> Examples:
    """`limit` rows evenly spread over the set; each label keeps its share.

    Raises:
        UserError: fewer than one, more than there are, or so few that a label keeps fewer than two examples.
    """
    have = len(examples.rows)
    if limit < 1:
        raise UserError(f"A limit of {limit} rows leaves nothing; give 1 or more.")
    if limit > have:
        raise UserError(
            f"{limit:,} rows were asked for but {examples.source} has {have:,} usable ones; ask for {have:,} or fewer."
        )
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(examples.rows):
        by_label[row.get("label", "")].append(index)
    ordered = [index for label in sorted(by_label) for index in by_label[label]]
    chosen = sorted(ordered[(2 * k + 1) * have // (2 * limit)] for k in range(limit))
    rows = [examples.rows[index] for index in chosen]
    if examples.kind == "classification":
        places = {row["label"]: f"after the limit of {limit} rows" for row in rows}
        if set(places) != set(examples.labels):
            lost = ", ".join(sorted(set(examples.labels) - set(places))[:3])
            raise UserError(f"A limit of {limit} rows loses the label {lost}; {examples.source} needs a higher limit.")
        check_labels(rows, examples.source, places)
    note = f"{limit:,} of them are used, evenly spread."
    report = Report(**{**vars(examples.report), "notes": (*examples.report.notes, note)})
    return Examples(examples.kind, rows, examples.source, report, examples.labels)
