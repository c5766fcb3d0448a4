"""The whole way through the app in a real browser: fine-tune, stop, reload, resume, compress, compare, chat."""

from __future__ import annotations

import json
import re
import time

import pytest

from workbench.runs import Store

SETTINGS = {"steps": "300", "batch_size": "4", "window": "32", "eval_every": "10"}


def fill(page, name, value):
    page.locator(f".wb-form [name={name}]").first.fill(value)


def run_of(page):
    page.wait_for_function("new URLSearchParams(location.search).get('run')")
    return re.search(r"run=([\w-]+)", page.url)[1]


def until(page, status, timeout=60_000):
    page.wait_for_selector(f".wb-card[data-status={status}]", timeout=timeout)


@pytest.mark.slow
def test_fine_tune_stop_reload_resume_compress_compare_chat(page, server):
    store = Store(server.runs)
    page.goto(f"{server.url}/finetune")
    page.wait_for_selector(".wb-form [name=steps]")
    page.wait_for_selector(".wb-form [name=r]")
    for name, value in SETTINGS.items():
        fill(page, name, value)
    page.locator("summary:has-text('More (17)')").click()
    fill(page, "eval_rows", "4")
    page.locator(".wb-form [name=precision]").select_option("fp32")
    page.get_by_label("Name").fill("journey")
    page.get_by_role("button", name="Start fine-tuning").click()
    tuned = run_of(page)

    # live curves, then stop and keep
    page.wait_for_selector(".wb-plot .scatterlayer .trace", timeout=60_000)
    page.wait_for_function("document.querySelector('.wb-card[data-status=running]')?.innerText.includes('step')")
    page.get_by_role("button", name="Stop and keep").click()
    until(page, "stopped")
    kept = store.get(tuned).metrics()
    assert 0 < max(row["step"] for row in kept) < 300

    # a reload, and a second device, come back to the run
    page.reload()
    until(page, "stopped")
    assert run_of(page) == tuned
    page.get_by_role("button", name="Resume this run").click()
    until(page, "done", 90_000)
    rows = store.get(tuned).metrics()
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(steps) and steps[-1] == 300
    page.get_by_text("Held-out loss").wait_for()

    # compress what came out
    page.get_by_role("link", name="Compress it").click()
    page.wait_for_selector(".wb-form [name=group_size]")
    page.wait_for_function("document.querySelector('input[aria-label=Compress]')?.value.includes('journey')")
    page.get_by_label("Method", exact=True).fill("rtn")
    page.keyboard.press("Enter")
    page.get_by_text("Round to nearest").wait_for()
    page.get_by_role("button", name="Start compressing").click()
    packed = run_of(page)
    until(page, "done")
    page.locator("table[class*=wb-table] a", has_text="rtn-4").wait_for()

    # compare all three
    page.goto(f"{server.url}/compare?models=tiny-lm,run:{tuned},run:{packed}")
    page.wait_for_selector(".wb-form [name=tokens]")
    page.wait_for_function("document.querySelectorAll('.token').length === 3")
    fill(page, "tokens", "400")
    fill(page, "items", "4")
    page.get_by_role("button", name="Start comparing").click()
    until(page, "done", 90_000)
    page.locator("td.wb-tied").first.wait_for()
    assert page.locator("[aria-label='Comparison'] tbody tr").count() == 3

    # chat with base and tuned: different weights answer
    page.goto(f"{server.url}/chat?model=run:{tuned}")
    page.wait_for_selector(".wb-form [name=new_tokens]")
    page.wait_for_function("[...document.querySelectorAll('input')].some((box) => box.value.includes('journey'))")
    fill(page, "new_tokens", "8")
    page.get_by_placeholder("Ask all of them").fill("Call me")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_function("document.querySelectorAll('.wb-it code').length === 2", timeout=60_000)
    prints = page.locator(".wb-it code").all_inner_texts()
    assert len(set(prints)) == 2 and all(re.fullmatch(r"[0-9a-f]{12}", text) for text in prints)
    assert "tokens/s" in page.locator(".wb-it small").first.inner_text()
    assert page.problems == []


@pytest.mark.slow
def test_a_killed_worker_is_interrupted_and_resumes(page, server):
    import os
    import signal

    store = Store(server.runs)
    run = store.submit(
        "finetune",
        {"model": "tiny-lm", "data": "moby-dick", "steps": 60, "batch_size": 2, "window": 32, "eval_every": 5,
         "eval_rows": 2, "precision": "fp32"},
        name="to be killed",
    )  # fmt: skip
    page.goto(f"{server.url}/finetune?run={run.id}")
    deadline = time.monotonic() + 60
    while not any("loss" in row for row in run.metrics()):
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.1)
    os.kill(json.loads((run.directory / "worker.json").read_text())["pid"], signal.SIGKILL)
    until(page, "interrupted")
    page.get_by_role("button", name="Resume this run").click()
    until(page, "done", 60_000)
    assert page.problems == []
