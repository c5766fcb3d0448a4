"""What lesson 13 has beside the page `minicpm`: a short plateau that can be left at many steps, and tables of the ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.papers import _minicpm_runs, minicpm
from workbench.papers._schedule_lab import Run
from workbench.progress import Progress, silent

if TYPE_CHECKING:
    import plotly.graph_objects as go

STOPS = 10  # steps, evenly spread, where the plateau is kept
RATE = 2.0**-6
PUBLISHED = {  # domain: C_N, alpha, C_D, beta (paper, figure 17, second hand; N and D in billions)
    "average": (7.15e-2, 0.29, 3.00e-1, 0.23), "code": (3.32e-2, 0.37, 2.17e-1, 0.34),
    "Ultratext": (7.54e-2, 0.30, 2.92e-1, 0.30), "Chinese Wikihow": (5.14e-2, 0.35, 3.90e-1, 0.18),
}  # fmt: skip


class Plateau:
    """A plateau with a kept copy at every tenth of it.

    Args:
        scale: `smoke` (40 steps) or `small` (400 steps, a few seconds).
        seed: initial weights and order of the text.
        progress: called with done, total, text.
    """

    def __init__(self, scale: str = "small", seed: int = 0, progress: Progress = silent) -> None:
        self.steps = {"smoke": 40}.get(scale, 400)
        plan = minicpm.plans("smoke" if scale == "smoke" else "small")
        run = _minicpm_runs.wsd_run(plan, seed, RATE)
        self.kept: dict[int, Run] = {}
        rows: list[dict[str, Any]] = []
        for step in range(self.steps // STOPS, self.steps + 1, self.steps // STOPS):
            run.train(step)
            self.kept[step] = run.fork()
            rows.append({"step": step, "loss": run.loss()})
            progress(step, self.steps, f"plateau, step {step}")
        self.line = pd.DataFrame(rows)

    def branch(self, start: int, steps: int, decay: str) -> pd.DataFrame:
        """Leave the plateau at a kept step and decay.

        Args:
            start: one of `kept`.
            steps: length of the decay.
            decay: shape.

        Returns:
            Columns step, loss: where the branch starts, and where it ends.
        """
        run = self.kept[start]
        return pd.DataFrame(
            [
                {"step": start, "loss": run.loss()},
                {"step": start + steps, "loss": run.decayed(steps, decay=decay).loss()},
            ]
        )

    def figure(self, start: int, steps: int, decay: str) -> go.Figure:
        """The plateau and one branch."""
        from workbench.papers import _minicpm_figures

        return _minicpm_figures.one_branch(self.line, self.branch(start, steps, decay), decay)


def published_ratios(flops: float) -> pd.DataFrame:
    """Compute-optimal tokens per parameter of the paper's four fits at a budget."""
    from workbench.scaling.wsd_ladder import data_model_ratio

    names = ("C_N", "alpha", "C_D", "beta")
    values = {d: data_model_ratio(dict(zip(names, c, strict=True)), flops).value for d, c in PUBLISHED.items()}
    return pd.DataFrame({"tokens per parameter": values}).round(1)


def measured_ratio(rows: pd.DataFrame, samples: int = 200) -> Any:
    """Ratio of the ladders of one or more seeds at their largest budget, with an interval.

    Args:
        rows: as `minicpm.experiment` makes them.
        samples: resamples of whole plateaus (one per seed and size: its branches are not independent).
    """
    from workbench.scaling.wsd_ladder import data_model_ratio

    runs, law = minicpm.of(rows, "ladder"), minicpm.fit(rows)
    groups = runs["seed"].astype(str) + "/" + runs["n"].astype(str)
    draws = law.bootstrap(samples, groups=groups).samples
    return data_model_ratio(law, float(6 * (runs["n"] * runs["d"]).max()), draws)
