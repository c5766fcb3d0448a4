"""The page `fastedit`: verdict by hand, figures, cost, and what its arms are."""

import json

import pandas as pd
import pytest
import torch

from workbench.figures import style
from workbench.papers import _fastedit_figures, _fastedit_lesson, badge, fastedit
from workbench.vision.scenes import draw, render

SCORES = {  # arm: ((target, kept) at two values of the knob, seconds)
    "FastEdit": (((0.5, 1.0), (0.9, 0.9)), 2.0), "FastEdit, any t": (((0.5, 1.0), (0.8, 0.9)), 2.0),
    "Imagic": (((0.9, 0.9), (1.0, 0.2)), 10.0), "Imagic, equal time": (((0.4, 0.6), (0.5, 0.6)), 2.2),
    "SDEdit": (((0.3, 0.9), (0.9, 0.4)), 0.2), "variation": (((0.7, 0.7), (0.9, 0.5)), 0.3),
}  # fmt: skip


def table(seed=0, timed=True, **change):
    """Rows of one seed with two equal requests; `change` maps an arm's first word to other scores."""
    rows = []
    for arm, scores in SCORES.items():
        for request in range(2):
            values, seconds = change.get(arm.replace(", ", "_").replace(" ", "_"), scores)
            for knob, (target, kept) in zip((0.4, 0.8), values, strict=True):
                row = {"seed": seed, "request": request, "arm": arm, "knob": knob, "target": target, "kept": kept}
                row |= {"distance": 0.2, "feature": 0.1, "clip": 0.5, "trainable": 7, "work": 0.0 if timed else seconds}
                rows.append(row | ({"seconds": seconds} if timed else {}))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("change", "quality", "kept", "time"),
    [
        ({}, 3.0, 10.0, 20.0),  # both 90; variation is best at 70 and 70, FastEdit keeps 90; 4 · 2 / 10
        ({"Imagic": (((0.9, 0.9), (1.0, 1.0)), 10.0)}, -7.0, 10.0, 20.0),  # Imagic perfect
        ({"Imagic": (((0.9, 0.9), (1.0, 0.2)), 6.0)}, 3.0, 10.0, -100 / 3),  # and quick
        ({"variation": (((0.9, 0.85), (0.9, 0.5)), 0.3)}, 3.0, -5.0, 20.0),  # keeps nearly as much by itself
        ({"FastEdit": (((0.0, 1.0), (0.0, 0.9)), 2.0)}, -87.0, None, 20.0),  # changes nothing
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_margin_by_hand(change, quality, kept, time, timed):
    rows = table(timed=timed, **change)
    found = fastedit.parts(rows)
    assert found["quality"] == pytest.approx(quality) and found["time"] == pytest.approx(time)
    assert kept is None or found["kept"] == pytest.approx(kept)
    assert fastedit.margin(rows) == pytest.approx(min(found.values()))


def test_every_arm_is_judged_at_its_own_best_knob():
    at = fastedit.best(table()).set_index("arm")
    assert at["knob"].to_dict() == {
        "FastEdit": 0.8, "FastEdit, any t": 0.8, "Imagic": 0.4, "Imagic, equal time": 0.8, "SDEdit": 0.8, "variation": 0.4,
    }  # fmt: skip
    assert at.loc["SDEdit", "harmonic"] == pytest.approx(2 * 90 * 40 / 130)


def test_the_choice_of_steps_is_counted_over_seeds():
    worse = (((0.5, 1.0), (0.95, 0.95)), 2.0)
    rows = pd.concat([table(0), table(1), table(2, FastEdit_any_t=worse)], ignore_index=True)
    assert fastedit.choice_of_steps(rows) == (2, 3)
    assert "beat steps" in fastedit.note(table()) and "do not beat" in fastedit.note(table(FastEdit_any_t=worse))
    assert "20 % of Imagic's time" in fastedit.note(table())


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("timed", [True, False])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds, timed):
    rows = pd.concat([table(seed, timed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    for fig in (fastedit.figure(rows), fastedit.sweep_figure(rows)):
        style.check(fig)
        style.check(style.theme(fig, dark=True))
    assert style.alt(fastedit.figure(rows)) == "FastEdit reaches 90 points at 20% of Imagic's cost; Imagic 90."
    assert ("over 3 seeds" if seeds == 3 else "One seed") in fastedit.figure(rows).layout.meta["caption"]
    assert ("seconds" if timed else "multiply-adds") in fastedit.figure(rows).layout.xaxis.title.text


def test_strips_show_every_picture_where_it_belongs():
    pictures = render(*draw(7, torch.Generator().manual_seed(0)))
    fig = _fastedit_figures.strip(pictures, list("abcdefg"), marked=[True] * 2, per_row=5, caption="Seven.")
    style.check(fig)
    canvas = torch.tensor(fig.data[0].z)
    assert canvas.shape == (2 * 39, 5 * 35 - 3, 3)
    last = ((pictures[6] + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert torch.equal(canvas[39:71, 35:67], last)
    assert len(fig.layout.shapes) == 2 and style.alt(fig) == "7 pictures: a, b, c, d, e, f, g."


def test_the_band_frames_the_steps_inside_it():
    pytest.importorskip("diffusers")
    fig = _fastedit_figures.noise_band((300, 700), 0.5, render(*draw(1, torch.Generator().manual_seed(0))))
    style.check(fig)
    assert len(fig.layout.shapes) == 3  # of 50, 162, 275, 387, 500, 612, 725 …
    assert "steps 300 to 700" in fig.layout.meta["caption"]


def test_the_table_of_arms_by_hand():
    found = _fastedit_lesson.table_of_arms(pd.concat([table(0), table(1)]))
    assert found.loc["FastEdit"].to_dict() == {
        "changed as asked": 90.0, "kept": 90.0, "harmonic": 90.0, "seconds": 2.0, "numbers trained": 7,
    }  # fmt: skip


def test_counting_work_and_taking_time():
    from workbench.papers._fastedit_bench import counted

    a = torch.ones(10, 20)
    result, cost = counted(lambda: a @ a.T, timed=False)
    assert result.shape == (10, 10) and cost == {"seconds": 0.0, "work": pytest.approx(10 * 10 * 20 / 1e9)}
    _, cost = counted(lambda: a @ a.T, timed=True)
    assert cost["seconds"] > 0 and cost["work"] == 0


def test_the_requests_of_the_lesson_are_not_those_of_the_page():
    from workbench.vision.requests import make_requests

    judged = {request.prompt for seed in range(3) for request in make_requests(12, seed)}
    own = _fastedit_lesson.follow("addition")
    assert own.ability == "addition" and own.changed == ("extra",)
    assert not any(torch.equal(own.jitter, r.jitter) for seed in range(3) for r in make_requests(12, seed)) and judged


def test_the_badge_holds_all_arms_and_all_requests():
    rows = pd.DataFrame(badge.read("fastedit")["rows"])
    assert rows.groupby(["seed", "arm"])["request"].nunique().eq(12).all()
    assert set(rows["arm"]) == set(SCORES) and set(rows["ability"]) >= {"addition", "texture", "background", "position"}
    assert not rows["seen"].all()
