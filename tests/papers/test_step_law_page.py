"""The page `step-law`: settings, references and verdict by hand on a planted sweep, and all its pictures."""

import json

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _step_law_figures, _step_law_lesson, _step_law_parts, badge, step_law
from workbench.scaling import sweep as room
from workbench.scaling.fleet import non_embedding
from workbench.scaling.hyperparameters import HyperparameterLaw
from workbench.scaling.planner import plan
from workbench.scaling.sweep import BATCHES, GRID_SIZES, RATES, SIZES

RATE, BATCH = (3.0, -0.6, 0.1), (0.9, 0.4)


def optimum(n, d):
    return RATE[0] * n ** RATE[1] * d ** RATE[2], BATCH[0] * d ** BATCH[1]


def loss_of(n, d, lr, batch):
    best_lr, best_batch = optimum(n, d)
    away = 0.01 * np.log(lr / best_lr) ** 2 + 0.02 * np.log(batch / best_batch) ** 2
    return (1 + 3 / n**0.1 + 9 / d**0.25) * np.exp(away)


def planted(seeds=(0,)):
    """A sweep whose valleys are exact quadratics, with a floor that falls with N and D; all cells under all `seeds`."""
    rows = []
    for size in GRID_SIZES:
        n = non_embedding(*SIZES[size])
        for d, batches in BATCHES.items():
            for batch in batches:
                for lr in RATES:
                    place = {
                        "n": n,
                        "d": d,
                        "lr": lr,
                        "batch_tokens": batch,
                        "width": SIZES[size][0],
                        "layers": SIZES[size][1],
                    }
                    loss = loss_of(n, d, lr, batch)
                    rows += [{**place, "seed": s, "loss": loss * (1 + 0.001 * s), "role": "grid"} for s in seeds]
    for size, d in (("96x5", 294_912), ("128x6", 294_912), ("192x6", 294_912)):
        n = non_embedding(*SIZES[size])
        lr, batch = optimum(n, d)
        place = {"n": n, "d": d, "width": SIZES[size][0], "layers": SIZES[size][1], "seed": 0, "role": "large"}
        rows.append({**place, "lr": lr, "batch_tokens": batch, "loss": loss_of(n, d, lr, batch)})
    return pd.DataFrame(rows)


def planted_train(jobs):
    return [
        {
            "loss": loss_of(non_embedding(*SIZES[job.size]), job.tokens, job.lr, job.batch_tokens)
            * (1 + 0.001 * job.seed)
        }
        for job in jobs
    ]


@pytest.fixture
def sweep(monkeypatch):
    table = planted()
    monkeypatch.setattr(room, "load_sweep", lambda: table)
    monkeypatch.setattr(room, "train", planted_train)
    return table


def test_the_law_finds_the_planted_setting_of_a_cell_it_has_not_seen(sweep):
    table = step_law.grid_of(sweep, 0)
    n, d = non_embedding(32, 2), step_law.SHORT
    lr, batch = step_law.settings(table, n, d)[step_law.LAW]
    best_lr, best_batch = optimum(n, d)
    assert abs(np.log2(lr / best_lr)) < 0.75  # half a step of the grid of rates
    assert abs(np.log2(batch / best_batch)) < 0.5
    changed = sweep.assign(loss=sweep["loss"].where((sweep["n"] != n) | (sweep["d"] != d), 9.0))
    assert step_law.settings(step_law.grid_of(changed, 0), n, d)[step_law.LAW] == (lr, batch)


def test_best_single_is_the_lowest_mean_excess_among_settings_that_all_cells_have():
    table = pd.DataFrame(
        [(1, 1, 0.1, 16, 2.0), (1, 1, 0.2, 16, 2.2), (1, 1, 0.1, 8, 1.0),
         (2, 1, 0.1, 16, 3.3), (2, 1, 0.2, 16, 3.0), (2, 1, 0.2, 32, 2.0)],
        columns=["n", "d", "lr", "batch_tokens", "loss"],
    )  # fmt: skip
    # Excess of (0.1, 16): 100 % and 65 %; of (0.2, 16): 120 % and 50 %. The other two are in one cell each.
    assert _step_law_parts.best_single(table) == (0.1, 16)


