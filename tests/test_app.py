"""The app's first page, from a checkout: it starts, answers, stays on this machine, and asks nobody outside."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    begun = time.monotonic()
    log = open(folder / "app.log", "w+b")  # noqa: SIM115 - closed with the server
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "app", "--port", str(port), "--no-browser"],
        env={**os.environ, "WORKBENCH_RUNS": str(folder / "runs"), "HF_HUB_OFFLINE": "1"},
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    page = answer.read().decode()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "app.log").read_text()
                assert time.monotonic() - begun < 120, "no first page after two minutes"
                time.sleep(0.2)
        yield url, page
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_first_page_is_ours(server):
    assert "Workbench" in server[1]


def test_first_page_asks_nobody_outside(server):
    page = re.sub(r"<!--.*?-->", "", server[1], flags=re.DOTALL)
    hosts = set(re.findall(r"""(?:src|href)=["'](https?://[^/"']+)""", page))
    assert hosts <= {server[0]}, f"the page loads from {hosts}"


def test_monitoring_is_off(server):
    with pytest.raises(urllib.error.HTTPError, match=r"403|404") as refused:
        urllib.request.urlopen(f"{server[0]}/monitoring/summary", timeout=10)
    refused.value.close()
