"""The app as a process of its own, raw calls to it, and followers of a run: shared by the tests and by bench_app.py."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any


class Server:
    """The app as a process of its own, on a free port, with its own folder of runs."""

    def __init__(self, folder: Path, *flags: str, host: str = "127.0.0.1") -> None:
        self.folder, self.flags, self.host = folder, flags, host
        self.runs = folder / "runs"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self) -> None:
        begun = time.monotonic()
        environment = {
            **os.environ,
            "WORKBENCH_RUNS": str(self.runs),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "WORKBENCH_MODELS": str(self.folder / "offered"),
        }
        with open(self.folder / "app.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench", "app", "--host", self.host, "--port", str(self.port), "--no-browser",
                 *self.flags],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                break
            except urllib.error.HTTPError as error:
                error.close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self.process.poll() is None, self.log()
                assert time.monotonic() - begun < 300, "no first page after five minutes\n" + self.log()
                time.sleep(0.1)
        self.seconds = time.monotonic() - begun

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)

    def log(self) -> str:
        return (self.folder / "app.log").read_text(errors="replace")

    def kill(self) -> None:
        """As the machine would when it runs out of memory: no word to anybody."""
        self.process.kill()
        self.process.wait(20)


IDLE = 4.0  # seconds after which the server may have closed a connection (it does after 5)


class Caller:
    """One client on one connection, opened anew after a rest; `session` is what a browser's tab would be."""

    def __init__(self, port: int, session: str = "") -> None:
        self.port, self.session = port, session
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.used = time.monotonic()

    def call(self, name: str, *values: Any, index: int | None = None) -> list[Any]:
        """What a named endpoint (or the handler with a number) answers."""
        body: dict[str, Any] = {"data": list(values)}
        if index is not None:
            body["fn_index"] = index
        if self.session:
            body["session_hash"] = self.session
        if time.monotonic() - self.used > IDLE:
            self.connection.close()
        self.connection.request(
            "POST", f"/gradio_api/run/{name}", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = self.connection.getresponse()
        text = answer.read().decode()
        self.used = time.monotonic()
        if answer.status != 200:
            raise AssertionError(f"{name}: {answer.status} {text[:400]}")
        return json.loads(text)["data"]

    def close(self) -> None:
        self.connection.close()


class Follower(threading.Thread):
    """Reads a run's rows as a page does, once a second, from where it stands; keeps them all.

    It has a session, as browsers and gradio_client do: Gradio makes a new one for every call without (41 instead of 7 ms).
    """

    def __init__(self, port: int, run: str, every: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.caller, self.run_id, self.every = Caller(port, session=uuid.uuid4().hex), run, every
        self.rows: list[dict[str, Any]] = []
        self.offset, self.answers, self.waits, self.error = 0, 0, [], None
        self.ended, self.awake = threading.Event(), threading.Event()
        self.awake.set()

    def look(self) -> None:
        begun = time.perf_counter()
        found = self.caller.call("metrics", self.run_id, self.offset)[0]
        self.waits.append(time.perf_counter() - begun)
        self.rows += found["rows"]
        self.offset = found["offset"]
        self.answers += 1

    def run(self) -> None:
        try:
            while not self.ended.wait(self.every):
                if self.awake.is_set():
                    self.look()
            self.look()
        except Exception as error:
            self.error = error
        finally:
            self.caller.close()


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")


def ticks(server: Server) -> list[int]:
    """Numbers of the handlers that the clock of some page calls."""
    with urllib.request.urlopen(f"{server.url}/config", timeout=20) as answer:
        config = json.loads(answer.read())
    return [found["id"] for found in config["dependencies"] if any(t[1] == "tick" for t in found["targets"])]