def test_reference_is_the_grids_best_under_the_seed_or_its_best_setting_trained_again(sweep):
    n, d = non_embedding(32, 2), step_law.SHORT
    own = sweep[(sweep["n"] == n) & (sweep["d"] == d)]
    best = own.loc[own["loss"].idxmin()]
    same = step_law.reference(step_law.grid_of(sweep, 0), "32x2", n, d, 0)
    again = step_law.reference(step_law.grid_of(sweep, 5), "32x2", n, d, 5)
    assert same["loss"] == best["loss"] and again["loss"] == pytest.approx(1.005 * best["loss"])
    assert (
        (same["lr"], same["batch_tokens"]) == (again["lr"], again["batch_tokens"]) == (best["lr"], best["batch_tokens"])
    )


def test_a_seed_sees_its_own_cells_and_those_of_seed_0_elsewhere():
    table = planted((0, 1))
    table = table[(table["seed"] == 0) | (table["d"] == step_law.SHORT)]
    seen = step_law.grid_of(table, 1)
    assert (seen["seed"] == (seen["d"] == step_law.SHORT)).all()
    assert len(seen) == len(table[(table["seed"] == 0) & (table["role"] == "grid")])
    assert (step_law.grid_of(table, 7)["seed"] == 0).all()


def test_on_a_planted_law_the_claim_holds_and_everything_is_reported(sweep):
    found = step_law.experiment(scale="full", seed=0)
    mean = step_law.means(found.rows)
    assert mean[step_law.LAW] < 0.2 and mean[step_law.LAW] < min(mean[step_law.SINGLE], mean[step_law.COMPUTE])
    assert found.margin > 0
    value = step_law.of(found.rows, "exponent").set_index("name")["value"]
    assert value["lr_N"] == pytest.approx(RATE[1], abs=0.15) and value["B_D"] == pytest.approx(BATCH[1], abs=0.2)
    assert step_law.of(found.rows, "valley")["valley"].mean() == 1
    assert (step_law.of(found.rows, "nearest")["excess"] < 1.5).all()
    assert {"chinchilla", "log-linear", "carry forward"} <= set(step_law.of(found.rows, "holdout")["method"])
    assert "Mean excess: step law" in found.note and "9 cells" in found.note


def test_noise_is_the_scatter_over_seeds_of_settings_near_the_best():
    table = pd.DataFrame(
        [(1, 1, 0.1, 16, 0, 2.0), (1, 1, 0.1, 16, 1, 2.0 * np.exp(0.02)), (1, 1, 0.2, 16, 0, 9.0), (1, 1, 0.2, 16, 1, 5.0),
         (2, 1, 0.1, 16, 0, 3.0)],
        columns=["n", "d", "lr", "batch_tokens", "seed", "loss"],
    ).assign(role="grid")  # fmt: skip
    (row,) = step_law.noise(table)
    assert row["value"] == pytest.approx(100 * 0.02 / 2**0.5) and row["runs"] == 2
    assert step_law.noise(table[table["seed"] == 0]) == []


def rows(law=0.2, single=0.6, compute=0.5, valleys=9, lr_n=-0.5, b_d=0.3, seed=0):
    cells = [
        {"part": "cell", "arm": arm, "excess": value + shift, "n": 23_000, "d": d, "lr": 0.01, "batch_tokens": 64}
        for arm, value in (
            (step_law.LAW, law),
            (step_law.SINGLE, single),
            (step_law.COMPUTE, compute),
            (step_law.BEST, 0.0),
        )
        for d, shift in ((1000, -0.1), (2000, 0.1))
    ]
    cells += [{"part": "valley", "valley": float(i < valleys), "edge": ""} for i in range(9)]
    cells += [{"part": "exponent", "name": name, "value": value} for name, value in (("lr_N", lr_n), ("B_D", b_d))]
    return pd.DataFrame([{"seed": seed, **row} for row in cells])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1.0 - 0.8),  # all cells are valleys: 0.2 above the limit; the rest has more room
        ({"law": 0.45}, 0.05), ({"law": 0.7}, -0.2), ({"single": 0.1}, -0.1), ({"compute": 0.25}, 0.05),
        ({"valleys": 7}, 7 / 9 - 0.8), ({"lr_n": 0.1}, -0.1), ({"b_d": -0.3}, -0.3),
    ],
)  # fmt: skip
def test_margin_by_hand(change, expected):
    assert step_law.margin(rows(**change)) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_verdict_is_in_the_house_style_and_says_the_finding(seeds):
    table = pd.concat([rows(law=0.2 + 0.1 * seed, seed=seed) for seed in range(seeds)], ignore_index=True)
    table = pd.DataFrame(json.loads(table.to_json(orient="records")))  # as a badge stores them
    fig = step_law.figure(table)
    style.check(fig)
    style.check(style.theme(fig, dark=True))
    assert f"step law +{0.2 + 0.05 * (seeds - 1):.2f} %, one setting for all +0.60 %" in style.alt(fig)
    assert ("95 % interval over 3 seeds" if seeds == 3 else "one seed") in fig.layout.meta["caption"]


