import numpy as np
import pytest
from scipy import stats

from workbench.errors import UserError
from workbench.evaluation import bootstrap_mean, bootstrap_ratio, holm, mcnemar, paired_permutation, tied_with_best
from workbench.evaluation.statistics import sum_by_group

rng = np.random.default_rng(7)
VALUES = rng.lognormal(size=21)
WEIGHTS = rng.uniform(1, 9, size=21)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_mean_interval_equals_scipys(method):
    ours = bootstrap_mean(VALUES, method=method, resamples=2000, seed=3)
    theirs = stats.bootstrap(
        (VALUES,), np.mean, method=method, n_resamples=2000, rng=np.random.default_rng(3), vectorized=True
    ).confidence_interval
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-12)


def test_ratio_interval_equals_scipys_paired_bca():
    ours = bootstrap_ratio(VALUES * WEIGHTS, WEIGHTS, resamples=2000, seed=5)
    theirs = stats.bootstrap(
        (VALUES * WEIGHTS, WEIGHTS), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, method="bca",
        n_resamples=2000, rng=np.random.default_rng(5), vectorized=True,
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-12)


def test_two_documents_by_hand():
    # nll 10 over 5 tokens and 40 over 10: the ratio is 50/15, and the only other samples are 2 and 4.
    found = bootstrap_ratio([10, 40], [5, 10], method="percentile")
    assert (found.value, found.low, found.high, found.units) == (50 / 15, 2, 4, 2)


def test_groups_are_summed_before_resampling():
    groups = ["a", "b", "a", "c", "b", "c", "c"]
    np.testing.assert_array_equal(sum_by_group(np.arange(7.0), groups), [2, 5, 14])
    by_item = bootstrap_mean(np.arange(7.0), groups=groups, seed=1)
    by_hand = bootstrap_ratio([2, 5, 14], [2, 2, 3], seed=1)
    assert by_item == by_hand


def test_one_unit_has_no_interval():
    found = bootstrap_mean([3.0, 5.0], groups=["a", "a"])
    assert found.value == 4 and np.isnan(found.low) and np.isnan(found.high)


def test_equal_values_give_a_point():
    found = bootstrap_mean([2.0] * 9)
    assert (found.low, found.value, found.high) == (2, 2, 2)


def coverage(method, widen, n=12, studies=1200):
    chance = np.random.default_rng(11)
    hits = 0
    for study in range(studies):
        tokens = chance.integers(100, 900, n)
        nll = tokens * (3 + 0.4 * chance.normal(size=n))
        found = bootstrap_ratio(nll, tokens, resamples=999, seed=study, method=method, widen=widen)
        hits += found.low <= 3 <= found.high
    return hits / studies


def test_widened_intervals_cover_as_promised_where_plain_ones_fall_short():
    # 3 000 studies of 12 documents gave 0.903 and 0.941 (BCa: 0.891 and 0.932); two standard errors are 0.014.
    assert coverage("percentile", False) < 0.92
    assert 0.927 <= coverage("percentile", True) <= 0.965


@pytest.mark.parametrize("n", [2, 9, 14])
def test_exact_permutation_equals_scipys(n):
    a, b = rng.normal(size=n), rng.normal(0.4, size=n)
    ours = paired_permutation(a, b)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis=-1: (x - y).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert ours.exact and ours.difference == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_permutation_agrees_with_the_t_test_for_many_items():
    a = rng.normal(size=300)
    b = a + rng.normal(0.12, 1, size=300)
    ours = paired_permutation(a, b, resamples=20_000)
    assert not ours.exact and ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)


def test_permutation_by_document_flips_documents_together():
    a, b = rng.normal(size=40), rng.normal(size=40)
    groups = [i // 5 for i in range(40)]
    assert paired_permutation(a, b, groups=groups).p == paired_permutation(sum_by_group(a - b, groups), np.zeros(8)).p


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 5), (3, 3), (0, 9), (6, 7)])
def test_mcnemar_is_the_binomial_test_and_the_exact_sign_flip(only_a, only_b):
    a = np.array([1] * only_a + [0] * only_b + [1, 1, 0])
    b = np.array([0] * only_a + [1] * only_b + [1, 1, 0])
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, abs=1e-12)
    assert paired_permutation(a, b).p == pytest.approx(expected, abs=1e-12)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])
    assert holm([]).size == 0


def test_false_alarms_of_ties_stay_at_five_percent():
    # A/A: five names of one method, scored on 14 skewed documents that are hard or easy for all.
    chance = np.random.default_rng(2)
    alarms = naive = 0
    for study in range(300):
        matrix = chance.exponential(size=14) * 5 + chance.laplace(size=(5, 14))
        found = tied_with_best(matrix, resamples=499, seed=study)
        alarms += not found.tied.all()
        order = matrix.mean(1).argsort()
        naive += paired_permutation(matrix[order[-1]], matrix[order[0]]).p <= 0.05
    assert alarms <= 15 + 8  # 5 % of 300, and two standard errors
    assert naive > 45  # what testing the winner against the loser would have announced


def test_equal_variants_stay_tied_and_a_worse_one_is_left_out_beside_a_disaster():
    chance = np.random.default_rng(3)
    alarms = missed = 0
    for study in range(150):
        base = chance.normal(size=30) * 3
        equal = [base + 0.2 * chance.normal(size=30) for _ in range(3)]
        matrix = np.stack([*equal, base + 0.5 + 0.2 * chance.normal(size=30), base + 50])
        found = tied_with_best(matrix, higher_is_better=False, resamples=499, seed=study)
        alarms += not found.tied[:3].all()
        missed += found.tied[3:].any()
        assert ((found.p > 0.05) == found.tied).all() and found.tied[found.best]
    assert alarms <= 7.5 + 5.5 and missed == 0


def test_ties_of_one_variant_and_of_equal_rows():
    assert tied_with_best([[1.0, 2.0]]).tied.tolist() == [True]
    same = tied_with_best(np.ones((3, 8)))
    assert same.tied.all() and (same.p == 1).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_mean([]), "at least one"),
        (lambda: bootstrap_mean([1.0, np.nan]), "nan at position 1"),
        (lambda: bootstrap_mean([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: bootstrap_mean([1.0, 2.0], method="bc"), "bca"),
        (lambda: bootstrap_mean([1.0, 2.0], resamples=10), "999"),
        (lambda: bootstrap_mean([1.0, 2.0], groups=["a"]), "one name per item"),
        (lambda: bootstrap_ratio([1.0, 2.0], [1.0, 0.0]), "more than 0"),
        (lambda: bootstrap_ratio([1.0, 2.0], [1.0]), "one of each"),
        (lambda: paired_permutation([1.0], [1.0, 2.0]), "same items"),
        (lambda: mcnemar([0.5], [1]), "paired_permutation"),
        (lambda: holm([1.2]), "between 0 and 1"),
        (lambda: tied_with_best([1.0, 2.0]), "one row per variant"),
    ],
)
def test_bad_input_is_refused_with_a_fix(call, words):
    with pytest.raises(UserError, match=words):
        call()
