"""One running app, and one headless browser, for all tests of a worker. Tests that need a browser skip where none is."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _server():
    """The module app_server.py beside this file, under a name of its own."""
    if "app_server" not in sys.modules:
        spec = importlib.util.spec_from_file_location("app_server", Path(__file__).with_name("app_server.py"))
        sys.modules["app_server"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["app_server"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The running app."""
    found = _server().Server(tmp_path_factory.mktemp("app"))
    yield found
    found.stop()


@pytest.fixture(scope="session")
def app_server():
    """Servers, raw callers and followers."""
    return _server()


@pytest.fixture(scope="session")
def redraw():
    """Runs a notebook cell and gives the figure it ends with, as the page's component would take it."""

    def run(cell: str) -> list:
        from workbench.apps import drawing

        tree = ast.parse(cell)
        last, scope = ast.Expression(tree.body.pop().value), {}
        exec(compile(tree, "cell", "exec"), scope)
        return json.loads(drawing.payload(eval(compile(last, "cell", "eval"), scope), name="x"))["data"]

    return run


@pytest.fixture(scope="session")
def same(redraw):
    """Whether a figure's cell draws the same data."""

    def check(drawn: str) -> bool:
        figure = json.loads(drawn)
        return redraw(figure["cell"]) == figure["data"]

    return check


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
    found.set_default_timeout(90_000)
    yield found
    context.close()
