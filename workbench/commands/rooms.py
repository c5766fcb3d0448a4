"""`workbench app` and `workbench lab`: the two places with a screen."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click

from workbench.errors import UserError
from workbench.paths import assets


def apps_main() -> ModuleType:
    """The app's launcher under one name, `workbench.apps.main`, from a checkout (`apps/`) and from a wheel alike."""
    package = Path(__file__).resolve().parents[1]
    if not (package / "apps").is_dir() and "workbench.apps" not in sys.modules:
        folder = package.parent / "apps"
        spec = importlib.util.spec_from_file_location(
            "workbench.apps", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["workbench.apps"] = module
        spec.loader.exec_module(module)
    return importlib.import_module("workbench.apps.main")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address is refused without --auth.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--auth", metavar="USER:PASSWORD", default=None, help="Ask for this login.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
def app(host: str, port: int, auth: str | None, no_browser: bool) -> None:
    """Open the app. It listens on this machine only unless a login is set."""
    login = None
    if auth is not None:
        user, _, password = auth.partition(":")
        if not user or len(password) < 8:
            raise UserError("--auth takes USER:PASSWORD with a password of at least 8 characters.")
        login = (user, password)
    if host not in ("127.0.0.1", "localhost", "::1") and login is None:
        raise UserError(f"Listening on {host} opens the app to the network; add --auth USER:PASSWORD.")
    apps_main().launch(host=host, port=port, auth=login, browser=not no_browser)


def notebooks() -> Path:
    """Folder of the lessons."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


@click.command()
@click.option("--port", default=8888, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
def lab(port: int, no_browser: bool) -> int:
    """Open the lessons in JupyterLab (this machine only)."""
    folder = notebooks()
    lessons = sorted(folder.glob("[0-9]*.ipynb"))
    if not lessons:
        raise UserError(f"No lessons in {folder}; install workbench again or run from a checkout.")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--notebook-dir={folder}",
        f"--LabApp.default_url=/lab/tree/{lessons[0].name}",
        f"--LabApp.app_settings_dir={assets() / 'jupyter'}",  # asks nobody for news
    ]
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return subprocess.call(command)
