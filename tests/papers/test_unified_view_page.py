"""The page `unified-view`: equal counts, verdict by hand, figure."""

import pandas as pd
import pytest

from workbench.figures import style
from workbench.papers import unified_view as page


def table(losses, **trainable):
    """Rows of one seed from {arm: loss}; every arm also has a rate that was not chosen."""
    rows = []
    for arm, loss in losses.items():
        place = {"seed": 0, "arm": arm, "method": "adapter", "trainable": trainable.get(arm, 100)}
        rows.append({**place, "rate": 1e-3, "eval": loss, "chosen": True, "test": loss})
        rows.append({**place, "rate": 1e-2, "eval": loss + 1, "chosen": False})
    return pd.DataFrame(rows)


GOOD = {page.SEQ_ATT: 4.20, page.PAR_ATT: 4.10, page.SEQ_FFN: 4.08, page.PAR_FFN: 4.00, page.MAM: 4.02}


def test_all_cells_train_the_same_numbers_to_two_percent():
    from workbench import models
    from workbench.adapters.unified_view import UnifiedConfig

    base = models.load_model("tiny-lm")
    counts = {
        name: UnifiedConfig(design="own", deltas=rows).trainable_in(base)
        for name, (_, rows) in page.cells(base).items()
    }
    budget = counts[page.PAR_FFN]
    assert len(counts) == 8 and all(abs(count / budget - 1) <= 0.02 for count in counts.values()), counts
    assert 0.02 < budget / sum(p.numel() for p in base.parameters()) < 0.04


@pytest.mark.parametrize(
    ("changed", "part", "expected"),
    [
        ({}, "MAM within 1 of the best", 0.5),
        ({page.SEQ_FFN: 3.96}, "parallel over sequential at FFN", -100 * 0.04 / 3.96),
        ({page.PAR_ATT: 4.24}, "parallel over sequential at attention", -100 * 0.04 / 4.20),
        ({page.PAR_ATT: 3.98}, "FFN over attention", -100 * 0.02 / 3.98),
        ({page.MAM: 4.12}, "MAM within 1 of the best", -2.0),
    ],
)
def test_every_part_of_the_claim_can_decide_the_margin(changed, part, expected):
    rows = table({**GOOD, **changed})
    assert page.parts(rows)[part] == pytest.approx(expected)
    assert page.margin(rows) == pytest.approx(min(page.parts(rows).values()))
    assert (page.margin(rows) > 0) == (expected > 0)


def test_figure_is_in_the_house_style():
    fig = page.figure(table(GOOD))
    style.check(fig)
    assert "behind attention -5.0" in style.alt(fig)