def test_valley_figure_shows_plateau_star_and_the_rules_inside(sweep):
    n, d = non_embedding(48, 3), step_law.MIDDLE
    fig = step_law.valley_figure(n, d)
    style.check(fig)
    style.check(style.theme(fig, dark=True))
    names = {trace.name for trace in fig.data}
    assert {"loss", "+0.5 %", "fitted here", "step law", "DeepSeek"} <= names
    assert "Outside the picture" not in fig.layout.meta["caption"]
    star = next(trace for trace in fig.data if trace.name == "fitted here")
    assert [star.x[0], star.y[0]] == pytest.approx(np.log2(optimum(n, d)), abs=0.75)
    assert "plateau of +0.5 % spans rates a factor" in style.alt(fig)
    with pytest.raises(UserError, match="no cell with N = 5"):
        step_law.valley_figure(5, d)


def test_a_cell_without_a_valley_says_so(sweep):
    own = sweep[(sweep["n"] == non_embedding(32, 2)) & (sweep["d"] == step_law.SHORT)]
    tilted = own.assign(loss=2 + 0.01 * np.log(own["lr"]) - 0.02 * np.log(own["batch_tokens"] / 40) ** 2)
    fig = _step_law_figures.valley(tilted)
    style.check(fig)
    assert "no plateau" in style.alt(fig) and "fitted here" not in {trace.name for trace in fig.data}


@pytest.mark.parametrize(("n", "d", "words"), [(5e4, 1e5, "inside the fitted cells"), (1e9, 1e11, "decades beyond")])
def test_setting_figure(sweep, n, d, words):
    law = HyperparameterLaw(samples=100).fit(step_law.grid_of(sweep, 0))
    fig = _step_law_figures.setting(law, n, d, (23_000, 195_000, 32_768, 294_912))
    style.check(fig)
    assert words in style.alt(fig)
    assert {"fitted here", "step law", "DeepSeek", "Porian"} <= {trace.name for trace in fig.data}
    assert "OpenAI 2020" in fig.layout.meta["caption"] and "Microsoft" not in fig.layout.meta["caption"]


def test_tied_constants(sweep):
    law = HyperparameterLaw(samples=300).fit(step_law.grid_of(sweep, 0))
    for name in ("B", "lr"):
        fig = _step_law_lesson.tied(law, name)
        style.check(fig)
        assert "correlation with the logarithm of the constant is -" in style.alt(fig)
    with pytest.raises(UserError, match="B and lr"):
        _step_law_lesson.tied(law, "D")


@pytest.fixture(scope="module")
def law():
    return _step_law_lesson.chinchilla_law()


def test_budget_figure_says_the_best_size_and_how_far_it_lies(law):
    boot = law.bootstrap(50)
    near, far = (_step_law_lesson.budget(law, flops, boot) for flops in (1e20, 1e26))
    for fig in (near, far):
        style.check(fig)
    assert "beyond the fitted runs" in far.layout.meta["caption"] and "beyond" not in near.layout.meta["caption"]


@pytest.mark.parametrize(("flops", "served"), [(1e22, 1e12), (1e19, 1e15), (1e25, 0.0)])
def test_whole_life_figure(law, flops, served):
    fig = _step_law_lesson.whole_life(law, flops, served)
    style.check(fig)
    saved = int(style.alt(fig).split("saves ")[1].split("%")[0])
    assert (saved == 0) if served == 0 else (0 <= saved < 100)
    star = next(trace for trace in fig.data if trace.name == "cheapest in all")
    both = next(trace for trace in fig.data if trace.name == "both")
    assert star.y[0] <= min(both.y) * 1.001


def test_a_plan_is_told_with_its_intervals(law):
    table = _step_law_lesson.told(plan(law, 1e21, bootstrap=law.bootstrap(50)))
    assert " to " in table.loc["parameters", "95 %"] and table.loc["training FLOP", "95 %"] == ""
    assert table.loc["training FLOP", "value"] == "1e+21"


def test_the_badge_and_the_shipped_sweep_draw_as_they_are():
    kept = pd.DataFrame(badge.read("step-law")["rows"])
    for cell in step_law.of(kept[kept["seed"] == 0], "valley").itertuples():
        style.check(step_law.valley_figure(int(cell.n), int(cell.d)))
