"""The laboratory of sparse fine-tuning: the planted problem, what is told while it trains, arms, pictures."""

import pytest
import torch
from torch import nn

from workbench.adapters import SpielConfig
from workbench.adapters._sparse_delta import dense
from workbench.adapters._sparse_delta_select import spiel_optimizer
from workbench.figures import style
from workbench.papers import _sparse_figures, _sparse_lab
from workbench.papers._transfer import Plan, Task, attach, score
from workbench.progress import silent


def test_planted_target_differs_in_the_planted_entries_only():
    base, x, y, places = _sparse_lab.planted_problem(3, noise=0.0)
    weight = torch.linalg.lstsq(x, y).solution.T
    changed = (weight - base[0].weight).abs().reshape(-1) > 0.1
    assert set(changed.nonzero()[:, 0].tolist()) == places and len(places) == 80


def test_every_move_is_told_and_starts_with_the_first_places():
    seen = []
    found = _sparse_lab.planted("gradient", 0, steps=40, seen=lambda step, held: seen.append((step, held)))
    assert [step for step, _ in seen] == [0, 5, 25]
    assert all(len(set(held)) == 80 for _, held in seen)
    assert [row["step"] for row in found["moves"]] == [5, 25]
    places = _sparse_lab.planted_problem(0)[3]
    assert found["recovered"] == len(places & set(seen[-1][1])) / 80


@pytest.mark.parametrize(("metric", "best"), [("loss", 0.2), ("accuracy", 0.1)])
def test_an_arm_trains_every_rate_and_scores_the_best_on_the_test_part(monkeypatch, metric, best):
    losses = {0.1: 3.0, 0.2: 2.0, 0.3: 2.5}
    monkeypatch.setattr(_sparse_lab, "sparse_train", lambda task, config, rate, *_: (rate, 7))
    monkeypatch.setattr(_sparse_lab, "spread", lambda model: 0.5)
    monkeypatch.setattr(_sparse_lab, "score", lambda rate, task, part: losses[rate] if part == "eval" else 10 * rate)
    task = Task("any", metric, None, {}, None)
    found = _sparse_lab.run_arm(task, "AG", "spiel", SpielConfig(), tuple(losses), 0, silent)
    assert [(row["rate"], row["eval"]) for row in found] == list(losses.items())
    (chosen,) = (row for row in found if row["chosen"])
    assert chosen["rate"] == best and chosen["test"] == 10 * best and chosen["trainable"] == 7
    assert [("test" in row) for row in found] == [row["chosen"] for row in found]


class Chooser(nn.Module):
    """A model with a layer to adapt and a `score` layer, for the training loop."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.body, self.score = nn.Embedding(8, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, input_ids, labels=None):
        logits = self.score(self.body(self.embed(input_ids)).mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return type("Out", (), {"logits": logits, "loss": loss})()


def test_a_sparse_arm_trains_its_deltas_and_the_output_layer_of_a_classification():
    ids = torch.randint(0, 8, (64, 5), generator=torch.Generator().manual_seed(0))
    part = {"input_ids": ids, "labels": (ids[:, 0] > 3).long()}
    plan = Plan("none", window=5, batch=8, steps=40, evaluated=64, tested=64)
    task = Task("century", "accuracy", Chooser(), dict.fromkeys(("train", "eval", "test"), part), plan)
    config = SpielConfig(num_weights=9, seed=0, target_modules=["body"])
    model, trained = _sparse_lab.sparse_train(task, config, 0.05, 0)
    inner = model.base_model.model
    assert trained == 9 and not torch.equal(inner.score.weight, task.base.score.weight)
    assert torch.equal(inner.body.base_layer.weight, task.base.body.weight)
    assert inner.body.spiel_values["default"].count_nonzero() > 0
    assert score(model, task, "test") > score(task.base, task, "test")


@pytest.mark.parametrize("kind", [_sparse_lab.Reselector, _sparse_lab.Fresh])
def test_newcomers_start_empty_when_asked(kind):
    base, x, y, _ = _sparse_lab.planted_problem(0)
    model = attach(base, SpielConfig(num_weights=80, target_modules=["0"]))
    layer = model.base_model.model[0]
    optimizer = spiel_optimizer(model, 0.01)
    selector, before = kind(model, optimizer, 100), set(layer.spiel_indices["default"].tolist())
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        selector.after_step()
    state = optimizer.state[layer.spiel_values["default"]]
    new = torch.tensor([place not in before for place in layer.spiel_indices["default"].tolist()])
    assert 0 < new.sum() < 80 and (state["age"][~new] == 5).all()
    assert (state["age"][new] == (0 if kind is _sparse_lab.Fresh else 5)).all()
    assert (state["exp_avg"][new] == 0).all() == (state["exp_avg_sq"][new] == 0).all() == (kind is _sparse_lab.Fresh)
    assert (layer.spiel_values["default"][new] == 0).all()


def test_spread_counts_rows_and_columns_that_hold_a_delta():
    model = attach(nn.Sequential(nn.Linear(4, 2)), SpielConfig(num_weights=3, target_modules=["0"]))
    model.base_model.model[0].spiel_indices["default"].copy_(torch.tensor([0, 1, 2]))
    assert _sparse_lab.spread(model) == (1 + 3) / 6


def test_figures_are_in_the_house_style():
    for drawn in (
        _sparse_figures.mask_map({1, 2}, {2, 5}, 4, 10),
        _sparse_figures.found_over_time(
            {"AG": [(0, 0.0), (5, 0.5)], "MA": [(0, 0.0), (5, 0.2)], "random": [(0, 0.1), (5, 0.1)]}
        ),
    ):
        style.check(drawn)
        style.check(style.theme(drawn, dark=True))
    assert "1 of 2 planted entries" in style.alt(_sparse_figures.mask_map({1, 2}, {2, 5}, 4, 10))


def test_lab_and_adapter_agree_on_what_a_position_means():
    assert dense(None, torch.ones(1), torch.tensor([_sparse_lab.SIDE], dtype=torch.int32), (64, 64))[1, 0] == 1
