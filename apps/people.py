"""The people of a workshop: each has a name, a folder beside the runs, a quota, and the runs whose names begin with theirs.

    RUNS/.people/ada-l/person.json      name, joined
    RUNS/.people/ada-l/<run id>/        what the person takes home of a finished run: settings, metrics, result; no weights

A run belongs to Ada when its name begins with `Ada: `. Runs started on the page Workshop get that name by themselves; on every
other page, and on the command line, one types it. So all runs stay in one queue and on every page. A quota is what one person's
run folders may weigh and how many of their runs may wait or work at once; WORKBENCH_QUOTA_MB and WORKBENCH_QUOTA_RUNS set
it when the app starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import time
import unicodedata
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.paths import runs_root
from workbench.runs import Run
from workbench.runs.files import peek, write_json

from . import live

MOST_PEOPLE = 200
LETTERS = 40  # of a name
TAKEN = ("config.json", "metrics.jsonl", "result.json", "environment.json")
BUSY = ("queued", "running", "stopping")


@dataclasses.dataclass(frozen=True)
class Person:
    """One participant: `key` names the folder, `name` is what people read, `joined` is in Unix seconds."""

    key: str
    name: str
    joined: float

    @property
    def folder(self) -> Path:
        """Where what this person takes home lies."""
        return root() / self.key


@dataclasses.dataclass(frozen=True)
class Quota:
    """What one person may use: bytes of all run folders together, and runs that wait or work at once."""

    bytes: int
    runs: int


def root() -> Path:
    """Folder of all participants, beside the runs."""
    return runs_root().absolute() / ".people"


def quota() -> Quota:
    """The quota of everybody.

    Raises:
        UserError: an environment variable that is no whole number above 0.
    """
    found = []
    for name, usual in (("WORKBENCH_QUOTA_MB", 500), ("WORKBENCH_QUOTA_RUNS", 3)):
        text = os.environ.get(name) or str(usual)
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{name} is {text!r}; it takes a whole number from 1 up.")
        found.append(int(text))
    return Quota(found[0] * 10**6, found[1])


def clean(name: str | None) -> str:
    """A name as it is shown: on one line, without a colon.

    Raises:
        UserError: empty, too long, or without a letter or digit.
    """
    words = " ".join("".join(c if c.isprintable() and c not in ":/\\" else " " for c in str(name or "")).split())
    if not key_of(words):
        raise UserError("The name is empty; give one that others in the room know you by.")
    if len(words) > LETTERS:
        raise UserError(f"The name has {len(words)} letters; {LETTERS} are enough.")
    return words


def key_of(name: str) -> str:
    """The folder's name: letters and digits of the name, small, with dashes between."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() or name.encode("utf-8").hex()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60]


def everybody() -> list[Person]:
    """All participants by name."""
    folders = sorted(root().iterdir()) if root().is_dir() else []
    found = []
    for folder in folders:
        told = peek(folder / "person.json")
        if told and not folder.is_symlink():
            found.append(Person(folder.name, str(told["name"]), float(told["joined"])))
    return sorted(found, key=lambda person: person.name.lower())


def find(key: str | None) -> Person | None:
    """The participant a key names; compared with names, never made into a path."""
    return next((person for person in everybody() if person.key == key), None)


def join(name: str | None) -> Person:
    """Enter the room; who has the same name enters again.

    Raises:
        UserError: a name that cannot be, or the room is full.
    """
    name = clean(name)
    known = find(key_of(name))
    if known:
        return known
    if len(everybody()) >= MOST_PEOPLE:
        raise UserError(f"The room holds {MOST_PEOPLE} people and is full; delete a folder in .people beside the runs.")
    person = Person(key_of(name), name, time.time())
    person.folder.mkdir(parents=True, exist_ok=True)
    write_json(person.folder / "person.json", {"name": person.name, "joined": person.joined})
    return person


# ---- whose run, and how much


def owner_of(run: Run) -> str:
    """Key of the person a run belongs to, by its name; empty for nobody's."""
    before, colon, _ = (live.title(run)).partition(": ")
    return key_of(before) if colon else ""


def runs_of(person: Person, runs: Iterable[Run]) -> list[Run]:
    """A person's runs among some."""
    return [run for run in runs if owner_of(run) == person.key]


def title(person: Person, words: str) -> str:
    """The name that makes a run this person's."""
    return f"{person.name}: {words}"[:80]


def weigh(runs: Iterable[Run]) -> int:
    """Bytes of some runs' folders; what a working run renames meanwhile is left out."""
    total = 0
    for run in runs:
        for folder, _, names in os.walk(run.directory):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
    return total


def check_quota(person: Person, runs: Iterable[Run]) -> None:
    """Refuse one more run.

    Raises:
        UserError: too many of the person's runs wait or work, or their folders are full.
    """
    own, most = runs_of(person, runs), quota()
    busy = sum(run.status in BUSY for run in own)
    if busy >= most.runs:
        raise UserError(
            f"{person.name} has {busy} runs that wait or work, and {most.runs} may; wait for one, or stop it."
        )
    used = weigh(own)
    if used >= most.bytes:
        raise UserError(
            f"{person.name}'s runs take {used / 1e6:.0f} MB, and {most.bytes / 1e6:.0f} are allowed; delete one on Runs."
        )


def best_loss(run: Run) -> float | None:
    """The smallest held-out loss a run has logged."""
    values = [row["eval_loss"] for row in live.metrics(run) if isinstance(row.get("eval_loss"), (int, float))]
    return min(values, default=None)


def take_home(person: Person, runs: Iterable[Run]) -> Path | None:
    """Copy what the person's finished runs said into their folder and pack it; None when nothing is finished.

    Returns:
        The zip file: settings, metrics, result and machine of each run, no weights.
    """
    own = [run for run in runs_of(person, runs) if run.status == "done"]
    if not own:
        return None
    mark = hashlib.sha256(repr([str(run.directory) for run in own]).encode()).hexdigest()[:8]
    packed = Path(os.environ["GRADIO_TEMP_DIR"]) / "people" / f"{person.key}-{mark}.zip"
    if packed.is_file():
        return packed
    for run in own:
        target = person.folder / run.id
        target.mkdir(exist_ok=True)
        for name in TAKEN:
            if (run.directory / name).is_file():
                shutil.copyfile(run.directory / name, target / name)
    packed.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for run in own:
            for name in TAKEN:
                if (person.folder / run.id / name).is_file():
                    archive.write(person.folder / run.id / name, f"{run.id}/{name}")
    return packed


def board(runs: list[Run]) -> list[dict[str, Any]]:
    """A row per person: runs by state, what works now, best held-out loss and its run, bytes, last sign of life."""
    rows = []
    for person in everybody():
        own = runs_of(person, runs)
        losses = {run: best_loss(run) for run in own if run.job == "finetune"}
        known = {run: loss for run, loss in losses.items() if loss is not None}
        best = min(known, key=known.get, default=None)
        states: dict[str, int] = {}
        for run in own:
            states[run.status] = states.get(run.status, 0) + 1
        rows.append(
            {
                "person": person, "runs": own, "states": states, "bytes": weigh(own), "best": best,
                "loss": known.get(best), "now": next((run for run in own if run.status in ("running", "stopping")), None),
            }
        )  # fmt: skip
    return rows
