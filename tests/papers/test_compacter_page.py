"""The pages `compacter`, and the arms and figure that it shares with `unified-view` and `dept`."""

import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _adapter_arms as arms_of
from workbench.papers import compacter


def table(losses, seed=0, trainable=None):
    """Rows of one seed from {arm: loss}; every arm also has a rate that was not chosen."""
    rows = []
    for index, (arm, loss) in enumerate(losses.items()):
        place = {
            "seed": seed,
            "arm": arm,
            "method": "adapter",
            "trainable": (trainable or {}).get(arm, 100 * (index + 1)),
        }
        rows.append({**place, "rate": 1e-3, "eval": loss, "chosen": True, "test": loss})
        rows.append({**place, "rate": 1e-2, "eval": loss + 1, "chosen": False})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ours", "norms", "expected"),
    [
        (4.04, 4.5, 0.5),  # one percent behind the dense adapter: 1.5 − 1
        (3.96, 4.5, 2.5),  # one percent ahead of it
        (4.00, 4.0, -1.0),  # no better than the norms alone
        (4.12, 4.5, -1.5),  # three percent behind
    ],
)
def test_margin_by_hand(ours, norms, expected):
    rows = table({"layer norms alone": norms, "Compacter": ours, "dense adapter": 4.0})
    assert compacter.margin(rows) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figure_is_in_the_house_style_and_says_the_finding(seeds):
    losses = {"layer norms alone": 4.4, "Compacter": 4.04, "dense adapter": 4.0}
    rows = pd.concat([table(losses, seed) for seed in range(seeds)], ignore_index=True)
    fig = compacter.figure(rows)
    style.check(fig)
    assert "layer norms alone -10.0, Compacter -1.0" in style.alt(fig)
    assert ("over 3 seeds" if seeds == 3 else "One seed") in fig.layout.meta["caption"]


def test_compacter_trains_at_most_an_eighth_of_the_dense_adapter():
    from workbench import models

    base = models.load_model("tiny-lm")
    norms = sum(m.weight.numel() for m in base.modules() if "Norm" in type(m).__name__)
    count = {}
    for name in (compacter.COMPACTER, compacter.DENSE):
        model = compacter.arms((name,))[name][1](models.load_model("tiny-lm").requires_grad_(False))
        count[name] = sum(p.numel() for p in model.parameters() if p.requires_grad) - norms
    assert count[compacter.COMPACTER] <= count[compacter.DENSE] / 8


def test_the_arm_that_is_best_on_eval_is_tested(monkeypatch):
    from workbench.papers import _transfer

    trained = []
    monkeypatch.setattr(_transfer, "train", lambda task, wrap, rate, seed: (trained.append(rate) or rate, 7))
    monkeypatch.setattr(_transfer, "score", lambda model, task, part: (abs(model - 0.1), 5.0)[part == "test"])
    rows = arms_of.run_arms(None, {"one": ("lora", None)}, (0.01, 0.1, 1.0), 0, lambda *_: None)
    assert trained == [0.01, 0.1, 1.0]
    assert [row["rate"] for row in rows if row["chosen"]] == [0.1]
    assert arms_of.scores(pd.DataFrame(rows)).to_dict() == {"one": 5.0}


def test_lead_is_a_share_of_the_others_loss_and_scales_are_named():
    assert arms_of.ahead(pd.Series({"a": 3.0, "b": 4.0}), "a", "b") == pytest.approx(25.0)
    with pytest.raises(UserError, match="did you mean small"):
        arms_of.plan_for("smal")
