"""`workbench fit` as a person meets it: text, JSON, report, plan, and refusals."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from workbench.commands.fit import fit
from workbench.errors import UserError
from workbench.figures import style
from workbench.scaling.fit_report import sections
from workbench.scaling.study import study

from .conftest import simulate

QUICK = ("--samples", "20")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(fit, [*arguments, *QUICK], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_shipped_table_by_its_name_with_a_plan():
    text = run("chinchilla", "--plan", "1e22", "--predict", "N=7e9", "--predict", "D=1.4e12")
    for words in ("L = E + A/N^alpha + B/D^beta", "Constants, with the 95 % BCa interval", "largest compute", "largest N",
                  "largest D", "Law against law", "Predicted loss at N = 7e+09", "Parameters N", "Tokens per parameter",
                  "WSD: warm up",
                  "Rate and batch follow the published step law"):  # fmt: skip
        assert words in text, words


def test_gpu_hours_and_flop_are_one_budget():
    hours = json.loads(run("chinchilla", "--gpu-hours", "1000", "--peak-tflops", "312", "--mfu", "0.4", "--json"))
    assert hours["plan"]["flops"] == pytest.approx(1000 * 3600 * 312e12 * 0.4)


def test_json_holds_everything_and_nothing_else():
    found = json.loads(run("chinchilla", "--json", "--law", "auto"))
    assert set(found) >= {
        "law",
        "parameters",
        "holdout",
        "laws",
        "sensitivity",
        "identification",
        "warnings",
        "notes",
        "columns",
    }
    assert {row["method"] for row in found["laws"]} == {"chinchilla", "overtraining", "densing", "compute"}


def test_the_report_is_one_file_without_requests(tmp_path):
    path = tmp_path / "fit.html"
    text = run("chinchilla", "--plan", "1e22", "--report", str(path))
    page = path.read_text(encoding="utf-8")
    assert f"report: {path}" in text
    for heading in ("The law and its constants", "Fit and what it leaves over", "Size against data", "What stays open",
                    "Does it predict?", "Plan", "What if we had chosen otherwise"):  # fmt: skip
        assert f">{heading}<" in page, heading
    assert "default-src 'none'" in page  # the page itself forbids every request


@pytest.mark.parametrize(
    "name", ["power", "bivariate", "parscale", "loss-to-error", "compute", "vocabulary", "minicpm"]
)
def test_every_kind_of_law_gets_a_report_whose_figures_are_allowed(name):
    result = study(simulate(name, n=30, noise=0.003), name, samples=20)
    for section in sections(result):
        figures = section.figure if isinstance(section.figure, list) else [section.figure]
        for figure in filter(None, figures):
            style.check(figure)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chinchilla", "--plan", "1e22", "--gpu-hours", "10"), "give one of them"),
        (("chinchilla", "--serve", "1e12"), "give the training budget too"),
        (("chinchilla", "--law", "power"), "no column was found for x.*--column x=COLUMN"),
        (("nowhere.csv",), "There is no file 'nowhere.csv'"),
        (("chinchilla", "--report", "nowhere/fit.html"), "There is no folder"),
        (("chinchilla", "--law", "compute", "--plan", "1e22"), "A plan needs a law of N and D"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(arguments, words):
    with pytest.raises(UserError, match=words):
        CliRunner().invoke(fit, [*arguments, *QUICK], catch_exceptions=False)


def test_the_help_teaches():
    text = CliRunner().invoke(fit, ["--help"]).output
    for words in ("--gpu-hours", "989 an H100", "1-COLUMN", "workbench fit chinchilla --plan 1e22", "--where"):
        assert words in text
