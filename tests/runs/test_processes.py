"""Alive or not: process ids lie, start times do not."""

import os
import subprocess
import sys
import time

import pytest

from workbench.runs.files import write_json
from workbench.runs.processes import OWNER, SIGN_OF_LIFE, STOP, alive, escalate, identity, is_me, overdue, request_stop


def owned(tmp_path, **changes):
    write_json(tmp_path / OWNER, {**identity(), **changes})
    return alive(tmp_path)


def test_this_process_is_alive_and_itself(tmp_path):
    assert owned(tmp_path)
    assert is_me(identity()) and not is_me({**identity(), "started": 1.0}) and not is_me(None)


def test_a_reused_process_id_does_not_fool_it(tmp_path):
    assert not owned(tmp_path, started=identity()["started"] - 100)
    assert not owned(tmp_path, pid=2**22 + 1)
    assert not owned(tmp_path, pid="1; true")


def test_a_zombie_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    write_json(tmp_path / OWNER, identity(child.pid))
    assert alive(tmp_path)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, nobody has collected it
    assert os.path.exists(f"/proc/{child.pid}") or sys.platform != "linux"
    assert not alive(tmp_path)
    child.wait()


def test_after_a_reboot_everything_is_dead(tmp_path):
    host, _, space = identity()["where"]
    assert not owned(tmp_path, where=[host, "another-boot", space])


@pytest.mark.parametrize(("age", "living"), [(0, True), (SIGN_OF_LIFE + 5, False)])
def test_elsewhere_the_last_sign_of_life_decides(tmp_path, age, living):
    owned(tmp_path, where=["another-host", "x", "y"])
    moment = time.time() - age
    os.utime(tmp_path / OWNER, (moment, moment))
    assert alive(tmp_path) is living


def test_no_owner_is_dead(tmp_path):
    assert not alive(tmp_path)


def test_grace_counts_from_the_first_request(tmp_path):
    assert overdue(tmp_path) == 0
    request_stop(tmp_path, "first", grace=0.1)
    time.sleep(0.15)
    request_stop(tmp_path, "second", grace=100)
    assert overdue(tmp_path) > 1
    write_json(tmp_path / STOP, {"asked": "soon"})
    assert overdue(tmp_path) == 0


def test_a_process_elsewhere_or_reused_is_never_signalled(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled"))
    write_json(tmp_path / STOP, {"asked": 0, "grace": 1})
    for changes in ({"where": ["another-host", "x", "y"]}, {"started": 1.0}):
        owned(tmp_path, **changes)
        escalate(tmp_path)
