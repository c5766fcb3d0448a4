import ast
import importlib.util
import subprocess
import sys

import nbformat
import pytest

from workbench.errors import UserError
from workbench.papers.catalogue import find_pages
from workbench.papers.new import new


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "workbench" / "papers").mkdir(parents=True)
    (tmp_path / "workbench" / "papers" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_a_new_paper_is_listed_clean_and_honest(tree):
    paths = new("my-paper", root=tree, room="layers")
    assert [str(path) for path in paths] == [
        "workbench/papers/my_paper.py", "workbench/layers/my_paper.py", "tests/layers/test_my_paper.py",
        "workbench/layers/__init__.py", "notebooks/00_my_paper.ipynb",
    ]  # fmt: skip
    assert [card["slug"] for card in find_pages(tree / "workbench" / "papers")] == ["my-paper"]
    for path in paths:
        if path.suffix == ".py":
            ast.parse((tree / path).read_text())
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,W,I,B,UP", str(tree)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    spec = importlib.util.spec_from_file_location("my_paper", tree / paths[0])
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    with pytest.raises(UserError, match="not built yet"):
        page.experiment(scale="smoke")


def test_a_lesson_is_started_with_the_next_number_or_gets_one_more_section(tree):
    new("first", root=tree)
    new("second", root=tree)
    path = new("third", root=tree, lesson="01_second")[-1]
    assert sorted(p.name for p in (tree / "notebooks").iterdir()) == ["00_first.ipynb", "01_second.ipynb"]
    notebook = nbformat.read(tree / path, as_version=4)
    nbformat.validate(notebook)
    headings = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("##")]
    assert headings == ["## Second · `second`", "## Third · `third`"]


def test_bad_slugs_strange_folders_and_existing_papers_are_refused(tree, tmp_path_factory):
    for slug in ("My Paper", "1paper", "a--b", "../up", ""):
        with pytest.raises(UserError, match="is not a slug"):
            new(slug, root=tree)
    with pytest.raises(UserError, match="not a checkout"):
        new("fine", root=tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match="no room called"):
        new("fine", root=tree, room="kitchen")
    new("fine", root=tree)
    before = (tree / "workbench" / "papers" / "fine.py").read_text()
    with pytest.raises(UserError, match="exists already"):
        new("fine", root=tree)
    assert (tree / "workbench" / "papers" / "fine.py").read_text() == before
