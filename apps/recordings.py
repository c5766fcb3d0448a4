"""Recorded runs: what a real run logged and when, small enough to ship, played back at any speed on a machine without time.

    python -m apps.recordings assets/recordings/tiny-lm-lora.json      makes a shipped one anew (two minutes on two cores)
    … assets/recordings/tiny-lm-nf4.json --set quantize=nf4 --name "tiny-lm in four bits learns Moby-Dick"
    … assets/recordings/tiny-lm-wsd.json --set method=full --set schedule=wsd --set learning_rate=1e-3 \\
        --name "tiny-lm with its rate held, then lowered"

A recording is one JSON object: name, job, config, machine and versions, result, and `rows`: the run's metric rows, each with
`at`, the seconds since the first of them; `loading` is what came before it, `seconds` what came after. Playing shows the rows
whose `at` has come; nothing is computed or invented.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import machine
from workbench.errors import UserError, choose
from workbench.paths import assets
from workbench.runs import Run, Store

LARGEST = 100_000  # bytes of a recording
SETTINGS = {
    "model": "tiny-lm", "data": "moby-dick", "method": "lora", "steps": 240, "batch_size": 8, "window": 64,
    "eval_every": 20, "eval_rows": 32, "learning_rate": 3e-3, "precision": "fp32",
}  # fmt: skip
KEPT = ("step", "loss", "eval_loss", "learning_rate", "tokens_per_second", "gradient_norm")


def folder() -> Path:
    """Where the shipped recordings lie."""
    return assets() / "recordings"


def known() -> list[tuple[str, str]]:
    """(label, key) of every recording."""
    found = []
    for path in sorted(folder().glob("*.json")):
        recording = load(path.stem)
        found.append(
            (f"{recording['name']} · {len(recording['rows'])} rows in {recording['seconds']:.0f} s", path.stem)
        )
    return found


def load(key: str) -> dict[str, Any]:
    """A recording by its key.

    Raises:
        UserError: a key that names none, or a file that is none.
    """
    names = [path.stem for path in folder().glob("*.json")]
    path = folder() / f"{choose('recording', str(key), names)}.json"
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found["rows"]
        times = [float(row["at"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path.name} is no recording ({error}); make one with: python -m apps.recordings FILE.json"
        ) from error
    if times != sorted(times) or not times or times[0] < 0:
        raise UserError(f"{path.name}: its rows are not in the order of time; record it again.")
    return found


def until(recording: Mapping[str, Any], at: float) -> list[dict[str, Any]]:
    """The rows that had been logged `at` seconds after the first one."""
    return [row for row in recording["rows"] if row["at"] <= at]


def record(run: Run) -> dict[str, Any]:
    """What a finished run logged, ready to be written.

    Raises:
        UserError: the run is not done, or logged too much for a recording.
    """
    if run.status != "done":
        raise UserError(f"{run.id} is {run.status}; only a finished run can be recorded.")
    begun = next(event["time"] for event in run.record()["history"] if event["status"] == "running")
    logged, rows = run.metrics(), []
    first = logged[0]["time"] if logged else begun
    for row in logged:
        kept = {name: row[name] for name in KEPT if row.get(name) is not None}
        if "loss" in kept or "eval_loss" in kept:
            rows.append(
                {"at": round(row["time"] - first, 2), **{k: v if k == "step" else round(v, 5) for k, v in kept.items()}}
            )
    result = run.result() or {}
    place = machine.describe()
    found = {
        "name": run.name or run.id, "job": run.job, "config": run.config, "loading": round(first - begun, 1),
        "seconds": rows[-1]["at"] if rows else 0.0,
        "result": {name: value for name, value in result.get("metrics", {}).items() if isinstance(value, (int, float))},
        "made": {name: place[name] for name in ("machine", "cores", "python", "torch", "date") if name in place},
        "rows": rows,
    }  # fmt: skip
    size = len(json.dumps(found))
    if size > LARGEST:
        raise UserError(f"{run.id} logged {size} bytes and a recording takes {LARGEST}; record a shorter run.")
    return found


def main() -> None:
    """Fine-tune tiny-lm for real and write what it logged."""
    from workbench.commands.options import pairs

    parser = argparse.ArgumentParser(prog="python -m apps.recordings", description=main.__doc__)
    parser.add_argument("file", type=Path, help="where the recording goes, ending in .json")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help="optimizer steps (default: %(default)s)")
    parser.add_argument("--name", default="tiny-lm learns Moby-Dick", help="how it is called (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another setting of the fine-tuning"
    )
    options = parser.parse_args()
    settings = {**SETTINGS, "steps": options.steps, **pairs(tuple(options.set), "--set")}
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        store.run_here("finetune", settings, name=options.name)
        found = record(store.list()[0])
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{options.file}: {len(found['rows'])} rows in {found['seconds']} s, {options.file.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
