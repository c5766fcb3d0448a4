"""What the machine has, what a run needs, what is written down."""

import subprocess
import sys
from pathlib import Path

import pytest

import workbench
from workbench.errors import UserError
from workbench.runs import hardware, require_space
from workbench.runs.files import free_bytes
from workbench.runs.hardware import _ask_nvidia_smi, environment


def test_hardware_counts_what_there_is():
    found = hardware()
    assert found["cores"] >= 1 and found["memory_bytes"] > 1e8 and found["disk_free_bytes"] > 0
    assert all(gpu["memory_bytes"] > 1e8 and gpu["name"] for gpu in found["gpus"])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'H100, SXM, 81559'; echo 'Tesla T4, 15360'", (("H100, SXM", 81559 * 2**20), ("Tesla T4", 15360 * 2**20))),
        ("echo 'No devices were found'", ()),
        ("echo 'driver mismatch' >&2; exit 9", ()),
    ],
)  # fmt: skip
def test_gpus_are_asked_for_without_torch(tmp_path, monkeypatch, script, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert _ask_nvidia_smi.__wrapped__() == expected


def test_a_forecast_beyond_the_free_disk_is_refused(tmp_path):
    free = free_bytes(tmp_path)
    require_space(tmp_path / "not" / "there" / "yet", free / 2)
    with pytest.raises(UserError, match=r"This fine-tuning writes about .* MB and the disk of .* MB free; free some"):
        require_space(tmp_path, free * 2, "This fine-tuning")


def test_the_environment_holds_no_environment_variables_and_no_arguments(monkeypatch):
    from workbench.runs.hardware import command

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(sys, "argv", ["/x/bin/workbench", "app", "--auth", "me:hf_secret"])
    record = environment({"seed": 3}, command())
    assert record["seed"] == 3 and record["command"] == "workbench app" and record["packages"]["numpy"] != "absent"
    assert "hf_secret" not in str(record)


def test_importing_the_room_takes_the_standard_library_only():
    code = (
        "import sys, workbench; before = set(sys.modules); import workbench.runs\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new <= set(sys.stdlib_module_names) | {'workbench'}, new - set(sys.stdlib_module_names)\n"
        "assert not {'subprocess', 'asyncio', 'sqlite3', 'shutil', 'inspect'} & new, new"
    )
    root = str(Path(workbench.__file__).parents[1])
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd="/", env={"PYTHONPATH": root})
