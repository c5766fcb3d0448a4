"""Pictures of every page, to be looked at: `python -m apps.screenshots DIR [--runs FOLDER]`.

Starts the app on a folder of runs (a scratch one by default, in which three short runs are made first) and photographs each
page at desktop and phone width, light and dark, with a headless Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from workbench.errors import UserError
from workbench.runs import Store

SIZES = {"desktop": (1440, 900, "light"), "dark": (1440, 900, "dark"), "phone": (390, 844, "light")}
PAGES = ("", "finetune", "compress", "compare", "chat", "scaling", "papers", "runs")
SHORT = {"model": "tiny-lm", "data": "moby-dick", "window": 64, "precision": "fp32", "eval_rows": 8}


def make_runs(store: Store) -> None:
    """Three short runs, so that no picture is empty: a fine-tuning, its compression, and both compared."""
    tuned = store.submit("finetune", {**SHORT, "steps": 60, "eval_every": 10}, name="moby").id
    store.wait(tuned, 600)
    for bits in (8, 4, 3):
        folder = str(store.get(tuned).directory / "tuned")
        last = store.submit("quantize", {"model": folder, "method": "rtn", "bits": bits}).id
        store.wait(last, 600)
    packed = str(store.get(last).directory / "packed")
    store.wait(store.submit("compare", {"models": ["tiny-lm", folder, packed], "tokens": 1500, "items": 12}).id, 600)


def addresses(store: Store) -> dict[str, str]:
    """File name → address: every page, with a run in view where the folder holds one."""
    newest = {run.job: run.id for run in reversed(store.list())}
    query = {
        "finetune": f"run={newest.get('finetune', '')}",
        "compress": f"run={newest.get('quantize', '')}",
        "compare": f"run={newest.get('compare', '')}",
        "chat": f"model=run:{newest.get('finetune', '')}",
        "papers": "paper=mup",
        "runs": f"run={newest.get('finetune', '')}",
    }
    return {name or "home": f"{name}?{query.get(name, '')}" for name in PAGES}


def serve(runs: Path) -> tuple[subprocess.Popen, str]:
    """Start the app; returns its process and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench", "app", "--port", str(port), "--no-browser"],
        env={**os.environ, "WORKBENCH_RUNS": str(runs)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return process, url
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise UserError("The app did not start; run: workbench app")


def shoot(folder: Path, url: str, pages: dict[str, str]) -> None:
    """One picture for each page and size."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise UserError("Pictures need a Chromium; install one (Debian: apt install chromium).")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for size, (width, height, theme) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            for name, address in pages.items():
                page.goto(f"{url}{address}{'&' if '?' in address else '?'}theme={theme}")
                page.wait_for_selector(".wb-head h1")
                page.wait_for_timeout(3500)
                if name == "scaling":
                    page.get_by_role("button", name="Fit this law").click()
                    page.wait_for_timeout(6000)
                if name == "chat":
                    page.get_by_placeholder("Ask all of them").fill("Call me")
                    page.get_by_role("button", name="Ask", exact=True).click()
                    page.wait_for_timeout(8000)
                page.screenshot(path=folder / f"{name}-{size}.png", full_page=True)
                print(folder / f"{name}-{size}.png")
        browser.close()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m apps.screenshots", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument(
        "--runs", type=Path, default=None, help="a folder of runs to show (default: made for the pictures)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = (options.runs or Path(scratch) / "runs").absolute()
        store = Store(runs)
        if not store.list():
            make_runs(store)
        process, url = serve(runs)
        try:
            shoot(options.folder, url, addresses(store))
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
