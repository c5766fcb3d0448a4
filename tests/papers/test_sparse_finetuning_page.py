"""The page `sparse-finetuning`: margin by hand, equal counts, figures, what the badge's rows must say."""

import copy

import pandas as pd
import pytest

from workbench import models
from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _sparse_figures, badge
from workbench.papers import sparse_finetuning as page
from workbench.papers._adapter_arms import chosen
from workbench.papers._transfer import attach


def table(ours=(3.96, 0.71), lora=(4.0, 0.70), random=(4.1, 0.68), found=(0.95, 0.02), seed=0):
    """Rows of one seed; (loss, share right) of each arm, and the shares of planted entries found by AG and at random."""
    rows = []
    for arm, pair in ((page.AG, (found[0], 1.0)), (page.MA, (0.1, 0.1)), (page.RANDOM, (found[1], found[1]))):
        rows += [{"seed": seed, "task": "planted", "arm": arm, "problem": i, "found": v} for i, v in enumerate(pair)]
    for arm, values in ((page.LORA, lora), (page.AG, ours), (page.RANDOM, random)):
        for task, metric, value in zip(("python", "century"), ("loss", "accuracy"), values, strict=True):
            place = {"seed": seed, "task": task, "metric": metric, "arm": arm, "method": page.ARMS[arm][0]}
            rows.append({**place, "trainable": 100, "rate": 0.1, "eval": value, "chosen": True, "test": value})
            rows.append({**place, "trainable": 100, "rate": 0.2, "eval": value, "chosen": False})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 1.0),  # level on one task by 1 point; the other is ahead too and cannot raise it
        ({"ours": (3.96, 0.695)}, 0.5),  # 0.5 points behind on the second task
        ({"ours": (4.04, 0.71)}, 0.0),  # exactly 1 % behind on the first is not enough
        ({"ours": (4.02, 0.695)}, -0.5),  # level on neither task
        ({"ours": (3.96, 0.68)}, -1.0),  # 2 points behind on the second
        ({"random": (3.96, 0.70)}, 0.5),  # mean of 0 % and 1 point
        ({"random": (3.60, 0.71)}, -5.0),  # random positions are 10 % ahead on the text
        ({"found": (0.91, 0.02)}, 1.0),  # the worst of AG's problems counts
        ({"found": (0.85, 0.02)}, -5.0),
        ({"found": (0.95, 0.045)}, 0.5),
        ({"found": (0.95, 0.06)}, -1.0),
    ],
)
def test_margin_by_hand(changed, expected):
    assert page.margin(table(**changed)) == pytest.approx(expected, abs=1e-9)


def test_every_arm_trains_the_same_numbers():
    counts = {}
    for arm in (page.LORA, page.AG, page.RANDOM, page.MA, page.ONCE, page.FRESH):
        model = attach(models.load_model("tiny-lm"), copy.deepcopy(page.config_of(arm, 0)))
        counts[arm] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert set(counts.values()) == {2 * 4 * (4 * (192 + 192) + 3 * (192 + 512))}
    assert page.config_of(page.HEAD, 0) is None


def test_an_interval_that_gives_newcomers_no_time_is_refused_by_the_knob():
    with pytest.raises(UserError, match="no time"):
        page.one_point("gradient", 0.01, interval=5, scale="smoke")


def test_the_knob_trains_one_row_at_the_asked_rate():
    row = page.one_point("static", 0.02, scale="smoke", seed=1)
    assert row["rate"] == 0.02 and row["chosen"] and row["trainable"] == 29184 and row["eval"] > 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(seed=seed) for seed in range(seeds)], ignore_index=True)
    verdict = page.figure(rows)
    mine = [{"rate": 0.05, "eval": 4.2}]
    for fig in (verdict, _sparse_figures.against_rate(rows), _sparse_figures.against_rate(rows, mine)):
        style.check(fig)
        style.check(style.theme(fig, dark=True))
    assert "AG +1.0" in style.alt(verdict) and "random positions -2.5" in style.alt(verdict)
    caption = verdict.layout.meta["caption"].replace("\n", " ")
    assert "AG 98%, MA 10%, random positions 2%" in caption and "AG 71.0%" in caption
    assert "AG, moved by gradients 3.96 at 0.1" in style.alt(_sparse_figures.against_rate(rows))
    assert "yours" in [trace.name for trace in _sparse_figures.against_rate(rows, mine).data]


def test_the_badge_compares_equal_counts_and_every_arm_of_the_plan():
    rows, plan = pd.DataFrame(badge.read("sparse-finetuning")["rows"]), page.plan_for("small")
    best = chosen(rows)
    assert (best.loc[best["arm"] != page.HEAD, "trainable"] == 29184).all()
    for task, arms in plan.arms.items():
        tried = rows[rows["task"] == task].groupby("arm")["rate"].nunique()
        assert set(tried.index) == set(arms) and (tried.drop(page.HEAD, errors="ignore") == 3).all()


def test_the_reasons_that_page_and_lesson_give_are_in_the_badge():
    rows = pd.DataFrame(badge.read("sparse-finetuning")["rows"])
    text = rows[rows["task"] == "python"]
    test = chosen(text).pivot_table(index="seed", columns="arm", values="test")
    tried = text.pivot_table(index="seed", columns=["arm", "rate"], values="eval")
    assert (test[page.FRESH] < test[page.LORA]).all() and (test[page.FRESH] < test[page.ONCE]).all()
    assert (test[page.RANDOM] < test[page.FRESH]).all() and (test[page.RANDOM] < test[page.LORA]).all()
    for rate in (1e-2, 4e-2):
        assert (tried[page.FRESH, rate] < tried[page.RANDOM, rate]).all()
    spread = text.groupby("arm")["spread"].mean()
    assert round(100 * spread[page.AG]) == 37 and round(100 * spread[page.RANDOM]) == 96
    dated = chosen(rows[rows["task"] == "century"]).pivot_table(index="seed", columns="arm", values="test")
    assert (dated.sub(dated[page.HEAD], axis=0).abs() < 0.03).all(axis=None)
