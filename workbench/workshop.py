"""The workshop kit: half-day plans as pages that people read and tests walk, and the check of a machine before the room fills.

    python -m workbench.workshop        writes the measured computing time of each lesson into the plans' timetables

A plan is `notebooks/workshops/<name>.md`. Its timetable is one table with the columns Clock, Minutes, What, Lesson,
Computing; a row's clock is that of the row before plus its minutes. Recordings to replay are listed as
`assets/recordings/<key>.json`.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import lesson_run
from workbench.doctor import check
from workbench.errors import JobError, UserError, choose
from workbench.paths import assets
from workbench.progress import span

HALF_DAY = 210  # minutes
PORTS = {"lab": 8888, "app": 7860}
COLUMNS = ("Clock", "Minutes", "What", "Lesson", "Computing")


@dataclass(frozen=True)
class Block:
    """One row of a timetable.

    Attributes:
        clock: minutes after the start.
        minutes: how long.
        what: what happens.
        lesson: name of the notebook that is open; empty for talk and breaks.
        computing: what the page says that lesson takes to compute.
    """

    clock: int
    minutes: int
    what: str
    lesson: str
    computing: str


@dataclass(frozen=True)
class Plan:
    """One half-day.

    Attributes:
        name: peft, compression or scaling.
        title: first line of the page.
        path: the page.
        blocks: its timetable.
        recordings: keys of the recorded runs it replays.
    """

    name: str
    title: str
    path: Path
    blocks: tuple[Block, ...]
    recordings: tuple[str, ...]

    @property
    def lessons(self) -> list[str]:
        """Names of the lessons, each once, in order."""
        return list(dict.fromkeys(block.lesson for block in self.blocks if block.lesson))


def plans() -> dict[str, Plan]:
    """Every plan by name."""
    return {path.stem: read(path) for path in sorted((lesson_run.folder() / "workshops").glob("*.md"))}


def find(name: str) -> Plan:
    """A plan by its name.

    Raises:
        UserError: no such plan, with those that exist.
    """
    found = plans()
    return found[choose("workshop", name, found)]


def read(path: Path) -> Plan:
    """A plan from its page.

    Raises:
        UserError: a timetable that cannot be read, with the row.
    """
    text = path.read_text(encoding="utf-8")
    blocks = []
    for line in _table(text, path):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        clock = re.fullmatch(r"(\d+):(\d\d)", cells[0])
        if len(cells) != len(COLUMNS) or clock is None or not cells[1].isdigit():
            raise UserError(f"{path.name}: the row {line.strip()!r} is no `| 0:10 | 25 | what | lesson | computing |`.")
        lesson = cells[3].strip("`")
        blocks.append(Block(60 * int(clock[1]) + int(clock[2]), int(cells[1]), cells[2], lesson, cells[4]))
    keys = tuple(dict.fromkeys(re.findall(r"assets/recordings/([\w-]+)\.json", text)))
    return Plan(path.stem, text.splitlines()[0].lstrip("# "), path, tuple(blocks), keys)


def _table(text: str, path: Path) -> list[str]:
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith("| Clock ")), None)
    if head is None:
        raise UserError(f"{path.name} has no timetable; it starts with | {' | '.join(COLUMNS)} |.")
    rows = lines[head + 2 :]
    return rows[: next((i for i, line in enumerate(rows) if not line.startswith("|")), len(rows))]


def problems(plan: Plan) -> list[str]:
    """What is wrong with a plan's timetable, a sentence each."""
    found, at = [], 0
    for block in plan.blocks:
        if block.clock != at:
            found.append(
                f"{plan.name}: {block.what!r} starts at {block.clock} minutes, the rows before it end at {at}."
            )
        at = block.clock + block.minutes
    if at != HALF_DAY:
        found.append(f"{plan.name} takes {at} minutes; a half-day has {HALF_DAY}.")
    measured = lesson_run.times()
    for block in plan.blocks:
        if block.lesson and block.lesson in measured and measured[block.lesson]["processor"] > 60 * block.minutes / 2:
            found.append(f"{plan.name}: {block.lesson} computes longer than half of its {block.minutes} minutes.")
    return found


def computing(lesson: str) -> str:
    """How long a lesson computes on one core that has nothing else to do, as the timetable says it."""
    row = lesson_run.times().get(lesson)
    return span(row["processor"]) if row else "not measured"


def write_times() -> list[Path]:
    """Put the measured times into the timetables; returns the pages that changed."""
    changed = []
    for plan in plans().values():
        text = plan.path.read_text(encoding="utf-8")
        new = text
        for line in _table(text, plan.path):
            cells = line.strip().strip("|").split("|")
            lesson = cells[3].strip().strip("`")
            if lesson:
                new = new.replace(line, "|" + "|".join([*cells[:4], f" {computing(lesson)} "]) + "|")
        if new != text:
            plan.path.write_text(new, encoding="utf-8")
            changed.append(plan.path)
    return changed


def checks(wanted: Mapping[str, Plan], say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """What a workshop needs beyond `workbench doctor`: ports, kernel, recordings, and each lesson run once at scale smoke.

    Args:
        wanted: the plans.
        say: told which lesson runs.
    """
    report = [_port(room, port) for room, port in PORTS.items()] + [_kernel()]
    for plan in wanted.values():
        wrong = problems(plan)
        report.append(
            check(
                f"plan {plan.name}",
                not wrong,
                " ".join(wrong) or f"{len(plan.blocks)} rows",
                f"correct {plan.path.name}",
            )
        )
    for key in dict.fromkeys(key for plan in wanted.values() for key in plan.recordings):
        report.append(_recording(key))
    for lesson in dict.fromkeys(lesson for plan in wanted.values() for lesson in plan.lessons):
        say(f"running lesson {lesson} …")
        report.append(_lesson(lesson))
    return report


def _port(room: str, port: int) -> dict[str, Any]:
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("127.0.0.1", port))
        except OSError:
            return check(f"port {port}", False, "taken by another program", f"workbench {room} --port {port + 1}")
    return check(f"port {port}", True, f"free, for workbench {room}")


def _kernel() -> dict[str, Any]:
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs()
    fix = f"{sys.executable} -m ipykernel install --sys-prefix"
    return check("jupyter kernel", "python3" in found, found.get("python3", "no kernel called python3"), fix)


def _recording(key: str) -> dict[str, Any]:
    path = assets() / "recordings" / f"{key}.json"
    fix = f"python -m apps.recordings assets/recordings/{key}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        return check(f"recording {key}", False, f"cannot be read ({error})", fix)
    return check(f"recording {key}", bool(rows), f"{len(rows)} rows", fix)


def _lesson(name: str) -> dict[str, Any]:
    import tempfile

    fix = f"workbench lab, open {name}.ipynb and run it; a missing package is named there"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _, taken = lesson_run.execute(lesson_run.find(name), "smoke", Path(scratch))
        except (JobError, UserError) as error:
            return check(f"lesson {name[:2]}", False, str(error), fix)
    return check(f"lesson {name[:2]}", True, f"runs, {taken.seconds:.0f} s at the smallest scale")


if __name__ == "__main__":
    for changed in write_times():
        print(changed)
