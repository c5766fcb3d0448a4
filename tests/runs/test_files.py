"""JSON that is never half there, and the lock that survives no one."""

import dataclasses
import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.runs.files import is_full, locked, peek, plain, read_json, trouble, write_json


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": [2] * 5000, "bad": object()})
    assert read_json(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, ended = tmp_path / "a.json", threading.Event()
    write_json(path, {"n": 0, "pad": ""})

    def write():
        for n in range(400):
            write_json(path, {"n": n, "pad": "x" * (n * 37 % 5000)}, flush=False)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    looks = 0
    while not ended.is_set():
        value = peek(path)
        assert value is not None and len(value["pad"]) == value["n"] * 37 % 5000
        looks += 1
    thread.join()
    assert looks > 20 and peek(path)["n"] == 399


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\x00", b"[" * 100_000])
def test_what_cannot_be_read_counts_as_absent(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None and peek(tmp_path / "a.json") is None


def test_peek_reads_an_unchanged_file_once(tmp_path):
    write_json(tmp_path / "a.json", {"n": 1})
    first = peek(tmp_path / "a.json")
    assert peek(tmp_path / "a.json") is first
    write_json(tmp_path / "a.json", {"n": 2})
    assert peek(tmp_path / "a.json") == {"n": 2}


def test_plain_unpacks_what_jobs_return():
    @dataclasses.dataclass
    class Point:
        x: float

    value = {1: np.float32(0.5), "p": pathlib.Path("a/b"), "d": Point(float("inf")), "t": (True, None)}
    value["f"] = pd.DataFrame({"a": [1, 2]})
    expected = {"1": 0.5, "p": "a/b", "d": {"x": None}, "t": [True, None], "f": [{"a": 1}, {"a": 2}]}
    assert plain(value) == expected


def test_the_lock_keeps_threads_apart_and_says_so_when_it_takes_too_long(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=r"has held .*\.lock for 0 s; end it"), locked(tmp_path, 0.05):
        pytest.fail("two holders")
    with locked(tmp_path, 0.05):
        pass


def test_a_killed_holder_gives_the_lock_back(tmp_path):
    code = (
        "import sys, time, pathlib; from workbench.runs.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError), locked(tmp_path, 0.05):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path, 0.5):
            pass


def test_full_and_read_only_are_told_apart(tmp_path):
    assert is_full(OSError(errno.EDQUOT, "quota"), tmp_path)
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not is_full(ValueError("shape"), tmp_path)
    assert "is full; free some space" in trouble(OSError(errno.ENOSPC, "x"), tmp_path)
    assert "Read-only file system); set WORKBENCH_RUNS" in trouble(
        OSError(errno.EROFS, "Read-only file system"), tmp_path
    )
