"""What lessons 08 and 09 compute on the shipped model: distances, ladder, loud tokens, and the judged models of one seed."""

import math

import pytest
import torch

from workbench import models
from workbench.compress import quantize_model
from workbench.papers import _quantization_lesson as lesson
from workbench.papers import badge, load_page


def test_a_model_that_did_not_change_is_at_distance_zero():
    kl, half = lesson.distance(models.load_model("tiny-lm"), "smoke")
    assert abs(kl) < 1e-7 and half < 1e-7


def test_the_distance_is_the_mean_over_all_places_of_what_the_softmax_says():
    model = models.load_model("tiny-lm")
    quantize_model(model, method="rtn", bits=2, group_size=64)
    ids = lesson.windows("test", lesson.sizes_of("smoke").test, 0)
    with torch.no_grad():
        p = torch.softmax(models.load_model("tiny-lm")(ids).logits.double(), -1)
        q = torch.softmax(model(ids).logits.double(), -1)
    by_place = (p * (p / q).log()).sum(-1)
    kl, half = lesson.distance(model, "smoke")
    assert kl == pytest.approx(float(by_place.mean()), rel=1e-3)
    assert half == pytest.approx(1.96 * float(by_place.mean(-1).std()) / len(ids) ** 0.5, rel=1e-3)


def test_fewer_bits_move_the_predictions_further_and_gptq_less_far_than_rounding():
    rounded = [lesson.one_point("rtn", bits, scale="smoke")["kl"] for bits in (8, 4, 3, 2)]
    assert rounded == sorted(rounded)
    point = lesson.one_point("gptq", 2, scale="smoke")
    assert point["kl"] < rounded[-1] and point["size"] == pytest.approx(2 + 18 / 64)
    assert point["gap"] == pytest.approx(point["loss"] - lesson.dense_loss("smoke"))


class Stack(torch.nn.Module):
    """Two layers named as loudest_shares looks for them; the inputs are rows of a table."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]))
        self.down_proj = torch.nn.Linear(2, 2, bias=False)
        self.base_model = lambda ids, use_cache: self.down_proj(self.table(ids))


def test_the_loudest_share_by_hand(monkeypatch):
    model = Stack()
    monkeypatch.setattr(lesson, "find_targets", lambda model: {"0.down_proj": model.down_proj})
    # windows of squared lengths (25, 1) and (1, 4): the loudest hold 25 + 4 of 31
    assert lesson.loudest_shares(model, torch.tensor([[0, 1], [1, 2]])) == pytest.approx([29 / 31])


def test_the_record_of_loud_tokens_is_what_its_table_says():
    record = badge.read("loud-tokens")
    rows = {row["weights"]: row for row in record["rows"]}
    room = math.log(rows["rounding"]["perplexity"] / rows["16 bits"]["perplexity"])
    for row in rows.values():
        closed = 1 - math.log(row["perplexity"] / rows["16 bits"]["perplexity"]) / room
        assert row["gap closed (percent)"] == pytest.approx(100 * closed, abs=1e-6)
    assert len(record["shares"]) == 30 and sum(share > 0.85 for share in record["shares"]) == 2


def test_the_judged_models_of_one_seed_are_enough_for_the_page():
    rows = lesson.efficientqat_judged("smoke")
    page = load_page("efficientqat")
    assert set(rows[rows["kind"] == "model"]["arm"]) == {
        "float", "RTN", "steps and zeros only", "Block-AP", "Block-AP + E2E-QP"
    }  # fmt: skip
    assert math.isfinite(page.margin(rows)) and page.margin(rows) > -1
    assert page.figure(rows).data
