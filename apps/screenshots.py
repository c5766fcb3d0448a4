"""Pictures of every page, to be looked at: `python -m apps.screenshots DIR [--runs FOLDER] [--readme]`.

Starts the app on a folder of runs (a scratch one by default, in which a few short runs are made first) and photographs each
page that `pages/` holds at desktop and phone width, light and dark, with a headless Chromium. With --readme it takes the three
pictures of the README instead: `python -m apps.screenshots assets/pictures --readme`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
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
from typing import Any

from workbench.errors import UserError
from workbench.runs import Store

SIZES = {"desktop": (1440, 900, "light"), "dark": (1440, 900, "dark"), "phone": (390, 844, "light")}
PAGES = sorted(path.stem.replace("home", "") for path in (Path(__file__).parent / "pages").glob("[!_]*.py"))
SHORT = {"model": "tiny-lm", "data": "moby-dick", "window": 64, "precision": "fp32", "eval_rows": 8}
README = {"finetune": ("light", 1040), "compare": ("dark", 1240), "papers": ("light", 1040)}  # page → theme and height
WIDE = 1200  # pixels of a picture in the README


def make_runs(store: Store) -> None:
    """Short runs, so that no picture is empty: fine-tunings, compressions of one, all compared, one of each other job."""
    from workbench.lesson_start import LORA, write_modules

    folder = store.root / ".uploads" / hashlib.sha256(b"modules").hexdigest()[:12]
    folder.mkdir(parents=True)
    text = str(write_modules(folder, "small"))  # nothing that tiny-lm has read, so that its curve falls
    own = {**SHORT, "data": text, "method_args": LORA, "steps": 160, "eval_every": 10, "eval_rows": 32}
    store.submit("finetune", {**own, "learning_rate": 1e-3}, name="Grace: slower")
    tuned = store.submit("finetune", {**own, "learning_rate": 1e-2}, name="Ada: Python").id
    store.wait(tuned, 600)
    tuned_model = str(store.get(tuned).directory / "tuned")
    small = [store.submit("quantize", {"model": tuned_model, "method": "rtn", "bits": bits}).id for bits in (8, 4, 3)]
    small += [store.submit("prune", {"model": tuned_model, "method": "magnitude", "sparsity": 0.5}).id]
    store.submit("reconstruct", {"points": 3000, "resolution": 40}, name="bunny, clean")
    store.submit("edit", {"steps": 30}, name="a scene on grass")
    store.submit("grow", {"steps": 30})
    places = ["tiny-lm", tuned_model]
    for id in small:
        run = store.wait(id, 600)
        places.append(str(run.directory / {"quantize": "packed", "prune": "pruned"}[run.job]))
    store.wait(store.submit("compare", {"models": places, "data": text, "tokens": 6000, "items": 32}).id, 600)
    for name in ("Ada", "Grace", "Emmy"):
        (store.root / ".people" / name.lower()).mkdir(parents=True)
        person = json.dumps({"name": name, "joined": time.time()})
        (store.root / ".people" / name.lower() / "person.json").write_text(person, encoding="utf-8")


def addresses(store: Store) -> dict[str, str]:
    """File name → address: every page, with a run in view where the folder holds one."""
    newest = {run.job: run.id for run in reversed(store.list())}
    query = {
        "finetune": f"run={newest.get('finetune', '')}",
        "shapes": f"run={newest.get('reconstruct', '')}",
        "edit": f"run={newest.get('edit', '')}",
        "layers": f"run={newest.get('grow', '')}",
        "workshop": "who=ada",
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


def chromium() -> str:
    """The program that draws.

    Raises:
        UserError: there is none.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise UserError("Pictures need a Chromium; install one (Debian: apt install chromium).")
    return program


