"""A process of its own for every cell, without paying for the imports again: a server imports everything and forks.

    grid ── line with a file name ─► server ── fork ─► cell (fresh: nothing has been computed in the server) ─► exit code

The server has run no torch code, so a fork of it is as clean as a new interpreter; memory that an earlier cell used cannot
be seen in a later one. When the grid goes away the pipe closes, and the server ends its cell and itself. Where the system
cannot fork, every cell is an interpreter of its own.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from workbench.errors import JobError, UserError

FORKS = hasattr(os, "fork")
LOOK_EVERY = 0.1
FAILED = 3  # exit code of a cell that could not be measured; its file says why


class Server:
    """Runs one cell at a time. Use as a context manager.

    Args:
        log: file that takes everything the cells print.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and what it runs."""
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
            self.process = None

    def _start(self, *more: str) -> subprocess.Popen:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "workbench.grid.server", *more],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip

    def run(self, job: Path, should_stop: Callable[[], bool]) -> bool:
        """Run the cell described in `job`.

        Returns:
            True when it ended by itself, False when it was stopped.

        Raises:
            JobError: it was killed from outside (memory, perhaps).
        """
        if self.process is None or self.process.poll() is not None:
            self.process = self._start() if FORKS else self._start(str(job))
        if FORKS:
            self.process.stdin.write(f"{job}\n")
            self.process.stdin.flush()
        while not _readable(self.process.stdout):
            if should_stop():
                self.close()
                return False
        answer = self.process.stdout.readline().strip()
        if not FORKS:
            self.close()
        if answer not in ("0", str(FAILED)):
            if not answer:
                self.close()
            why = f"ended with {answer}" if answer else "was killed"
            raise JobError(
                f"The process of a cell {why}; its last words are in {self.log.name}. Resume tries it again."
            )
        return True


def _readable(stream: IO[str]) -> bool:
    if os.name == "nt":  # pipes cannot be waited for there: block
        return True
    return bool(select.select([stream], [], [], LOOK_EVERY)[0])


def main(arguments: list[str]) -> int:
    """The server: one file name a line, one exit code a line back. With a file name as argument: that cell alone."""
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import Trainer  # noqa: F401

    from workbench.grid import cell  # noqa: F401
    from workbench.training import finetuning, loop  # noqa: F401

    gc.collect()
    gc.freeze()  # what is imported is never garbage: cells need not look through it, and its pages stay shared
    if arguments:
        print(work(Path(arguments[0])), flush=True)
        return 0
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            code = 1
            try:
                code = work(Path(line.strip()))
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(_wait(child), flush=True)
    return 0


def _wait(child: int) -> int:
    """Exit code of the child; when the grid is gone, end the child and this server."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if select.select([sys.stdin], [], [], 0)[0]:  # nothing is sent while a cell works: the pipe was closed
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit(0)
        time.sleep(LOOK_EVERY / 2)


def work(job: Path) -> int:
    """Measure the cell in `job` and write its file; a cell that cannot be measured says why in it."""
    import json
    import shutil
    import traceback

    from workbench.evaluation import cells as files
    from workbench.grid import cell as cells

    task = json.loads(job.read_text(encoding="utf-8"))
    folder, wanted = Path(task["folder"]), task["cell"]
    scratch = folder / "scratch" / wanted["key"]
    scratch.mkdir(parents=True, exist_ok=True)
    rows = files.read(folder / "material", task["material"])

    def progress(text: str) -> None:
        files.write(folder / "now", wanted["key"], {"text": text})

    try:
        done = files.plain(cells.run(wanted, rows, scratch, progress))
    except Exception as error:  # every kind of failure is a result of this cell and must not end the others
        traceback.print_exc()
        told = str(error) if isinstance(error, (JobError, UserError)) else f"{type(error).__name__}: {error}"
        done = {**wanted, "failed": " ".join(told.split())[:500]}
    files.write(folder / "cells", wanted["key"], done)
    shutil.rmtree(scratch, ignore_errors=True)
    return FAILED if "failed" in done else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
