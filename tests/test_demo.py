"""The main job on the tiny model: killed in the middle, continued, and its report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.demo import COMPRESSED, ORDER
from workbench.demo import check as check_demo
from workbench.errors import UserError

WORDS = [
    sys.executable,
    "-m",
    "workbench",
    "demo",
    "--model",
    "tiny-lm",
    "--data",
    "moby-dick",
    "--steps",
    "6",
    "--json",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    env = {**os.environ, "WORKBENCH_RUNS": str(root), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(WORDS, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root)
    deadline = time.monotonic() + 240
    while not list(root.glob("*/cells/rtn-4.json")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (cells,) = root.glob("*/cells")
    before = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    second = subprocess.run(WORDS, env=env, capture_output=True, text=True, cwd=root, timeout=300)
    assert second.returncode == 0, second.stderr
    begun = time.monotonic()
    third = subprocess.run(WORDS, env=env, capture_output=True, text=True, cwd=root, timeout=60)
    return root, cells, before, json.loads(second.stdout), json.loads(third.stdout), time.monotonic() - begun


def test_a_killed_demo_continues_without_redoing_finished_cells(finished):
    root, cells, before, *_ = finished
    assert len(list(root.glob("*/config.json"))) == 1, "it went on in the same run"
    for name, stamp in before.items():
        assert (cells / name).stat().st_mtime_ns == stamp


def test_every_variant_is_measured_with_intervals(finished):
    rows = {row["name"]: row for row in finished[3]["rows"]}
    assert list(rows) == list(ORDER)
    for row in rows.values():
        assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["disk_bytes"] > 0 and row["ram_bytes"] > 0 and row["decode_tps"] > 0 and row["prefill_tps"] > 0
    assert len({row["fingerprint"] for row in rows.values()}) == len(ORDER)
    assert any(row["perplexity_tied"] for row in rows.values())


def test_sizes_and_quality_are_ordered_as_they_must_be(finished):
    rows = {row["name"]: row for row in finished[3]["rows"]}
    disk = [rows[name]["disk_bytes"] for name in ("tuned", "gptq-8", "gptq-4", "gptq-3")]
    assert disk == sorted(disk, reverse=True)
    assert rows["gptq-3"]["perplexity"] < rows["rtn-3"]["perplexity"]
    assert rows["tuned"]["perplexity"] < rows["rtn-3"]["perplexity"]
    for name in COMPRESSED:
        assert rows[name]["seconds"] > 0


def test_a_finished_demo_answers_at_once(finished):
    *_, second, third, seconds = finished
    assert third == second
    assert seconds < 20


def test_the_report_is_whole_and_self_contained(finished):
    text = Path(finished[3]["report"]).read_text(encoding="utf-8")
    for name in ORDER:
        assert name in text
    assert not re.search(r"""(?:src|href)=["']https?:""", text.split("<script>")[0])
    assert len(finished[3]["samples"]) == 3
    for sample in finished[3]["samples"]:
        assert set(sample["texts"]) == set(ORDER)


def test_bad_input_is_refused_before_a_run_is_made():
    with pytest.raises(UserError, match="tiny-lm"):
        check_demo({"model": "tiny-ml", "data": "moby-dick", "steps": 1, "seed": 0})
    with pytest.raises(UserError, match="moby-dick"):
        check_demo({"model": "tiny-lm", "data": "moby-dock", "steps": 1, "seed": 0})