def shoot_readme(folder: Path, url: str, pages: dict[str, str], store: Store) -> None:
    """The three pictures of the README: what a screen shows of a page, reduced to `WIDE` pixels."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, (theme, height) in README.items():
            page = browser.new_page(viewport={"width": 1440, "height": height})
            visit(page, f"{url}{pages[name]}&theme={theme}")
            settle(page)
            taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            path = folder / f"app-{name}.png"
            small = taken.resize((WIDE, round(WIDE * taken.height / taken.width)), Image.Resampling.LANCZOS)
            few = small.quantize(
                256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
            )  # a third of the bytes
            few.save(path, optimize=True)
            print(path, flush=True)
            page.close()
        browser.close()


def shoot(folder: Path, url: str, pages: dict[str, str], store: Store) -> None:
    """One picture for each page and size, then one for each state of a run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for size, (width, height, theme) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            for name, address in pages.items():
                visit(page, f"{url}{address}{'&' if '?' in address else '?'}theme={theme}")
                if name == "scaling":
                    press(page, "Fit this law")
                    page.wait_for_selector("text=Plan the next run", timeout=90_000)
                if name == "workshop":
                    page.get_by_label("Speed (times)").fill("1000")
                    press(page, "Play")
                if name == "compress":
                    press(page, "Show weights before and after")
                    page.wait_for_timeout(8000)
                if name == "chat":
                    page.get_by_placeholder("Ask all of them").fill("Call me")
                    press(page, "Ask")
                    page.wait_for_selector(".wb-it code", timeout=90_000)
                keep(page, folder / f"{name}-{size}.png")
            page.close()
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        states(page, folder, url, store)
        browser.close()


def states(page: Any, folder: Path, url: str, store: Store) -> None:
    """The page Fine-tune empty, refused, queued, running and stopped, and the address of a run that is gone."""
    visit(page, f"{url}finetune?theme=light")
    keep(page, folder / "state-empty.png")
    page.locator(".wb-form [name=steps]").fill("many")
    press(page, "Start fine-tuning")
    keep(page, folder / "state-refused.png")
    visit(page, f"{url}finetune?run=20250101-000000-finetune-0000&theme=light")
    keep(page, folder / "state-gone.png")
    first, second = (
        store.submit("finetune", {**SHORT, "steps": 4000, "eval_every": 20}, name=name).id
        for name in ("works", "waits")
    )
    visit(page, f"{url}finetune?run={second}&theme=light")
    keep(page, folder / "state-queued.png")
    page.goto(f"{url}finetune?run={first}&theme=light")
    page.wait_for_selector(".wb-plot .scatterlayer .trace", timeout=120_000)
    keep(page, folder / "state-running.png", still=False)
    for id in (second, first):
        store.stop(id)
    store.wait(first, 120)
    page.wait_for_selector(".wb-card[data-status=stopped]", timeout=60_000)
    keep(page, folder / "state-stopped.png")


def visit(page: Any, address: str) -> None:
    """Open an address and wait until nothing changes any more."""
    page.goto(address)
    page.wait_for_selector(".wb-head h1")
    settle(page)


def press(page: Any, words: str) -> None:
    """Press a button and wait for what it shows."""
    page.get_by_role("button", name=words, exact=True).click()
    page.wait_for_timeout(500)
    settle(page)


def settle(page: Any, most: float = 40.0) -> None:
    """Wait until text and figures have stood still for two seconds, or `most` seconds."""
    look = "document.querySelectorAll('p, td, input, select, .trace, [data-drawn]').length"
    before, since, end = -1, time.monotonic(), time.monotonic() + most
    while time.monotonic() < end and time.monotonic() - since < 2:
        now = page.evaluate(look)
        if now != before:
            before, since = now, time.monotonic()
        page.wait_for_timeout(200)


def keep(page: Any, path: Path, still: bool = True) -> None:
    """Photograph the whole page."""
    if still:
        settle(page)
    page.screenshot(path=path, full_page=True)
    print(path, flush=True)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m apps.screenshots", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument(
        "--runs", type=Path, default=None, help="a folder of runs to show (default: made for the pictures)"
    )
    parser.add_argument("--readme", action="store_true", help="take the README's three pictures instead")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs = (options.runs or Path(scratch) / "runs").absolute()
        store = Store(runs)
        if not store.list():
            make_runs(store)
        process, url = serve(runs)
        try:
            (shoot_readme if options.readme else shoot)(options.folder, url, addresses(store), store)
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
