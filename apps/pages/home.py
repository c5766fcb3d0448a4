"""Home: what this machine has, the papers with their badges, recent runs."""

from __future__ import annotations

import gradio as gr
import pandas as pd

from workbench import machine
from workbench.papers import search
from workbench.runs import Store


def papers_table() -> pd.DataFrame:
    """One row per paper page: title, badge, claim, command that re-runs it."""
    rows = [
        {"Paper": page["title"], "Claim": page["claim"], "Badge": page["status"],
         "Re-run": f"workbench reproduce {page['slug']}"}
        for page in search("")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Paper", "Claim", "Badge", "Re-run"])


def runs_table() -> pd.DataFrame:
    """One row per run, newest first."""
    rows = [{"Run": run.id, "Job": run.job, "Status": run.status, "Name": run.name or ""} for run in Store().list()]
    return pd.DataFrame(rows, columns=["Run", "Job", "Status", "Name"])


def build() -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    here = machine.describe()
    gr.Markdown(f"# Workbench\nFine-tune, compress and compare models on this machine.\n\n{here['machine']}")
    gr.Markdown("## Runs\nEverything that ran, runs or waits. `workbench demo` makes the first one.")
    runs = gr.Dataframe(runs_table(), interactive=False, show_label=False)
    gr.Markdown("## Papers\nClaims that were re-run here; a badge is computed from at least three seeds.")
    gr.Dataframe(papers_table(), interactive=False, show_label=False, wrap=True)
    gr.Timer(2.0).tick(runs_table, outputs=runs, show_progress="hidden", api_name="runs")
