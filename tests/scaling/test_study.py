from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.gadre import load_gadre
from workbench.scaling.holdout import compute, decades_beyond, holdout, sensitivity, split_largest
from workbench.scaling.laws import get_law
from workbench.scaling.study import RIVALS, plain, study

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


@pytest.mark.parametrize(
    ("name", "columns"),
    [("bivariate", {}), ("parscale", {}), ("learning-curve", {}), ("power", {}), ("compute", {}), ("kaplan-steps", {})],
)
def test_auto_looks_at_the_columns(name, columns):
    table = simulate(name, n=30, noise=0.003)
    result = study(table, "auto", samples=20, columns=columns)
    family = next(group for group in RIVALS if name in group)
    assert result["law"] in family


def test_the_law_is_held_out_by_compute_size_and_data(chinchilla):
    rows = pd.DataFrame(study(chinchilla, samples=20)["holdout"])
    assert list(dict.fromkeys(rows["axis"])) == ["compute", "N", "D"]
    assert (rows["decades"] > 0.3).all()
    own = rows[rows["method"] == "chinchilla"]
    assert (own["median"] < 0.01).all()


def test_curves_are_fitted_whole_with_runs_as_units():
    table = simulate("chinchilla", n=24, noise=0.01)
    rows = []
    for i, run in table.iterrows():
        for share in (0.25, 0.5, 1.0):
            d = run["D"] * share
            loss = run["loss"] * (d / run["D"]) ** -0.02
            rows.append({"run": f"r{i}", "N": run["N"], "D": d, "loss": loss})
    curves = pd.DataFrame(rows)
    last, whole = (study(curves, samples=20, curves=kind) for kind in ("last", "all"))
    assert (last["n_runs"], whole["n_runs"]) == (24, 72)
    assert whole["units"] == "run" and len(whole["bootstrap"].jackknife) == 24
    assert any("learning-rate schedule" in w for w in whole["warnings"])


def test_cells_named_by_a_column_are_resampled_together():
    cells = simulate("power", n=20, noise=0.02)
    table = pd.concat(
        [cells.assign(loss=cells["loss"] * (1 + 1e-3 * seed), seed=seed, cell=cells.index) for seed in range(4)]
    )
    alone = study(table, "power", samples=200)
    grouped = study(table, "power", samples=200, columns={"group": "cell"})
    assert grouped["units"] == "cell" and len(grouped["bootstrap"].jackknife) == 20
    width = [r["parameters"]["alpha"]["high"] - r["parameters"]["alpha"]["low"] for r in (alone, grouped)]
    assert width[1] > 1.5 * width[0]


def test_rows_of_one_kind_are_chosen_and_a_mixture_is_named():
    runs = load_gadre()
    mixed = study(runs, "overtraining", samples=20)
    assert any("The rows mix 3 kinds of dataset" in w and "--where dataset=c4" in w for w in mixed["warnings"])
    one = study(runs, "overtraining", samples=20, where={"dataset": "c4"})
    assert one["n_runs"] == 34 and not any("mix" in w for w in one["warnings"])


def test_a_plan_comes_with_loss_error_and_warnings():
    result = study(
        "gadre", "overtraining", where={"dataset": "redpajama"}, columns={"loss": "loss_c4", "error": "error_17"}, samples=60,
        plan={"flops": 1e24, "served_tokens": 1e12},
    )  # fmt: skip
    planned = json.loads(json.dumps(plain(result)))["plan"]
    assert planned["error"]["low"] < planned["error"]["value"] < planned["error"]["high"] < 0.6
    assert planned["params"]["low"] < planned["params"]["value"] < planned["params"]["high"]
    assert any("decades beyond the fitted runs" in w for w in result["warnings"])


def test_another_law_that_does_much_better_is_named(epoch):
    warnings = study(epoch, samples=20)["warnings"]
    assert any("The law compute predicts the 49 held-out runs better" in w for w in warnings)


def test_minicpm_counts_in_billions_whatever_the_file_does():
    table = simulate("chinchilla", n=60, noise=0.005)
    result = study(table, "minicpm", samples=20, plan={"flops": 1e22})
    plain_units = study(table, "chinchilla", samples=20, plan={"flops": 1e22})
    assert any("N was divided by 1e9" in note for note in result["notes"])
    assert result["planned"].params[0] == pytest.approx(plain_units["planned"].params[0], rel=1e-3)


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
