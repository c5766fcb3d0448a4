"""Every bad table a person may bring: what is said, in which words, and that nothing is fitted quietly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.scaling.fitter import ScalingLaw
from workbench.scaling.holdout import compute
from workbench.scaling.laws import get_law
from workbench.scaling.planner import plan
from workbench.scaling.study import study
from workbench.scaling.table import read_runs

from .conftest import simulate

QUICK = {"samples": 30}
LAW = get_law("chinchilla")


def text(tmp_path, content: str):
    path = tmp_path / "runs.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_fewer_runs_than_parameters():
    with pytest.raises(UserError, match=r"5 parameters, so it needs at least 6 different runs; the table has 4"):
        study(simulate("chinchilla", n=4), **QUICK)


def test_one_model_size_only():
    table = simulate("chinchilla", n=20)
    with pytest.raises(UserError, match=r"All 20 runs have N = 1e\+08, so what N does cannot be known"):
        study(table.assign(N=1e8), **QUICK)


def test_zero_and_negative_losses_are_left_out_by_line():
    table = simulate("chinchilla", n=30, noise=0.005)
    table.loc[3, "loss"], table.loc[7, "loss"] = 0.0, -2.0
    result = study(table, **QUICK)
    assert result["n_runs"] == 28
    assert any(
        "2 rows have no positive number in loss (file lines 5, 9, line 5 holds 0.0)" in n for n in result["notes"]
    )
    with pytest.raises(UserError, match=r"Row 4 has .*0\.0.* in loss; 2 rows are affected"):
        ScalingLaw().fit(table)


def test_duplicate_rows_count_once():
    table = simulate("chinchilla", n=30, noise=0.005)
    runs = read_runs(pd.concat([table, table.iloc[[2, 5]]], ignore_index=True), LAW)
    assert len(runs.table) == 30
    assert any("2 rows repeat another row exactly (first: file line 32); kept once" in n for n in runs.notes)


def test_mixed_units_in_one_column():
    table = simulate("chinchilla", n=30, noise=0.005)
    table["N"] = np.where(np.arange(30) < 10, table["N"] / 1e6, table["N"])
    warnings = read_runs(table, LAW).warnings
    assert any("N jumps from" in w and "are two units mixed?" in w for w in warnings)


@pytest.mark.parametrize(("column", "scale", "words"), [("N", 1e6, "N is about"), ("D", 1e9, "D is about")])
def test_millions_and_billions_are_asked_about(column, scale, words):
    table = simulate("chinchilla", n=30, noise=0.005)
    warnings = read_runs(table.assign(**{column: table[column] / scale}), LAW).warnings
    assert any(words in w and "is it in millions or billions?" in w for w in warnings)


def test_swapped_columns_draw_a_warning():
    table = simulate("chinchilla", n=40, noise=0.005).rename(columns={"N": "D", "D": "N"})
    assert any("check that the two columns are not swapped" in w for w in study(table, **QUICK)["warnings"])


def test_perplexities_called_loss_draw_a_warning_and_ppl_is_converted():
    table = simulate("chinchilla", n=40, noise=0.005)
    odd = table.assign(loss=np.exp(table["loss"]))
    assert any("is it a perplexity?" in w for w in read_runs(odd, LAW).warnings)
    right = read_runs(odd.rename(columns={"loss": "ppl"}), LAW)
    assert not right.warnings
    assert right.table["loss"].to_numpy() == pytest.approx(table["loss"].to_numpy())


def test_a_score_that_rises_is_refused():
    table = simulate("chinchilla", n=40)
    with pytest.raises(UserError, match=r"The loss rises with C .*--column loss=1-COLUMN makes an error of it"):
        study(table.assign(loss=1 / table["loss"]), **QUICK)


def test_a_prediction_far_beyond_the_data_is_answered_with_the_warning(chinchilla):
    result = study(chinchilla, predict={"N": 1e14, "D": 1e15}, **QUICK)
    assert np.isfinite(result["prediction"]["loss"])
    assert any(
        "decades beyond the data; the interval covers the fit, not the law itself" in w for w in result["warnings"]
    )


def test_64_bit_integers_do_not_overflow():
    n, d = 7_000_000_000_000, 30_000_000_000_000  # 6·N·D is 1.3e27, far above 2^63
    assert compute(pd.DataFrame({"N": [n], "D": [d]}))[0] == pytest.approx(1.26e27)
    table = simulate("chinchilla", n=30, noise=0.005)
    whole = pd.DataFrame(
        {"N": (table["N"] * 1e3).astype("int64"), "D": (table["D"] * 1e3).astype("int64"), "loss": table["loss"]}
    )
    runs = read_runs(whole, LAW)
    assert runs.table["C"].to_numpy() == pytest.approx(6.0 * whole["N"].astype(float) * whole["D"].astype(float))
    law = ScalingLaw().fit(whole)
    assert law.predict(pd.DataFrame({"N": [n], "D": [d]})) == pytest.approx(
        law.predict(pd.DataFrame({"N": [7e12], "D": [3e13]}))
    )
    assert plan(law, 10**27, bootstrap=law.bootstrap(20)).flops == pytest.approx(1e27)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "n/a", "seven billion", ""])
def test_not_a_number_is_named_by_line_and_left_out(tmp_path, bad):
    rows = simulate("chinchilla", n=12, noise=0.005)
    lines = ["N,D,loss", *(f"{r.N},{r.D},{r.loss}" for r in rows.itertuples()), f"{bad},1e9,3.0"]
    runs = read_runs(text(tmp_path, "\n".join(lines)), LAW)
    assert len(runs.table) == 12
    assert any("1 rows have no positive number in N (file lines 14" in note for note in runs.notes)


def test_numbers_with_units_separators_and_decimal_commas_are_read(tmp_path):
    path = text(tmp_path, "N;D;loss\n70M;1.4B;3,14\n1,3B;26B;2,6\n")
    runs = read_runs(path, LAW)
    assert runs.table["N"].tolist() == [70e6, 1.3e9]
    assert runs.table["D"].tolist() == [1.4e9, 26e9]
    assert runs.table["loss"].tolist() == [3.14, 2.6]
    assert any("decimal commas" in note for note in runs.notes) and any("carry a unit" in note for note in runs.notes)
    assert read_runs(text(tmp_path, 'N,D,loss\n"70,000,000",1e9,3\n'), LAW).table["N"].tolist() == [7e7]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"columns": {"Q": "N"}}, "no column of the law chinchilla called 'Q'"),
        ({"columns": {"N": "size"}}, "There is no column 'size' for N; the file has: N, D, loss"),
        ({"where": {"corpus": "c4"}}, "There is no column 'corpus' to choose rows by"),
        ({"predict": {"N": 7e9}}, "give D=VALUE"),
        ({"predict": {"N": "7B", "D": 1e12}}, "positive number for N, not '7B'; write 7e9, not 7B"),
        ({"plan": {"flops": -1}}, "above 0 FLOP"),
        ({"plan": {"flops": 1e22, "schedule": "step"}}, "no schedule called 'step'"),
        ({"plan": {"flops": 1e22, "served_tokens": -5}}, "Served tokens are 0 or more"),
        ({"curves": "middle"}, "no way to read curves called 'middle'"),
        ({"law": "chinchila"}, "did you mean chinchilla"),
        ({"objective": "hubert"}, "did you mean huber"),
        ({"interval": "bootstrap"}, "percentile"),
    ],
)
def test_a_wrong_word_is_refused_in_one_sentence(call, words):
    with pytest.raises(UserError, match=words):
        study(simulate("chinchilla", n=30, noise=0.005), **QUICK, **call)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bounds": {"gamma": (0, 1)}}, "no parameter called 'gamma'"),
        ({"bounds": {"E": (2, 1)}}, "lowest ≤ highest"),
        ({"delta": 0.0}, "delta must be above 0"),
        ({"objective": "quantile", "quantile": 1.0}, "inside \\(0, 1\\)"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        ScalingLaw(**settings).fit(simulate("chinchilla"))


@pytest.mark.parametrize("weights", [np.full(80, -1.0), np.ones(3), np.zeros(80), np.full(80, np.nan)])
def test_weights_that_are_none(weights):
    with pytest.raises(UserError, match="sample_weight needs 80 numbers of 0 or more"):
        ScalingLaw().fit(simulate("chinchilla"), sample_weight=weights)


def test_arrays_of_the_wrong_shape_and_losses_of_the_wrong_length():
    table = simulate("chinchilla")
    with pytest.raises(UserError, match="has the 2 columns N, D in this order"):
        ScalingLaw().fit(table.to_numpy(), table["loss"])
    with pytest.raises(UserError, match="80 rows and 79 losses"):
        ScalingLaw().fit(table[["N", "D"]], table["loss"][:-1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("grid.json", "{}", "is no table of runs"),
        ("runs.csv", '{"a": 1}', "it holds JSON"),
        ("mix.csv", "index,a,b\n1,0.2,0.8\n2,0.5,0.5\n", "if the file has none, no law here fits it"),
        ("scores.csv", "N,D,MMLU\n1e9,1e11,0.4\n7e9,1e12,0.6\n", "an error with --column loss=1-MMLU"),
        ("many.csv", "N,D,c4_loss,pile_loss\n1e9,1e11,3,2\n", "It holds several losses.*--column loss=c4_loss"),
    ],
)
def test_a_file_that_is_no_table_of_runs_gets_a_hint(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        study(path, **QUICK)


def test_a_folder_names_what_it_holds(tmp_path):
    (tmp_path / "a.csv").write_text("N\n1\n")
    with pytest.raises(UserError, match=r"is a folder, not a file of runs; it holds a\.csv"):
        study(tmp_path, **QUICK)


def test_nothing_by_that_name_lists_the_shipped_tables():
    with pytest.raises(UserError, match="shipped table: chinchilla, gadre"):
        study("chinchill", **QUICK)
