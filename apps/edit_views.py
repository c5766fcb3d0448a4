"""Pieces of the page Edit that are drawn from a finished run: the trained noise steps, the scores, and the figures' cells."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.figures import style
from workbench.papers import _fastedit_figures as figures
from workbench.runs import Run
from workbench.vision import job

from . import html

HEIGHT = 400  # pixels of every strip: pictures as large as the frame lets them be
GIVEN = """from workbench.papers import _fastedit_figures as figures
from workbench.vision.job import scene_pictures

figures.strip(*scene_pictures({scene!r}, {prompt!r}), title="The scene, and the edit that is wanted")"""
STRIP = """from workbench.papers import _fastedit_figures as figures
from workbench.runs import Store
from workbench.vision.job import pictures

figures.strip(*pictures(Store().get({id!r}).directory), marked={marked!r})"""
BAND = """from workbench.papers import _fastedit_figures as figures
from workbench.runs import Store
from workbench.vision.job import noise_steps

run = Store().get({id!r})
made, steps, inside = noise_steps(run.directory, run.result()["band"])
figures.strip(made, steps, title="The noise steps that are trained on", marked=inside)"""


def literal(module: str, name: str) -> Any:
    """A constant as a module states it, without importing it: vision loads torch, which the first page must not wait for.

    Args:
        module: its full name.
        name: of a literal assigned at its top.
    """
    tree = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", "") == name for target in targets):
            return ast.literal_eval(node.value)
    raise AttributeError(f"{module} assigns no {name}")


def band_figure(run: Run, found: dict[str, Any]) -> Any:
    """The scene growing noisier, with the steps that were trained on framed."""
    made, steps, inside = job.noise_steps(run.directory, found["band"])
    fig = figures.strip(made, steps, title="The noise steps that are trained on", marked=inside)
    fig.update_layout(height=HEIGHT)
    first, last = found["band"]
    return style.caption(
        fig, f"Framed: steps {first} to {last} of 1000, for a distance of picture and words of {found['delta']:.2f}. Left is "
        "nearly clean, right nearly noise.",
    )  # fmt: skip


def score_table(found: dict[str, Any], best: int) -> str:
    """Changed, kept and their harmonic mean along η."""
    rows = [
        (f"η {row['eta']:g}", f"{row['target']:.0%}", f"{row['kept']:.0%}", f"{row['harmonic']:.0%}", row["distance"])
        for row in found["etas"]
    ]
    head = ("Edit", "Changed as asked", "Kept as it was", "Both (harmonic)", "Distance to the ideal")
    return html.table(head, rows, label="Scores", selected=best)
