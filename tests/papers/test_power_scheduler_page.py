"""The page `power-scheduler`: verdict by hand, the law planted and found, its lanes' rates, figures."""

import json

import numpy as np
import pandas as pd
import pytest

from workbench.figures import style
from workbench.papers import _power_figures, _power_runs, badge, power_scheduler
from workbench.papers._power_runs import Lane
from workbench.training.schedules import power_rate

PLAN = power_scheduler.plans("small")
GRID = PLAN.rates


def table(power=1.01, b=-0.4, a=0.0576, seed=0, tuned=2.0**-6):
    """Rows of one seed: WSD bowls (a parabola in ln rate) around the law a·T^b, power at `power` times the cell's best."""
    rows = []
    for factor in PLAN.factors:
        for multiple in PLAN.multiples:
            best = np.log(8 * factor * a * (multiple * PLAN.budget) ** b)
            place = {"seed": seed, "part": "cell", "factor": factor, "multiple": multiple}
            losses = {rate: 2 + 0.1 * (np.log(rate) - best) ** 2 for rate in GRID}
            rows += [
                {**place, "schedule": "WSD", "value": r, "loss": v, "chosen": r == tuned} for r, v in losses.items()
            ]
            others = {"power": power * min(losses.values()), "cosine": 1.02 * min(losses.values())}
            rows += [{**place, "schedule": k, "value": 1.0, "loss": v, "chosen": True} for k, v in others.items()]
    return pd.DataFrame(rows)


def test_margin_by_hand():
    rows = table(power=1.004)
    found = power_scheduler.excess(rows).set_index(["arm", "multiple", "factor"])["percent"]
    best = {
        (m, f): rows[(rows["multiple"] == m) & (rows["factor"] == f) & (rows["schedule"] == "WSD")]
        for _, m, f in found.index
    }
    for (m, f), grid in best.items():
        low = grid["loss"].min()
        assert found["power", m, f] == pytest.approx(0.4)
        assert found["cosine", m, f] == pytest.approx(2.0)
        assert found["WSD", m, f] == pytest.approx(100 * (grid.loc[grid["value"] == 2.0**-6, "loss"].item() / low - 1))
        near = grid.loc[np.isclose(grid["value"], f * 2.0**-6), "loss"].item()
        assert found["WSD, rate × batch", m, f] == pytest.approx(100 * (near / low - 1))
    moved = [key for key in best if key != (1, 1.0)]
    wsd = np.mean([found["WSD", m, f] for m, f in moved])
    assert len(moved) == 8
    assert power_scheduler.margin(rows) == pytest.approx(min(0.6, wsd / 2 - 0.4))


@pytest.mark.parametrize(("power", "holds"), [(1.004, True), (1.011, False), (0.99, True)])
def test_one_percent_is_the_line(power, holds):
    assert (power_scheduler.margin(table(power)) > 0) is holds


def test_being_close_is_not_enough_where_wsd_transfers_as_well():
    rows = table(power=1.004)
    flat = rows["schedule"] == "WSD"
    rows.loc[flat, "loss"] = 2.0
    rows.loc[~flat, "loss"] = 2.008
    assert power_scheduler.margin(rows) == pytest.approx(-0.4)


def test_the_planted_law_is_found():
    rows = pd.concat([table(seed=seed) for seed in (0, 1)])
    best = power_scheduler.best_rates(rows)
    law = power_scheduler.power_law(best, PLAN.budget)
    assert not best["edge"].any()
    assert law["b"] == pytest.approx(-0.4, abs=1e-6) and law["a"] == pytest.approx(0.0576, rel=1e-5)
    assert law["low"] <= law["b"] <= law["high"] and law["batch"] == pytest.approx(1)


def test_best_rates_at_the_end_of_the_grid_are_marked_and_not_fitted():
    best = power_scheduler.best_rates(table(a=0.5))
    assert best["edge"].any()
    few = best.assign(edge=True)
    assert np.isnan(power_scheduler.power_law(few, PLAN.budget)["b"])
    assert "not measurable" in power_scheduler.note(table(a=1e6))


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(seed=seed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    figures = (power_scheduler.figure(rows), power_scheduler.law_figure(rows), power_scheduler.law_figure(table(a=1e6)),
               _power_figures.schedules((25, 50, 100), 30))  # fmt: skip
    for fig in figures:
        style.check(fig)
        style.check(style.theme(fig, dark=True))
        assert style.alt(fig)
    assert "power +1.00 %" in style.alt(figures[0])
    assert "power -0.40" in style.alt(figures[1])
    assert "cannot be measured" in style.alt(figures[2])
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in figures[0].layout.meta["caption"]


def test_lanes_share_warm_up_and_decay_and_power_passes_through_the_grids_rate():
    total = PLAN.budget
    wsd = Lane("WSD", 0.01).rate(PLAN, 1.0, total)
    power = Lane("power", PLAN.constant(0.01)).rate(PLAN, 1.0, total)
    cosine = Lane("cosine", 0.01).rate(PLAN, 1.0, total)
    start = 0.9 * total
    assert wsd(start) == 0.01 and power(start) == pytest.approx(0.01)
    assert wsd(0.95 * total) == pytest.approx(0.005) and power(0.95 * total) == pytest.approx(0.005)
    assert [wsd(total), power(total), cosine(total)] == pytest.approx([0, 0, 0], abs=1e-12)
    assert cosine(0.1 * total) == pytest.approx(0.01) and wsd(0.05 * total) == pytest.approx(0.005)
    wide = Lane("power", PLAN.constant(0.01)).rate(PLAN, 2.0, 4 * total)
    expected = power_rate(2 * total, batch_sequences=16, a=PLAN.constant(0.01), lr_max=GRID[-1])
    assert wide(2 * total) == pytest.approx(expected)


def test_tuning_marks_the_best_of_six_for_each_schedule():
    rows = pd.DataFrame(_power_runs.tune(power_scheduler.plans("smoke"), 0))
    for _, own in rows.groupby("schedule"):
        assert own["chosen"].sum() == 1
        assert own.loc[own["chosen"], "loss"].item() == own["loss"].min()


def test_a_lane_ends_where_it_does_alone():
    plan = power_scheduler.plans("smoke")
    together = _power_runs.train(plan, 0, 1.0, 1, [Lane("WSD", 0.01), Lane("cosine", 0.02)])
    alone = _power_runs.train(plan, 0, 1.0, 1, [Lane("cosine", 0.02)])
    assert alone[0]["loss"] == pytest.approx(together[1]["loss"], rel=1e-5)
    assert together[0]["loss"] != together[1]["loss"]


def test_the_committed_run_fails_for_the_reason_the_page_gives():
    rows = pd.DataFrame(badge.read("power-scheduler")["rows"])
    law = power_scheduler.power_law(power_scheduler.best_rates(rows), PLAN.budget)
    assert -0.51 < law["low"] < law["high"] < 0 and 0.3 < law["batch"] < 0.7
    own = power_scheduler.excess(rows)
    assert own[(own["arm"] == "power") & ~own["transferred"]]["percent"].mean() > 1
