"""Uncertainty over seeds and documents: formulas by hand, coverage, and the A/A test of the verdicts."""

import math

import numpy as np
import pytest
from scipy import stats

from workbench.grid.crossed import crossed, difference
from workbench.grid.judging import judge, pairs, scores, verdicts


def test_two_seeds_on_two_documents_by_hand():
    found = crossed(np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([4.0, 4.0]))
    # means of documents 1.5 and 2.5, score 8/16; v_G = 2·(0.5² + 0.5²)/64; both seeds score 0.5, so v_S = 0
    assert found.value == 0.5
    half = stats.t.ppf(0.975, 1) * math.sqrt(2 * 0.5 / 64)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.seeds == pytest.approx((0.5, 0.5))


def test_both_parts_add_and_the_degrees_of_freedom_lie_between():
    rng = np.random.default_rng(0)
    x, w = rng.normal(3, 1, (4, 9)), np.ones(9)
    found = crossed(x, w)
    v_items, v_seeds = x.mean(0).var(ddof=1) / 9, x.mean(1).var(ddof=1) / 4
    free = (v_items + v_seeds) ** 2 / (v_items**2 / 8 + v_seeds**2 / 3)
    half = stats.t.ppf(0.975, free) * math.sqrt(v_items + v_seeds)
    assert found.high - found.value == pytest.approx(half)
    assert 3 < free < 11
    assert found.p == pytest.approx(2 * stats.t.sf(found.value / math.sqrt(v_items + v_seeds), free))


def test_one_seed_says_nothing_about_other_seeds():
    found = crossed(np.array([[1.0, 0.0, 1.0]]), np.ones(3))
    assert math.isnan(found.seeds[0])
    assert found.items == pytest.approx((found.low, found.high))


def test_identical_methods_have_p_one_and_a_shift_is_seen():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, (5, 40))
    assert difference(a, a, np.ones(40)).p == 1.0
    assert difference(a + 0.5, a + rng.normal(0, 0.1, a.shape), np.ones(40)).p < 1e-3


def test_a_method_without_seeds_stands_for_all_of_them():
    a, b = np.ones((3, 6)) * [[1], [2], [3]], np.zeros((1, 6))
    assert difference(a, b, np.ones(6)).runs == 3


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.6])
def test_the_interval_covers_the_truth(spread):
    rng, hits, repeats = np.random.default_rng(2), 0, 300
    for _ in range(repeats):
        x = rng.normal(0, spread, (4, 1)) + rng.normal(0, 1, (1, 25)) + rng.normal(0, 0.3, (4, 25))
        found = crossed(x, np.ones(25))
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / repeats <= 0.995


def grid_of(rng, methods, gap=0.0, seeds=3, documents=24):
    """Scores of methods that are equal but for `gap` on the last one: shared documents, own seeds, own noise."""
    shared = rng.normal(0, 1, (1, documents))
    found = {}
    for index in range(methods):
        own = rng.normal(0, 0.15, (seeds, 1)) + rng.normal(0, 0.4, (seeds, documents))
        found[f"m{index}"] = (shared + own + (gap if index == methods - 1 else 0.0), np.ones(documents))
    return found


def test_the_same_method_under_two_names_is_rarely_called_different():
    rng = np.random.default_rng(3)
    false = sum(any(verdicts(grid_of(rng, 2)).values()) for _ in range(200))
    assert false <= 14  # 5 % of 200, plus 1.3 standard deviations
    some = sum(any(verdicts(grid_of(rng, 6)).values()) for _ in range(60))
    assert some <= 6  # any false alarm among 15 pairs: Holm holds the family


def test_the_worst_is_found_and_the_rest_stay_tied():
    rng = np.random.default_rng(4)
    judged = judge(grid_of(rng, 5, gap=-3.0, seeds=5), higher=True, reference="m0")
    assert not judged["m4"]["tied"] and judged["m4"]["p_holm"] < 0.05
    assert sum(row["tied"] for row in judged.values()) >= 3
    assert "p" not in judged["m0"]


def test_with_one_seed_no_winner_is_named():
    rng = np.random.default_rng(5)
    judged = judge(grid_of(rng, 3, gap=5.0, seeds=1), higher=True, reference="m0")
    assert all(row["tied"] for row in judged.values())


def test_lower_is_better_for_losses():
    x = np.ones((3, 8)) + np.random.default_rng(6).normal(0, 0.01, (3, 8))
    judged = judge({"low": (x, np.ones(8)), "high": (x + 1, np.ones(8))}, higher=False, reference="low")
    assert judged["low"]["tied"] and not judged["high"]["tied"]
    assert judged["high"]["difference"] == pytest.approx(1)


def test_pairs_are_corrected_over_all_of_them():
    measured = grid_of(np.random.default_rng(7), 4)
    found = pairs(measured)
    assert len(found) == 6
    assert all(test["p_holm"] >= test["p"] for test in found.values())


def test_answers_become_scores_by_document():
    text = {"groups": ["a", "a", "b"], "answers": [1, 0, 1]}
    cells = [{"seed": 2, "chosen": [1, 1, 0]}, {"seed": 1, "chosen": [1, 0, 1]}]
    found, weights = scores(cells, text)
    assert found.tolist() == [[2, 1], [1, 0]]
    assert weights.tolist() == [2, 1]
    losses, tokens = scores([{"seed": 1, "nll": [3.0, 4.0], "tokens": [2, 2]}], {})
    assert losses.tolist() == [[3.0, 4.0]] and tokens.tolist() == [2, 2]
