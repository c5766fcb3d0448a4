"""Learning curves: exact recovery, regions, intervals, comparison, protocol, refusals, and the page that uses them."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.tree import DecisionTreeClassifier

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _learning_figures, _teacher
from workbench.papers import predictable_empirically as page
from workbench.scaling import _curve_fit
from workbench.scaling.learning_curve import (
    LearningCurve,
    ModelGrowth,
    best_models,
    estimator_score,
    measure_learning_curve,
    nested_shards,
    summarize,
)

M = 8.0 * 2.0 ** np.arange(13)


def noisy(seed, scale=2.0, exponent=-0.4, floor=0.1, sigma=0.03):
    noise = np.random.default_rng(seed).standard_normal(len(M))
    return (floor + scale * M**exponent) * np.exp(sigma * noise)


@pytest.mark.parametrize(("floor", "guess"), [(0.1, None), (0.1, 0.9), (0.0, None), (0.0, 0.9)])
def test_noiseless_curves_return_their_constants(floor, guess):
    h = 2.0 * M**-0.4
    error = floor + (h if guess is None else (h**-4 + (guess - floor) ** -4) ** -0.25)
    curve = LearningCurve(guess, floor=floor > 0).fit(M, error)
    assert (curve.scale_, curve.exponent_, curve.floor_) == pytest.approx((2.0, -0.4, floor), abs=1e-6)
    assert curve.predict(M) == pytest.approx(error, abs=1e-8)


def test_region_boundaries_solve_their_equations():
    h = 2.0 * M**-0.4
    curve = LearningCurve(0.9).fit(M, 0.1 + (h**-4 + 0.8**-4) ** -0.25)
    m1, m2 = (curve.regions_[key]["value"] for key in ("m1", "m2"))
    assert 2.0 * m1**-0.4 + 0.1 == pytest.approx(0.9) and 2.0 * m2**-0.4 == pytest.approx(0.1)
    assert curve.regions_["m1"]["reached"] == curve.regions_["m2"]["reached"] == "yes"


def test_regions_outside_the_data_are_not_reached():
    curve = LearningCurve(0.9).fit(M + 1000 * M, 0.001 + 2.0 * (1001 * M) ** -0.2)
    assert "not reached" in curve.regions_["m1"]["reached"] and "not reached" in curve.regions_["m2"]["reached"]


@pytest.mark.parametrize("guess", [None, 0.9])
def test_data_for_is_the_inverse_of_predict(guess):
    curve = LearningCurve(guess).fit(M, noisy(0) if guess is None else np.minimum(noisy(0), 0.85))
    for m in (64.0, 5e5):
        assert curve.data_for(curve.predict(m)[0]) == pytest.approx(m, rel=1e-6)


def test_the_derivatives_are_exact():
    for guess, floor in ((None, True), (0.9, True), (0.9, False)):
        model = _curve_fit.Model(np.log(M), guess, floor)
        z = np.array([[-1.0, 0.4, -2.5][: model.parameters]])
        for i in range(model.parameters):
            step = np.zeros_like(z)
            step[0, i] = 1e-6
            numeric = (model.log_error(z + step) - model.log_error(z - step)) / 2e-6
            np.testing.assert_allclose(model.slopes(z)[..., i], numeric, atol=1e-8)


def test_intervals_cover_and_show_how_exponent_and_floor_are_tied():
    hits = np.zeros(3)
    for seed in range(30):
        curve = LearningCurve(samples=100).fit(M, noisy(seed))
        for i, (name, truth) in enumerate((("exponent", -0.4), ("floor", 0.1), ("scale", 2.0))):
            low, high = curve.interval(name)
            hits[i] += low <= truth <= high
    assert (hits >= 25).all(), hits  # 95 % of 30 is 28.5; below 25 has probability 0.003 each
    assert np.corrcoef(curve.draws_[:, 1], curve.draws_[:, 2])[0, 1] < -0.8


def test_weights_follow_the_standard_errors():
    error = 2.0 * M**-0.4
    error[0] *= 2
    sem = np.full(len(M), 0.01) * error
    sem[0] *= 100
    plain, weighted = (LearningCurve(floor=False).fit(M, error, s) for s in (None, sem))
    assert abs(weighted.exponent_ + 0.4) < 1e-3 < abs(plain.exponent_ + 0.4)


def test_a_constant_curve_has_exponent_zero_with_an_interval_and_promises_nothing():
    curve = LearningCurve().fit(M, np.full(len(M), 0.4))
    assert curve.exponent_ == 0.0 and curve.interval("exponent") == (0.0, 0.0)
    assert "does not fall" in curve.note_
    wobbling = LearningCurve().fit(M, 0.4 + 0.01 * np.cos(np.arange(13)))
    low, high = wobbling.interval("exponent")
    assert wobbling.exponent_ == 0.0 and low < 0 < high
    with pytest.raises(UserError, match="flat"):
        wobbling.data_for(0.2)


def test_two_shifted_lines_have_one_slope_and_two_tilted_ones_have_not():
    base = LearningCurve(floor=False).fit(M, noisy(1, floor=0.0))
    shifted = LearningCurve(floor=False).fit(M, noisy(3, 1.5, floor=0.0))
    tilted = LearningCurve(floor=False).fit(M, noisy(3, exponent=-0.5, floor=0.0))
    beside = base.compare(shifted)
    assert beside.p_slope > 0.05 and beside.p_offset < 1e-6
    assert beside.slope_interval[0] < 0 < beside.slope_interval[1]
    assert beside.offset == pytest.approx(2.0 / 1.5, rel=0.05)
    assert base.compare(tilted).p_slope < 1e-4
    with pytest.raises(UserError, match="same `floor`"):
        base.compare(LearningCurve().fit(M, noisy(0)))


def test_the_f_test_of_equal_slopes_is_that_of_ordinary_regression():
    one, two = noisy(1, floor=0.0), noisy(2, 1.5, -0.42, 0.0)
    x, y = np.log(np.concatenate([M, M])), np.log(np.concatenate([one, two]))
    group = np.repeat([0.0, 1.0], len(M))
    designs = [np.column_stack([np.ones(26), group, x]), np.column_stack([np.ones(26), group, x, group * x])]
    left = [((y - d @ np.linalg.lstsq(d, y, rcond=None)[0]) ** 2).sum() for d in designs]
    expected = _curve_fit._f_test(left[0], left[1], 26 - 4)
    curves = [LearningCurve(floor=False).fit(M, e) for e in (one, two)]
    assert curves[0].compare(curves[1]).p_slope == pytest.approx(expected, rel=1e-4)


def test_model_growth_returns_a_power():
    growth = ModelGrowth().fit(M, 3.0 * M**0.7)
    assert growth.exponent_ == pytest.approx(0.7) and growth.scale_ == pytest.approx(3.0)
    assert growth.low_ == pytest.approx(0.7) and growth.predict(1e6) == pytest.approx(3.0 * 1e6**0.7)


@pytest.mark.parametrize(
    ("m", "error", "match"),
    [
        (M[:4], [0.4, 0.3, 0.2, 0.1], "at least 5"),
        (np.arange(10, 20), np.linspace(0.5, 0.4, 10), "factor of 10"),
        (M, np.linspace(0.1, 0.5, 13), "rises"),
        (M, np.r_[0.0, np.linspace(0.5, 0.1, 12)], "Shard 1 has 0 in error"),
        (M, np.r_[np.nan, np.linspace(0.5, 0.1, 12)], "Shard 1 has nan"),
        (M, [0.5, 0.4], "one of each"),
    ],
)
def test_curves_that_say_nothing_are_refused(m, error, match):
    with pytest.raises(UserError, match=match):
        LearningCurve().fit(m, error)


def test_targets_out_of_reach_are_refused():
    curve = LearningCurve(0.9).fit(M, np.minimum(noisy(0), 0.85))
    with pytest.raises(UserError, match="floor is"):
        curve.data_for(0.01)
    with pytest.raises(UserError, match="no better than guessing"):
        curve.data_for(0.95)


def test_shards_are_prefixes_of_one_permutation_and_hold_every_class():
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    shards = nested_shards(1000, 10, stratify=classes, seed=3)
    assert [len(shard) for shard in shards] == [10, 20, 40, 80, 160, 320, 640]
    for small, large in itertools.pairwise(shards):
        assert np.array_equal(small, large[: len(small)])
    for shard in shards:
        assert len(set(shard)) == len(shard)
        np.testing.assert_allclose(np.bincount(classes[shard]) / len(shard), [0.6, 0.3, 0.1], atol=1 / len(shard))
    assert not np.array_equal(nested_shards(1000, 10, seed=1)[0], nested_shards(1000, 10, seed=2)[0])
    with pytest.raises(UserError, match="fewer than two shards"):
        nested_shards(10, 8)
    with pytest.raises(UserError, match="one class per row"):
        nested_shards(10, 2, stratify=[1, 2])


def test_measuring_goes_on_where_it_was_killed_and_refuses_shards_that_are_not_nested():
    calls, kept = [], []

    def score(rows, size, seed):
        calls.append((len(rows), size, seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return 1 / len(rows), 2 / len(rows)

    shards = nested_shards(32, 8)
    with pytest.raises(KeyboardInterrupt):
        measure_learning_curve(score, shards, [1, 2], [0], each=kept.append)
    rows = measure_learning_curve(score, shards, [1, 2], [0], rows=kept[-1])
    assert calls[4:] == [(16, 2, 0), (32, 1, 0), (32, 2, 0)]
    assert len(rows) == 6 and not rows.duplicated(["m", "size", "seed"]).any()
    with pytest.raises(UserError, match="needs nested"):
        measure_learning_curve(score, [shards[0][::-1], shards[1]], [1], [0])


def test_validation_picks_the_smallest_model_that_reaches_the_best_and_the_test_error_is_only_carried():
    rows = pd.DataFrame(
        [(8, 1, 0, 0.50, 0.1), (8, 2, 0, 0.40, 0.6), (8, 4, 0, 0.40, 0.2), (8, 1, 1, 0.3, 0.4), (8, 2, 1, 0.2, 0.8)],
        columns=["m", "size", "seed", "validation", "error"],
    )
    best = best_models(rows)
    assert best["size"].tolist() == [2, 2] and best["error"].tolist() == [0.6, 0.8]
    assert best_models(rows, tolerance=0.6)["size"].tolist() == [1, 1]
    assert summarize(best).iloc[0].to_dict() == pytest.approx({"m": 8, "error": 0.7, "sem": 0.1, "n": 2})


def test_any_scikit_learn_estimator_is_measured():
    x, y = make_classification(2000, 10, n_informative=5, random_state=0)
    parts = (x[1000:1500], y[1000:1500]), (x[1500:], y[1500:])
    score = estimator_score(DecisionTreeClassifier(), x[:1000], y[:1000], *parts, size="max_depth")
    rows = measure_learning_curve(score, nested_shards(1000, 15), [2, 6], [0, 1])
    table = summarize(best_models(rows))
    assert len(table) == 7 and table["error"].iloc[-1] < table["error"].iloc[0]
    assert LearningCurve(floor=False).fit(table["m"], table["error"]).exponent_ < 0


def test_a_stream_has_the_bayes_error_that_its_noise_makes():
    clean, dirty = (_teacher.stream(5, 10, 10, 20000, noise) for noise in (0.0, 0.2))
    assert torch.equal(clean.test[0], dirty.test[0])
    assert float((clean.test[1] != dirty.test[1]).float().mean()) == pytest.approx(0.18, abs=0.01)
    assert not torch.equal(clean.x, _teacher.stream(6, 10, 10, 20000).x)


def test_more_rows_make_the_student_better_and_the_same_seed_the_same():
    data = _teacher.stream(0, 512, 500, 1000)
    few, many, again = (_teacher.train(data, np.arange(m), "tanh", 32, 0, limit=400) for m in (16, 512, 512))
    assert many[1] < few[1] - 0.1 and many == again


def rows_of(exponent=-0.3, scale=(2.0, 1.6), bend=0.0, floor=0.18):
    """Rows of one seed whose chosen models lie on known curves; `bend` lowers the two largest shards."""
    found = []
    for arm, a, own in (("relu", scale[0], 0.0), ("tanh", scale[1], 0.0), (page.NOISY, scale[0], floor)):
        for i, m in enumerate(M):
            error = own + a * m**exponent * (1 - bend * (i >= 11))
            error *= 1 + 0.002 * (-1) ** i
            found.append(
                {"arm": arm, "m": int(m), "size": 16, "seed": 0, "validation": error, "error": error, "guess": 0.9}
            )
    return pd.DataFrame(found).assign(chosen=True)


def test_the_verdict_by_hand():
    kept = page.verdict(rows_of())
    assert min(kept.values()) > 0 and page.margin(rows_of()) == min(kept.values())
    assert kept["prediction"] == pytest.approx(1.0, abs=0.1) and kept["straight"] == pytest.approx(1.0, abs=0.1)
    lost = page.verdict(rows_of(bend=0.2))
    assert lost["prediction"] == pytest.approx(1 - 0.25 / 0.1, abs=0.1)  # predicted 1/0.8 of what was measured
    assert page.verdict(rows_of(scale=(2.0, 2.0)))["two offsets"] < 0
    flat = rows_of()
    flat["error"] = 0.5
    assert page.margin(flat) == -1.0


def test_an_exponential_is_found_by_its_baseline():
    m = M[4:]
    train = pd.DataFrame({"m": m[:-2], "error": 0.2 + 0.5 * np.exp(-0.002 * m[:-2])})
    guess = page.baselines(train, m[-2:])["exponential"]
    assert guess == pytest.approx(0.2, abs=0.02)


def test_figures_are_in_the_house_style():
    style.check(page.figure(pd.concat([rows_of(), rows_of(-0.25).assign(seed=1)], ignore_index=True)))
    curve = LearningCurve(0.9).fit(M, np.minimum(noisy(0), 0.85))
    for target in (None, 0.15, 0.01):
        fig = _learning_figures.learning_curve(curve, target, held=pd.DataFrame({"m": [7e4], "error": [0.12]}))
        style.check(fig)
    assert "No number of rows" in fig.layout.meta["caption"]
    style.check(_learning_figures.slope_and_floor(curve))
