"""`workbench papers new SLUG`: write the files of one more paper into a checkout.

Page, block, test and lesson section are written so that everything imports and the catalogue lists the page as
`not run`. Nothing pretends: block and experiment refuse with "not built yet", so their tests are red until built.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from workbench.errors import UserError
from workbench.papers.catalogue import find_pages, module_name

ROOMS = ("adapters", "compress", "layers", "models", "training", "scaling", "data", "evaluation", "vision", "audio")

PAGE = '''"""{title} re-run: WHAT IS COMPARED, in one sentence.

WHICH arms, the embarrassing baseline among them, what is swept, what is measured.

    margin = FORMULA of the signed distance to the threshold, in the metric's unit

Departures from the paper: NAME THEM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import UserError
from workbench.papers.finding import Finding
from workbench.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CARD = {{
    "slug": "{slug}",
    "title": "{title}",
    "authors": "",
    "year": 0,
    "arxiv": "",
    "family": "{room}",
    "blocks": ["workbench.{room}.{module}"],
    "lesson": "{lesson}",
    "claim": "",
    "metric": "",
    "threshold": "",
    "published": [],
    "cpu_minutes": 0,
}}


def experiment(
    scale: str = "small", seed: int = 0, device: str | None = None, progress: Progress | None = None
) -> Finding:
    """Run the claim for one seed at `smoke` (seconds), `small` (gives the verdict) or `full`."""
    raise UserError("The experiment of {slug} is not built yet; write it in workbench/papers/{module}.py.")


def margin(rows: pd.DataFrame) -> float:
    """Signed distance to the threshold for the rows of one seed."""
    raise UserError("The margin of {slug} is not built yet; write it in workbench/papers/{module}.py.")


def figure(rows: pd.DataFrame) -> go.Figure:
    """The picture of the rows of one or more seeds."""
    raise UserError("The figure of {slug} is not built yet; write it in workbench/papers/{module}.py.")
'''

BLOCK = '''"""{title}: THE IDEA in plain words.

    FORMULA with the paper's symbols, shapes and units

Source: AUTHORS, VENUE, arXiv ID, § and equation. Departures: NAME THEM.
"""

from __future__ import annotations

from workbench.errors import UserError


def {module}(x: float) -> float:
    """WHAT it computes; rename and type it as the paper does."""
    raise UserError("The block of {slug} is not built yet; write it in workbench/{room}/{module}.py.")
'''

TEST = '''"""{title}: worked example by hand, parity with an independent formula, behaviour, edges and errors."""

from workbench.{room}.{module} import {module}


def test_worked_example_by_hand():
    assert {module}(2.0) == 4.0  # replace by an example worked on paper
'''

SECTION = """## {title} · `{slug}`

**The question.** …

**What you can say at the end.** …

Idea with a picture, formula, source, knob, the claim re-run with its badge, two exercises, where this breaks."""


def new(slug: str, *, root: Path | None = None, room: str = "layers", lesson: str | None = None) -> list[Path]:
    """Write the files of a new paper.

    Args:
        slug: lower-case letters, digits and dashes, for example `my-paper`.
        root: a checkout of this project, by default the current folder.
        room: which part of the package its block belongs to.
        lesson: notebook (without `.ipynb`) that gets a section; by default a new one with the next number.

    Returns:
        The files written or changed, relative to `root`.

    Raises:
        UserError: not a slug, not a checkout, an unknown room or lesson, a slug that exists.
    """
    root = root or Path.cwd()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise UserError(f"{slug!r} is not a slug; use lower-case letters, digits and dashes, for example my-paper.")
    if not (root / "workbench" / "papers" / "__init__.py").is_file() or not (root / "pyproject.toml").is_file():
        raise UserError(f"{root} is not a checkout of workbench; change into the folder that holds pyproject.toml.")
    if room not in ROOMS:
        raise UserError(f"There is no room called {room!r}; choose one of: {', '.join(ROOMS)}.")
    module = module_name(slug)
    notebooks = root / "notebooks"
    lesson = lesson or f"{next_number(notebooks):02d}_{module}"
    title = slug.replace("-", " ").capitalize()
    names = {"slug": slug, "module": module, "room": room, "lesson": lesson, "title": title}
    texts = {
        Path("workbench") / "papers" / f"{module}.py": PAGE,
        Path("workbench") / room / f"{module}.py": BLOCK,
        Path("tests") / room / f"test_{module}.py": TEST,
    }
    taken = [str(path) for path in texts if (root / path).exists()]
    if taken or slug in {card["slug"] for card in find_pages(root / "workbench" / "papers")}:
        raise UserError(f"{slug} exists already ({', '.join(taken) or 'as a page'}); choose another slug, or edit it.")
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text.format(**names), encoding="utf-8")
    room_init = Path("workbench") / room / "__init__.py"
    written = list(texts)
    if not (root / room_init).exists():
        (root / room_init).write_text("", encoding="utf-8")
        written.append(room_init)
    return [*written, add_section(root, lesson, names)]


def next_number(notebooks: Path) -> int:
    """One more than the largest lesson number."""
    return 1 + max((int(path.name[:2]) for path in notebooks.glob("[0-9][0-9]_*.ipynb")), default=-1)


def add_section(root: Path, lesson: str, names: dict[str, str]) -> Path:
    """Append the section of a paper to a lesson, or start the lesson; returns its path relative to `root`."""
    path = Path("notebooks") / f"{lesson}.ipynb"
    file = root / path
    if file.is_file():
        notebook = json.loads(file.read_text(encoding="utf-8"))
    else:
        notebook = {
            "cells": [
                cell("title", f"# {names['title']}\n\nThe question · what you will say at the end · minutes · needs"),
                cell("parameters", 'SCALE = "smoke"\nSEED = 0', tag="parameters"),
            ],
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    notebook["cells"].append(cell(f"{names['slug']}-section", SECTION.format(**names)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def cell(name: str, source: str, tag: str | None = None) -> dict:
    """One notebook cell with a stable id: code when it has a tag, else text."""
    lines = source.splitlines(keepends=True)
    if tag is None:
        return {"cell_type": "markdown", "id": name, "metadata": {}, "source": lines}
    return {
        "cell_type": "code", "execution_count": None, "id": name, "metadata": {"tags": [tag]}, "outputs": [],
        "source": lines,
    }  # fmt: skip
