"""The app under load, on this machine, with a real training running beside it.

    python tests/bench/bench_app.py start             seconds from the command to the first page, 5 starts
    python tests/bench/bench_app.py click             seconds from a click to its answer in a browser, median of 50
    python tests/bench/bench_app.py follow [SECONDS]  20 clients follow one run: lost points, slowing of its steps, memory
    python tests/bench/bench_app.py ticks             memory of the server over 1,000 ticks

`follow`: 18 raw clients and two browsers read a fine-tuning once a second. In every other 15 s they rest (the browsers are
frozen, as background tabs are), so that steps with and without followers see the same machine; the slowing is the ratio of
the median step times of neighbouring stretches, with a 95 % interval over those pairs.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from workbench.runs import Store

HERE = Path(__file__).resolve().parent
STRETCH = 15.0  # seconds
FARTHEST = "Math.max(...document.querySelector('.wb-plot').data.flatMap((trace) => [...(trace.x || [])]).map(Number))"
TRAINING = {"model": "tiny-lm", "data": "moby-dick", "steps": 1_000_000, "batch_size": 8, "window": 64, "eval_every": 1_000_000,
            "eval_rows": 2, "save_every": 100_000, "precision": "fp32"}  # fmt: skip


def load(name: str):
    """A module of the app's tests."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "apps" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app_server = load("app_server")


def training(server) -> object:
    """A fine-tuning that has begun to step."""
    run = Store(server.runs).submit("finetune", TRAINING, name="trained beside")
    while not any("loss" in row for row in run.metrics()):
        assert run.status in ("queued", "running"), run.log_tail()
        time.sleep(0.2)
    return run


def end(server, run) -> None:
    """Stop the run, wait until its worker is gone, stop the server."""
    store = Store(server.runs)
    if run.status in ("running", "queued"):
        store.stop(run.id)
    store.wait(run.id, 120)
    time.sleep(2)
    server.stop()


def browser():
    """Playwright's driver and a headless Chromium."""
    import shutil

    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    driver = sync_playwright().start()
    return driver, driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])


def start(folder: Path, repeats: int = 5) -> None:
    seconds = []
    for i in range(repeats):
        (folder / str(i)).mkdir()
        server = app_server.Server(folder / str(i))
        seconds.append(server.seconds)
        server.stop()
    low, high = min(seconds), max(seconds)
    print(f"first page after {statistics.median(seconds):.2f} s (median of {repeats}; {low:.2f} to {high:.2f})")


def click(folder: Path, clicks: int = 50) -> None:
    proofs = (HERE.parent / "apps" / "test_proofs.py").read_text(encoding="utf-8")
    script = proofs.split('CLICK = """')[1].split('"""')[0]
    server = app_server.Server(folder)
    run = training(server)
    driver, chromium = browser()
    try:
        page = chromium.new_page()
        page.goto(f"{server.url}/finetune?run={run.id}")
        page.wait_for_selector(".wb-form [name=r]")
        page.wait_for_selector(".wb-card[data-status=running]")
        waits = [page.evaluate(script, f"wrong{i}") / 1000 for i in range(clicks)]
    finally:
        chromium.close()
        driver.stop()
        end(server, run)
    worst = sorted(waits)[int(0.95 * clicks)]
    print(
        f"click to answer: median {statistics.median(waits):.3f} s of {clicks}, 95th percentile {worst:.3f} s, run working"
    )


def follow(folder: Path, seconds: float = 300.0) -> None:
    server = app_server.Server(folder)
    run = training(server)
    driver, chromium = browser()
    pages = [chromium.new_page() for _ in range(2)]
    sessions = [page.context.new_cdp_session(page) for page in pages]
    for page in pages:
        page.goto(f"{server.url}/finetune?run={run.id}")
        page.wait_for_selector(".wb-plot .scatterlayer .trace", timeout=60_000)
    followers = [app_server.Follower(server.port, run.id) for _ in range(18)]
    for follower in followers:
        follower.start()
    memory = [app_server.resident(server.process.pid)]
    stretches, begun = [], time.time()
    while time.time() - begun < seconds:
        for awake in (True, False):
            for follower in followers:
                (follower.awake.set if awake else follower.awake.clear)()
            for session in sessions:
                session.send("Page.setWebLifecycleState", {"state": "active" if awake else "frozen"})
            time.sleep(1.0)
            first = time.time()
            time.sleep(STRETCH)
            stretches.append((awake, first, time.time()))
        memory.append(app_server.resident(server.process.pid))
    for session in sessions:
        session.send("Page.setWebLifecycleState", {"state": "active"})
    Store(server.runs).stop(run.id)
    while run.status in ("running", "stopping"):
        time.sleep(0.2)
    for follower in followers:
        follower.ended.set()
        follower.join(60)
    rows = list(run.metrics())
    wrong = sum(follower.error is not None or follower.rows != rows for follower in followers)
    errors = {repr(follower.error) for follower in followers if follower.error is not None}
    last = max(row["step"] for row in rows if "loss" in row)
    seen = []
    for page in pages:
        page.wait_for_selector(".wb-card[data-status=stopped]", timeout=60_000)
        page.wait_for_timeout(2000)
        seen.append(page.evaluate(FARTHEST))
    chromium.close()
    driver.stop()
    server.stop()

    times = np.array([row["time"] for row in rows if "loss" in row])
    steps = np.diff(times)
    medians = [
        (awake, float(np.median(steps[(times[1:] > first) & (times[1:] < end)]))) for awake, first, end in stretches
    ]
    ratios = np.array([with_[1] / without[1] for with_, without in zip(medians[::2], medians[1::2], strict=True)])
    waits = sorted(wait for follower in followers for wait in follower.waits)
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios))).mean(1)
    low, high = 100 * (np.quantile(draws, (0.025, 0.975)) - 1)
    alone, followed = (1e3 * np.median([m for awake, m in medians if awake is said]) for said in (False, True))
    answers = sum(follower.answers for follower in followers)
    print(f"20 clients for {time.time() - begun:.0f} s: {wrong} of 18 raw clients lost a point of {len(rows)}", *errors)
    print(
        f"browsers drew up to step {seen} of {last}; {answers} answers, median {1e3 * statistics.median(waits):.0f} ms"
    )
    print(f"step {alone:.1f} ms alone, {followed:.1f} ms followed: {100 * (ratios.mean() - 1):+.1f} % ", end="")
    print(f"(95 % {low:.1f} to {high:.1f}, {len(ratios)} pairs)")
    print(f"server memory {json.dumps([round(m / 1e6) for m in memory])} MB")


def ticks(folder: Path, number: int = 1000) -> None:
    server = app_server.Server(folder)
    run = training(server)
    caller = app_server.Caller(server.port, session="a-tab")
    handlers = app_server.ticks(server)
    for _ in range(100):
        caller.call("predict", None, index=handlers[0])
    held, spent = [app_server.resident(server.process.pid)], []
    for _ in range(number // 100):
        for _ in range(100):
            begun = time.perf_counter()
            caller.call("predict", None, index=handlers[0])
            spent.append(time.perf_counter() - begun)
        held.append(app_server.resident(server.process.pid))
    end(server, run)
    told = json.dumps([round(one / 1e6, 1) for one in held])
    print(f"{number} ticks, median {1e3 * statistics.median(spent):.1f} ms: memory {told} MB")


if __name__ == "__main__":
    what = {"start": start, "click": click, "follow": follow, "ticks": ticks}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as scratch:
        what(Path(scratch), *map(float, sys.argv[2:3]))
