"""The page `minicpm` and its laboratory: verdict by hand, figures, what a run, a fork and a branch are, one tiny plateau."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _minicpm_figures, _minicpm_runs, minicpm
from workbench.papers._schedule_lab import KNOWS_NOTHING, Batch, Run, decoder, held_out, order, parameters, text
from workbench.scaling.wsd_ladder import Ratio
from workbench.training.schedules import power_schedule, start_decay, wsd_schedule

PLAN = minicpm.plans("smoke")
LENGTHS = (400, 800, 1600)


def table(wsd=(2.0, 1.9, 1.8), before=(2.1, 2.0, 1.9), plateau=(2.08, 1.98, 1.88), seed=0):
    """Rows of one seed whose tuned cosines end at 2.0, 1.9 and 1.8 (rate 0.02 of two)."""
    rows = []
    for i, (length, best) in enumerate(zip(LENGTHS, (2.0, 1.9, 1.8), strict=True)):
        for rate in (0.01, 0.02):
            loss = best + (0.05 if rate == 0.01 else 0)
            base = {"schedule": "cosine", "length": length, "rate": rate}
            rows.append({"part": "end", **base, "loss": loss, "spent": length})
            rows += [
                {"part": "curve", **base, "step": s, "loss": loss + 1 - s / length} for s in range(100, length + 1, 100)
            ]
            early = [{"part": "end", **base, "schedule": "stopped", "length": s, "planned": length, "loss": 2.2, "spent": 0}
                     for s in LENGTHS[:i]]  # fmt: skip
            rows += early
        end = {"part": "end", "length": length, "rate": 0.02}
        rows.append(
            {**end, "schedule": "WSD", "loss": wsd[i], "before": before[i], "spent": (800, 440, 880)[i], "chosen": True}
        )
        rows.append({**end, "schedule": "plateau", "loss": plateau[i], "spent": 0})
    rows += [
        {"part": "curve", "schedule": "plateau", "length": 1600, "step": s, "loss": 3 - s / 1600}
        for s in range(100, 1700, 100)
    ]
    for n in (6000, 14000, 24000, 38000):
        for d in (10 * n, 20 * n, 40 * n):
            loss = 0.5 + 0.05 * (n / 1e9) ** -0.3 + 0.02 * (d / 1e9) ** -0.4
            rows.append({"part": "ladder", "size": str(n), "n": n, "d": d, "loss": loss, "trained": 0.6 * d})
    return minicpm.keep_tuned(pd.DataFrame([{"seed": seed, **row} for row in rows]))


@pytest.mark.parametrize(
    ("changes", "part", "expected"),
    [
        ({}, "loss", 1.0),
        ({"wsd": (2.0, 1.9095, 1.8)}, "loss", 0.5),  # half a percent above the cosine
        ({"wsd": (2.0, 1.9, 1.836)}, "loss", -1.0),  # two percent
        ({}, "drop", 1 - 3 * 0.02 / 0.1),
        ({"plateau": (2.05, 1.98, 1.88)}, "drop", 1 - 3 * 0.05 / 0.1),
        ({"plateau": (2.12, 2.02, 1.92)}, "drop", 1 + 3 * 0.02 / 0.1),  # a plateau that rises
        ({"before": (2.1, 1.9, 1.9)}, "drop", -1.0),  # nothing falls in the decay
        ({}, "steps", 1 - (2120 / 5600) / 0.6),
    ],
)
def test_allowances_by_hand(changes, part, expected):
    rows = table(**changes)
    assert minicpm.allowances(rows)[part] == pytest.approx(expected)
    assert minicpm.margin(rows) == min(minicpm.allowances(rows).values())


def test_only_tuned_curves_and_readings_are_kept_but_every_cosine_end():
    rows = table()
    own = rows[rows["schedule"].isin(["cosine", "stopped"])]
    assert set(own[own["part"] == "curve"]["rate"]) == {0.02}
    assert len(own[(own["part"] == "end") & (own["schedule"] == "cosine")]) == 6  # all were paid for
    assert list(minicpm.ends(rows)["stopped"].dropna()) == [2.2, 2.2]


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(seed=seed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    law, runs = minicpm.fit(rows), minicpm.of(rows, "ladder")
    for fig in (minicpm.figure(rows), _minicpm_figures.ladder_map(law, runs, Ratio(20.0, 5.0, 80.0, 0.0))):
        style.check(fig)
        style.check(style.theme(fig, dark=True))
    assert "2.000 against 2.000 after 400 steps" in style.alt(minicpm.figure(rows))
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in minicpm.figure(rows).layout.meta["caption"]


def test_note_says_the_ratio_with_its_range():
    text = minicpm.note(table())
    assert "steps 38%" in text and "characters per parameter" in text and "with one size left out" in text


def wsd(optimizer):
    return wsd_schedule(optimizer, warmup_steps=2)


def run(seed=0, schedule=wsd):
    return Run(functools.partial(_minicpm_runs.make, 16, 0.01, seed), schedule, Batch(2, 64), seed, windows=8)


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def test_a_fork_goes_on_like_the_original_and_leaves_it_alone():
    original = run().train(4)
    fork = original.fork().train(8)
    assert torch.equal(weights(fork), weights(run().train(8)))
    assert original.step == 4 and torch.equal(weights(original), weights(run().train(4)))


def test_a_fork_of_a_power_schedule_can_be_ended():
    power = functools.partial(power_schedule, tokens_per_step=128, batch_sequences=2, warmup_tokens=256, a=0.1)
    original = run(schedule=power).train(4)
    fork = original.fork()
    start_decay(fork.scheduler, at_tokens=640, decay_tokens=384)
    assert fork.train(8).optimizer.param_groups[1]["lr"] == 0 < original.train(8).optimizer.param_groups[1]["lr"]


def test_a_branch_is_the_planned_wsd_run_bit_for_bit():
    planned = functools.partial(wsd_schedule, warmup_steps=2, stable_steps=5, decay_steps=4, decay="linear")
    assert torch.equal(weights(run().train(7).decayed(4, decay="linear")), weights(run(schedule=planned).train(11)))


def test_runs_learn_differ_by_seed_and_leave_the_callers_random_state_alone():
    before = torch.get_rng_state()
    losses = [run(seed).train(60).loss() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] < KNOWS_NOTHING - 1
    broken = run()
    broken.model.lm_head.weight.data.fill_(float("nan"))
    assert broken.loss() == KNOWS_NOTHING
    with pytest.raises(UserError, match="train shorter"):
        run().train(10**8)


@pytest.mark.parametrize(("width", "layers"), [(8, 1), (24, 2), (40, 3)])
def test_parameters_are_counted(width, layers):
    model = decoder(width, layers, 0)
    assert parameters(width, layers) == sum(p.numel() for p in model.parameters()) - model.lm_head.weight.numel()


def test_held_out_text_is_not_trained_on():
    windows, held = text(64)[0], held_out(64, 16)
    assert held.shape == (16, 65) and windows.shape[1] == 65
    assert torch.equal(windows[0, -1], windows[1, 0])  # the last character of a window is only predicted
    seen = {bytes(row.tolist()) for row in windows.unfold(1, 40, 1)[:, 0]}
    assert not any(bytes(row[:40].tolist()) in seen for row in held)
    assert sorted(order(64, 3).tolist()) == list(range(len(windows)))


def test_a_plateau_pays_for_every_step_once():
    rows = pd.DataFrame(_minicpm_runs.plateau(PLAN, 0))
    ends = rows[(rows["part"] == "end") & (rows["schedule"] == "WSD")]
    t = PLAN.steps
    longest_plateau = t - _minicpm_runs.decay_steps(t)
    decays = sum(_minicpm_runs.decay_steps(length) for length in PLAN.lengths)
    discarded = (len(PLAN.rates) - 1) * PLAN.lengths[0]
    assert ends["spent"].sum() == longest_plateau + decays + discarded
    assert list(ends[ends["chosen"]]["length"]) == list(PLAN.lengths)
    curve = rows[rows["part"] == "curve"]
    assert curve["step"].is_monotonic_increasing and curve["step"].max() == t
    assert np.isfinite(rows["loss"]).all()


def test_every_marked_step_of_a_cosine_is_read_and_the_shorter_lengths_too():
    rows = pd.DataFrame(_minicpm_runs.cosine(PLAN, 0, PLAN.steps, 0.02))
    assert list(rows[rows["schedule"] == "stopped"]["length"]) == list(PLAN.lengths[:-1])
    assert (
        rows.iloc[-1]["spent"] == PLAN.steps and rows.iloc[-1]["loss"] == rows[rows["part"] == "curve"].iloc[-1]["loss"]
    )
