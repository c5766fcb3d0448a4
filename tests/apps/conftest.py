"""One running app, and one headless browser, for all tests of a worker. Tests that need a browser skip where none is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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
                assert time.monotonic() - begun < 120, "no first page after two minutes\n" + self.log()
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


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The running app."""
    found = Server(tmp_path_factory.mktemp("app"))
    yield found
    found.stop()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of this machine, driven by Playwright."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """A fresh browser page that remembers what went wrong: `page.problems` holds console errors and outside requests."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    found = context.new_page()
    found.problems = []
    found.on("console", lambda m: found.problems.append(f"console: {m.text}") if m.type == "error" else None)
    found.on("pageerror", lambda error: found.problems.append(f"error: {error}"))

    def seen(request):
        if not request.url.startswith((server.url, "data:", "blob:")):
            found.problems.append(f"request: {request.url}")

    found.on("request", seen)
    found.set_default_timeout(30_000)
    yield found
    context.close()
