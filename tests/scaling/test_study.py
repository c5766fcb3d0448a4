from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.holdout import compute, decades_beyond, holdout, sensitivity, split_largest
from workbench.scaling.laws import get_law
from workbench.scaling.study import plain, study

from .conftest import simulate


def test_compute_does_not_overflow():
    table = pd.DataFrame({"N": [70_000_000_000], "D": [15_000_000_000_000]})
    assert compute(table)[0] == pytest.approx(6.3e24)


def test_holdout_takes_the_largest_and_the_law_beats_the_baselines(chinchilla):
    train, test, axis = split_largest(get_law("chinchilla"), chinchilla, 0.2)
    assert axis == "compute" and compute(train).max() <= compute(test).min()
    rows = holdout(ScalingLaw().fit(chinchilla), chinchilla).set_index("method")
    assert set(rows.index) == {"chinchilla", "no constant", "log-linear", "carry forward"}
    assert rows.loc["chinchilla", "median"] < 0.01
    assert rows["median"].idxmin() == "chinchilla"


def test_extrapolation_of_the_published_points(epoch):
    kept = epoch[epoch["loss"] < epoch["loss"].nlargest(5).min()]
    small, large = kept[kept["Training FLOP"] < 5e20], kept[kept["Training FLOP"] >= 5e20]
    assert (len(small), len(large)) == (187, 53)
    error = np.abs(ScalingLaw().fit(small).predict(large) / large["loss"] - 1)
    assert np.median(error) == pytest.approx(0.009, abs=5e-4)
    assert error.max() == pytest.approx(0.039, abs=5e-4)


def test_decades_beyond_by_hand():
    law = ScalingLaw().fit(simulate("chinchilla", noise=0.01))
    top_n, top_d = law.x_["N"].max(), law.x_["D"].max()
    asked = pd.DataFrame({"N": [top_n * 100, top_n], "D": [top_d * 10, top_d]})
    assert decades_beyond(law, asked) == pytest.approx([2.0, 0.0])


def test_study_is_whole_and_json_able(chinchilla):
    result = study(chinchilla, samples=200, predict={"N": 7e9, "D": 1.4e11})
    text = json.dumps(plain(result))
    assert set(json.loads(text)) >= {"law", "n_runs", "objective", "parameters", "warnings", "holdout", "seconds"}
    for entry in result["parameters"].values():
        assert entry["low"] < entry["value"] < entry["high"]
    assert result["prediction"]["low"] < result["prediction"]["loss"] < result["prediction"]["high"]


def test_far_predictions_carry_the_warning(chinchilla):
    result = study(chinchilla, samples=50, predict={"N": 1e14, "D": 1e15})
    assert any("decades beyond the data" in warning for warning in result["warnings"])
    assert result["prediction"]["decades_beyond"] > 2


def test_auto_takes_the_law_that_predicts_the_largest_runs_best():
    table = simulate("overtraining", n=120, noise=0.003)
    result = study(table, "auto", samples=50)
    assert result["law"] == min(result["laws"], key=lambda row: row["median"])["method"]


def test_few_runs_say_so():
    result = study(simulate("chinchilla", n=9, noise=0.002), samples=50)
    assert result["interval"] == "leave-one-out"
    assert any("leave-one-out" in warning for warning in result["warnings"])


def test_sensitivity_shows_what_five_outliers_do(epoch):
    rows = sensitivity(ScalingLaw().fit(epoch), epoch).set_index("choice")
    assert rows.loc["as fitted", "B"] > 5 * rows.loc["without the 5 highest losses", "B"]


def test_prediction_needs_every_column(chinchilla):
    with pytest.raises(UserError, match="D=VALUE"):
        study(chinchilla, samples=20, predict={"N": 1e9})
