"""Metrics: appended lines, read from any offset, right across resumes."""

import json
import math

import numpy as np
import pytest

from workbench.runs.metrics import Writer, merge, read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def log(path, attempt, *rows):
    writer = Writer(path, attempt)
    for row in rows:
        writer.append(row)
    writer.close()


def short(rows):
    return [(row["step"], row["attempt"]) for row in rows]


def test_a_resumed_attempt_speaks_for_everything_after_its_checkpoint():
    # Checkpoint at 20; the killed attempt got to 40, the resumed one has logged 30 so far.
    rows = [{"step": s, "loss": 1.0, "attempt": 1} for s in (10, 20, 30, 40)] + [
        {"step": 30, "loss": 2.0, "attempt": 2}
    ]
    assert [(r["step"], r["loss"]) for r in merge(rows)] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_evaluation_rows_of_the_lost_steps_go_too_and_those_at_the_checkpoint_stay():
    old = [
        {"step": 20, "loss": 1, "attempt": 1},
        {"step": 20, "eval": 1, "attempt": 1},
        {"step": 30, "eval": 1, "attempt": 1},
    ]
    new = [{"step": 20, "eval": 2, "attempt": 2}, {"step": 21, "loss": 2, "attempt": 2}]
    kept = merge(old + new)
    assert kept == [old[0], *new]


def test_streams_do_not_touch_each_other():
    rows = [{"step": 5, "seed": 0, "attempt": 1}, {"step": 5, "phase": "tune", "attempt": 1}]
    rows += [{"step": 1, "seed": 1, "attempt": 2}, {"step": 1, "phase": "compress", "attempt": 2}]
    assert merge(rows) == rows


def test_rows_without_a_step_are_replaced_only_by_the_same_thing_measured_again():
    rows = [{"layer": 1, "error": 0.5, "attempt": 1}, {"layer": 2, "error": 0.6, "attempt": 1}]
    rows += [{"layer": 2, "error": 0.7, "attempt": 2}, {"layer": 3, "error": 0.8, "attempt": 2}]
    assert [(r["layer"], r["error"]) for r in merge(rows)] == [(1, 0.5), (2, 0.7), (3, 0.8)]


def test_reading_on_from_an_offset_gives_what_one_read_gives(path):
    seen, offset = [], 0
    for attempt, steps in ((1, range(1, 8)), (2, range(5, 9)), (3, range(2, 12))):
        for step in steps:
            log(path, attempt, {"step": step})
            rows = read(path, offset)
            seen, offset = merge([*seen, *rows]), rows.offset
    assert offset == path.stat().st_size
    assert seen == read(path)
    assert short(seen) == [(1, 1), *((step, 3) for step in range(2, 12))]


def test_nothing_new_costs_no_reading(path, monkeypatch):
    log(path, 1, {"step": 1})
    end = read(path).offset
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("the file was opened"))
    assert read(path, end) == [] and read(path, end).offset == end


def test_a_torn_last_line_waits_for_its_rest(path):
    log(path, 1, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "atte')
        file.flush()
        rows = read(path)
        assert short(rows) == [(1, 1)]
        file.write(b'mpt": 1}\n')
    assert short(read(path, rows.offset)) == [(2, 1)]


def test_a_torn_line_of_a_killed_worker_does_not_swallow_the_next_row(path):
    log(path, 1, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    log(path, 2, {"step": 2}, {"step": 3})
    assert short(read(path)) == [(1, 1), (2, 2), (3, 2)]


def test_absent_file_and_odd_lines_read_as_nothing(path):
    assert read(path) == [] and read(path).offset == 0
    path.write_bytes(b"[1]\n\xff\xfe\nnull\n" + b"[" * 100_000 + b"\n")
    assert read(path) == []


def test_rows_are_plain_json_with_time_and_attempt(path):
    log(path, 3, {"step": np.int64(4), "loss": np.float32(0.5), "worst": math.nan, "curve": np.arange(2)})
    row = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert row.pop("time") > 1e9
    assert row == {"step": 4, "loss": 0.5, "worst": None, "curve": [0, 1], "attempt": 3}


def test_the_name_attempt_is_the_stores_own(path):
    with pytest.raises(ValueError, match="attempt"):
        log(path, 1, {"attempt": 7})
