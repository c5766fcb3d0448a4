"""What the report of a grid says in words."""

import pandas as pd

from workbench.figures import style
from workbench.grid import report


def test_the_caption_counts_the_seeds_of_what_is_trained():
    row = {"metric": "loss", "loss": 4.0, "loss_low": 3.9, "loss_high": 4.1, "loss_n": 12, "loss_tied": True}
    rows = pd.DataFrame([{**row, "name": "base", "seeds": 1}, {**row, "name": "lora", "seeds": 3}])
    fig = report.scores(rows)
    style.check(fig)
    assert "n = 12 documents, 3 seeds" in fig.layout.meta["caption"]
