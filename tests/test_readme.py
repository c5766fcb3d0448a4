"""Every command of the README exists and takes the flags shown; the short ones and the Python example are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from workbench.paths import assets

ROOT = assets().parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("workbench ")]
TARGETS = sorted({line.split()[1] for line in LINES if line.startswith("make ")})
RUN = [line for line in COMMANDS if line.split()[1] in ("papers", "fit", "runs")]


def workbench(*words: str, cwd=ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words], capture_output=True, text=True, cwd=cwd, timeout=300,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150
    assert COMMANDS and TARGETS and RUN


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_flags_exist(line):
    words = shlex.split(line)[1:]
    help_text = workbench(words[0], "--help").stdout
    assert help_text.startswith("Usage:")
    for flag in (word for word in words if word.startswith("--")):
        assert flag in help_text


@pytest.mark.parametrize("line", RUN)
def test_short_commands_run(line, tmp_path):
    words = [str(ROOT / w) if w.startswith("assets/") else w for w in shlex.split(line)[1:]]
    found = workbench(*words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_python_example_runs():
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "bits a weight" in found.stdout


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).is_file(), target


def test_table_is_what_its_command_writes():
    from workbench.readme import render

    assert render(TEXT) == TEXT, "run: python -m workbench.readme"
