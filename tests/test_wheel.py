"""The wheel, installed beside nothing of the checkout, finds its assets, its papers and its app."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from workbench.paths import assets


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    checkout = assets().parent
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(checkout)],
        check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site, *words: str) -> subprocess.CompletedProcess:
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        f"import workbench.cli as c; assert c.__file__.startswith({str(site)!r})\n"
        "c.main()"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *words], capture_output=True, text=True, cwd=site.parent, timeout=120,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip


def test_papers_from_the_wheel(site):
    found = run(site, "papers")
    assert found.returncode == 0 and "nola" in found.stdout


def test_bundled_data_and_lessons_travel_with_the_wheel(site):
    assert "moby-dick" in run(site, "data").stdout
    assert (site / "workbench" / "assets" / "text" / "sotu.jsonl.xz").is_file()
    assert list((site / "workbench" / "notebooks").glob("*.ipynb"))


def test_app_is_found_from_the_wheel(site):
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from workbench.commands.rooms import apps_main\n"
        "module = apps_main()\n"
        f"assert module.__file__.startswith({str(site)!r}), module.__file__\n"
        "module.build()"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, cwd=site.parent)


def test_style_files_travel_with_the_wheel(site):
    for name in ("figures/allowed_options.txt", "report/report.css", "report/report.js"):
        assert (site / "workbench" / name).is_file()
