"""The page `dept`: equal counts, verdict by hand, counted arithmetic."""

import pandas as pd
import pytest
import torch
from torch import nn

from workbench.adapters import DeptConfig
from workbench.figures import style
from workbench.papers import dept
from workbench.papers._transfer import Plan, Task


def table(losses, **trainable):
    """Rows of one seed from {arm: loss}; every arm also has a rate that was not chosen."""
    rows = []
    for arm, loss in losses.items():
        place = {"seed": 0, "arm": arm, "method": "adapter", "trainable": trainable.get(arm, 100)}
        rows.append({**place, "rate": 1e-3, "eval": loss, "chosen": True, "test": loss})
        rows.append({**place, "rate": 1e-2, "eval": loss + 1, "chosen": False})
    return pd.DataFrame(rows)


def rows(ours, cost, trained=100):
    found = table({dept.PROMPT: 4.0, dept.DEPT: ours}, **{dept.DEPT: trained})
    return found.assign(operations=found["arm"].map({dept.PROMPT: 1000, dept.DEPT: cost}))


@pytest.mark.parametrize(
    ("ours", "cost", "expected"),
    [
        (3.8, 850, 5.0),  # 15 percent saved: 5 beyond 10; 5 percent ahead
        (3.96, 600, 1.0),
        (4.04, 600, -1.0),  # worse than the long prompt
        (3.0, 950, -5.0),  # saves too little
    ],
)
def test_margin_by_hand(ours, cost, expected):
    assert dept.margin(rows(ours, cost)) == pytest.approx(expected)


def test_unequal_counts_are_no_comparison():
    assert dept.margin(rows(3.0, 500, trained=103)) == -100
    assert dept.margin(rows(3.0, 500, trained=100)) > 0


@pytest.mark.parametrize(("window", "width"), [(32, 192), (64, 192), (256, 576)])
def test_arms_train_the_same_numbers_at_every_scale(window, width):
    counts = {
        name: DeptConfig(**values).trainable_per_module(0, width)
        for name, values in dept.settings(window, width).items()
    }
    assert counts[dept.DEPT] == counts[dept.ONE_RATE]
    assert abs(counts[dept.DEPT] / counts[dept.PROMPT] - 1) <= 0.01


def test_operations_of_a_pass_are_counted():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(3, 5)

        def forward(self, x):
            return type("Out", (), {"loss": self.map(x).sum()})()

    task = Task("t", "loss", Line(), {"train": {"x": torch.ones(8, 3)}}, Plan("none", 3, 4, 1, 1, 1))
    # rows 4: forward 2·4·3·5, and as much for the weight's gradient; the input needs none
    assert dept.operations(task, lambda model: model.requires_grad_(True)) == 2 * 2 * 4 * 3 * 5


def test_figure_is_in_the_house_style():
    fig = dept.figure(rows(3.9, 600))
    style.check(fig)
    assert "0.60 of prompt tuning's arithmetic" in fig.layout.meta["caption"].replace("\n", " ")
