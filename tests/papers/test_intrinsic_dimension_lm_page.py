"""The page `intrinsic-dimension-lm`: margin by hand, both readings of d90, figures, the knob, what the badge must say."""

import math

import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import badge
from workbench.papers import intrinsic_dimension_lm as page

STAGES = (0.0, 0.1, 0.5, 1.0)


def table(course=(800, 400, 200, 100), said=50, direct=(0.5, 0.5, 0.5, 0.5), seed=0, top=1600):
    """One seed whose curves reach exactly 90 percent of 0.5 at the given d; a d above `top` is not reached."""
    rows = []
    for stage, score in zip(STAGES, direct, strict=True):
        for kind, value in ((page.DIRECT, score), (page.HEAD, 0.3)):
            rows.append({"seed": seed, "stage": stage, "kind": kind, "d": 9, "rate": 0.1, "score": value, "train": 0.9})
    for kind, stage, d in [(page.DID, *pair) for pair in zip(STAGES, course, strict=True)] + [(page.SAID, 1.0, said)]:
        grid = {10: 0.2, d: 0.45} if d <= top else {10: 0.2, top: 0.3}
        rows += [
            {"seed": seed, "stage": stage, "kind": kind, "d": x, "rate": 0.1, "score": y, "train": 0.8}
            for x, y in grid.items()
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0.3),  # 4 times fewer than half, rank correlation −1, SAID needs half as many
        ({"course": (400, 200, 150, 100)}, 0.3),
        ({"course": (180, 150, 120, 100)}, math.log2(0.9)),  # not halved
        ({"course": (800, 100, 200, 150), "said": 75}, 0.4 - 0.7),  # rank correlation −0.4: it does not fall all along
        ({"course": (1650, 1700, 200, 100)}, 0.9487 - 0.7),  # two ties at the top of the grid
        ({"said": 100}, 0.0),
        ({"said": 200}, -1.0),  # the scales cost more than they bring
        ({"course": (800, 400, 200, 1700)}, -10.0),  # not solved at the end
        ({"said": 1700}, -10.0),
    ],
)
def test_margin_by_hand(changed, expected):
    assert page.margin(table(**changed)) == pytest.approx(expected, abs=1e-3)


def test_a_number_that_never_changes_is_no_fall():
    assert page.margin(table(course=(100, 100, 100, 100))) == -1.0


def test_the_line_is_the_last_stage_or_each_stage_its_own():
    rows = table(direct=(0.25, 0.5, 0.5, 0.5))
    assert page.baseline_of(rows) == 0.5
    assert page.found(rows)[page.DID, 0.0] == pytest.approx(800)
    own = page.found(rows, own=True)[page.DID, 0.0]  # 0.225 on the way from 0.2 at 10 to 0.45 at 800
    assert own == pytest.approx(10 * (800 / 10) ** 0.1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(seed=seed) for seed in range(seeds)], ignore_index=True)
    mine = [{"d": 60, "score": 0.4}]
    for fig in (page.figure(rows), page.figure(rows, 0.5, mine), page.bound_figure(rows)):
        style.check(fig)
        style.check(style.theme(fig, dark=True))
    assert "0% read 800; 10% read 400" in style.alt(page.figure(rows)) and "with scales 50" in style.alt(
        page.figure(rows)
    )
    bold = {
        trace.name: trace.line.width for trace in page.figure(rows, 0.5, mine).data if trace.mode == "lines+markers"
    }
    assert bold["50% read"] == 4 and set(bold.values()) == {1, 4}
    # training error 20 percent and √((100 · 16 · ln 2 + ln 20) / 2000) at the end
    price = 100 * math.sqrt((1600 * math.log(2) + math.log(20)) / 2000)
    assert f"100% read: at most {20 + price:.0f}" in style.alt(page.bound_figure(rows))


def test_the_knob_trains_d_numbers_and_refuses_a_stage_that_was_not_kept():
    point = page.one_point(0.2, 40, "SAID", scale="smoke")
    assert (point["stage"], point["kind"], point["d"], point["rate"]) == (0.2, "SAID", 40, 3e-2)
    with pytest.raises(UserError, match=r"0\.2, 0\.5"):
        page.one_point(0.3, 40, scale="smoke")
    with pytest.raises(UserError, match="DID"):
        page.one_point(0.2, 40, "DIDD", scale="smoke")


def test_the_badge_tried_three_rates_and_its_task_is_hard_enough():
    record = badge.read("intrinsic-dimension-lm")
    rows = pd.DataFrame(record["rows"])
    assert len(record["ran"]["rates"]) == 3 and tuple(record["ran"]["stages"]) == page.STAGES
    for _, own in rows.groupby("seed"):
        assert 0.9 * page.baseline_of(own) > 0.25 + 0.05
        assert set(own.loc[own["kind"] == page.DID, "stage"]) == set(page.STAGES)


def test_the_reasons_that_page_and_lesson_give_are_in_the_badge():
    rows = pd.DataFrame(badge.read("intrinsic-dimension-lm")["rows"])
    end = rows[rows["stage"] == 1.0]
    for _, own in rows.groupby("seed"):
        d90 = page.found(own)
        assert all(math.isinf(d90[page.DID, stage]) for stage in (0.0, 0.05, 0.2))
        assert not math.isinf(d90[page.DID, 1.0])
    both = end.pivot_table(index=["seed", "d"], columns="kind", values="score")
    assert ((both[page.DID] - both[page.SAID]).abs().dropna() < 0.02).all()
    scores = end.pivot_table(index="seed", columns="kind", values="score")
    share = scores[page.HEAD] / end[end["kind"] == page.DIRECT].set_index("seed")["score"]
    assert round(100 * share.min()) == 88 and round(100 * share.max()) == 98
