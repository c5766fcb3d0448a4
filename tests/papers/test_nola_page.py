"""The page `nola`: verdict by hand, figures, and the pieces of the transfer study it stands on."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _nola_figures, nola
from workbench.papers._memory import peak_bytes
from workbench.papers._transfer import Plan, Task, batches, score, standard_library, train


def table(scores, seed=0):
    """Rows of one seed from {arm: (loss, accuracy)}; every arm also has a rate that was not chosen."""
    rows = [{"seed": seed, "task": "memory", "arm": arm, "bytes": 1e6} for arm in ("regenerated", "stored")]
    for arm, values in scores.items():
        method, share, _ = nola.ARMS[arm]
        for task, metric, value in zip(("python", "century"), ("loss", "accuracy"), values, strict=True):
            place = {"seed": seed, "task": task, "metric": metric, "arm": arm, "method": method, "share": share}
            rows.append({**place, "trainable": share * 3072, "chosen": True, "test": value})
            rows.append({**place, "trainable": share * 3072, "chosen": False})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ours", "half", "expected"),
    [
        ((4.02, 0.700), (4.10, 0.69), 0.5),  # 0.5 % behind in loss: 1 − 0.5
        ((4.00, 0.695), (4.04, 0.68), 0.5),  # 0.5 points behind in accuracy
        ((4.08, 0.700), (4.20, 0.60), -1.0),  # 2 % behind in loss
        ((4.00, 0.700), (4.00, 0.70), 0.0),  # no better than LoRA on half of the layers
        ((4.00, 0.700), (3.96, 0.72), -1.5),  # worse than it: mean of −1 % and −2 points
    ],
)
def test_margin_by_hand(ours, half, expected):
    rows = table({"LoRA r=1": (4.0, 0.7), "NOLA ½": ours, "LoRA r=1, half the layers": half})
    assert nola.margin(rows) == pytest.approx(expected)


def test_better_follows_the_metric_and_nothing_is_worse_than_not_a_number():
    def row(metric, value):
        return {"metric": metric, "eval": value}

    assert nola.better(row("loss", 1.0), row("loss", 2.0)) and not nola.better(row("loss", 2.0), row("loss", 1.0))
    assert nola.better(row("accuracy", 0.9), row("accuracy", 0.8))
    assert not nola.better(row("accuracy", 0.8), row("accuracy", 0.8))  # the smaller learning rate keeps a tie
    assert nola.better(row("loss", 9.0), row("loss", math.nan))
    assert not nola.better(row("loss", math.nan), row("loss", 9.0))


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    scores = {arm: (4.0 + 0.01 * i, 0.7 - 0.01 * i) for i, arm in enumerate(reversed(nola.ARMS))}
    scores["nothing"] = (8.0, 0.4)
    rows = pd.concat([table(scores, seed) for seed in range(seeds)], ignore_index=True)
    verdict = nola.figure(rows)
    style.check(verdict)
    # NOLA ½ is arm number 4 from the top of the list, LoRA r=1 number 1: 0.03 of 4.01 and 3 points behind
    assert "NOLA ½ is -0.7 points of loss and -3.0 of accuracy" in style.alt(verdict)
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in verdict.layout.meta["caption"]
    for task in ("python", "century"):
        style.check(_nola_figures.against_count(nola.chosen(rows), task))
    style.check(_nola_figures.sum_of_matrices((1.0, -2.0)))
    with pytest.raises(UserError, match="did you mean python"):
        _nola_figures.against_count(nola.chosen(rows), "pyton")


class Chooser(nn.Module):
    """A model with a `score` layer and one linear layer, for the training loop."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.score = nn.Embedding(8, 6), nn.Linear(6, 2)

    def forward(self, input_ids, labels=None):
        logits = self.score(self.body(input_ids).mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return type("Out", (), {"logits": logits, "loss": loss})()


def choosing_task(steps=40):
    ids = torch.randint(0, 8, (64, 5), generator=torch.Generator().manual_seed(0))
    part = {"input_ids": ids, "labels": (ids[:, 0] > 3).long()}
    plan = Plan("none", window=5, batch=8, steps=steps, evaluated=64, tested=64)
    return Task("century", "accuracy", Chooser(), dict.fromkeys(("train", "eval", "test"), part), plan)


def test_an_arm_without_adapter_trains_the_output_layer_only_and_leaves_the_base_alone():
    task = choosing_task()
    before = {name: value.clone() for name, value in task.base.state_dict().items()}
    model, trainable = train(task, None, 0.1, seed=0)
    assert trainable == 0
    assert all(torch.equal(value, before[name]) for name, value in task.base.state_dict().items())
    assert torch.equal(model.body.weight, before["body.weight"])
    assert not torch.equal(model.score.weight, before["score.weight"])
    assert score(model, task, "test") > score(task.base, task, "test")


def test_every_arm_of_a_seed_sees_the_same_batches_and_all_rows_come_before_one_comes_again():
    part = {"input_ids": torch.arange(10)[:, None]}
    runs = [torch.cat([batch["input_ids"] for batch in batches(part, 4, 5, seed)]) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert sorted(runs[0][:10].flatten().tolist()) == list(range(10))


def test_loss_is_the_mean_over_all_predicted_tokens():
    class Fixed(nn.Module):
        def forward(self, input_ids):
            logits = torch.zeros(*input_ids.shape, 4)
            logits[0, :, 2] = math.log(3)  # first row: probability ½ for token 2, a sixth for the others
            return type("Out", (), {"logits": logits})()

    ids = torch.tensor([[0, 2, 2], [0, 1, 3]])
    plan = Plan("none", 3, 1, 1, 2, 2)
    task = Task("python", "loss", Fixed(), {"test": {"input_ids": ids, "labels": ids}}, plan)
    assert score(Fixed(), task, "test") == pytest.approx((2 * math.log(2) + 2 * math.log(4)) / 4)


def test_the_standard_library_is_read_by_module():
    examples = standard_library(12)
    assert len(examples.rows) == 12 == len({row["group"] for row in examples.rows})
    assert all("\n" in row["text"] for row in examples.rows)


def test_peak_counts_what_is_alive_at_once():
    def work():
        for _ in range(5):
            torch.zeros(1000)  # dropped at once
        kept = [torch.zeros(500), torch.zeros(500)]
        return torch.cat(kept)

    assert peak_bytes(work) == 4 * (500 + 500 + 1000)
    weight = torch.zeros(100)
    assert peak_bytes(lambda: weight.view(10, 10).t(), ignore=[weight]) == 0
    assert peak_bytes(lambda: weight.view(10, 10).t()) == 400
