"""Over-training: the published constants to their digits, algebra of the law, intervals, refusals, the shipped table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from workbench.errors import UserError
from workbench.papers import overtraining as page
from workbench.scaling import ScalingLaw, gadre
from workbench.scaling.gadre import five_runs, load_gadre
from workbench.scaling.overtraining import Chain, LossToError, OvertrainingLaw

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "scaling"
LAW = OvertrainingLaw(a=212.2, b=366.7, E=1.837, eta=0.1364)


def the(runs, size, ratio):
    return runs[(runs["N"].between(0.9 * size, 1.1 * size)) & (runs["M"].round() == ratio)]


def link_runs(runs):
    return pd.concat([five_runs(runs), the(runs, 1.44e9, 20)])


@pytest.mark.parametrize(
    ("corpus", "p", "q", "h", "floor", "a", "eta"),
    [
        ("redpajama", 166.211, 366.687, 0.272851, 1.836648, 212.2, 0.1364),
        ("c4", 113.693, 189.516, 0.242472, 1.508261, 141.3, 0.1212),
        ("refinedweb", 125.096, 246.207, 0.254395, 1.734462, 157.1, 0.1272),
    ],
)
def test_the_published_constants_of_every_corpus(corpus, p, q, h, floor, a, eta):
    law = OvertrainingLaw.fit(five_runs(load_gadre(corpus)))
    code = law.to_code()
    assert (round(code["p"], 3), round(code["q"], 3)) == (p, q)
    assert (round(code["h"], 6), round(code["E"], 6)) == (h, floor)
    assert (round(law.a, 1), round(law.eta, 4), law.b) == (a, eta, code["q"])


def test_the_four_published_errors_and_the_constants_of_the_link():
    runs = load_gadre("redpajama")
    chain = Chain.fit(five_runs(runs), link_runs(runs))
    assert (round(chain.link.k, 5), round(chain.link.gamma, 6), round(chain.link.epsilon, 6)) == (
        2.20649,
        0.714591,
        0.856992,
    )
    far = pd.concat([the(runs, 1.44e9, 640), the(runs, 6.89e9, 20)])
    told = chain.predict(far["N"], far["D"])
    assert [round(v, 4) for v in told["loss"]] == [2.5198, 2.4427]
    assert [round(v, 4) for v in far["loss"]] == [2.5021, 2.4250]
    off = 100 * np.abs(told["loss"].to_numpy() / far["loss"].to_numpy() - 1)
    assert [round(v, 4) for v in off] == [0.7103, 0.7320]
    off = 100 * np.abs(told["error"].to_numpy() / far["error"].to_numpy() - 1)
    assert [round(v, 4) for v in off] == [3.6365, 0.0464]


@pytest.mark.parametrize(("corpus", "percent"), [("c4", 4.3), ("refinedweb", 1.6)])
def test_the_less_flattering_numbers(corpus, percent):
    runs = load_gadre(corpus)
    far = the(runs, 6.89e9, 20).iloc[0]
    law = OvertrainingLaw.fit(five_runs(runs))
    assert round(100 * abs(law.loss_nd(far["N"], far["D"]) / far["loss"] - 1), 1) == percent


def test_the_46_task_errors():
    runs = load_gadre("redpajama", tasks=46)
    chain = Chain.fit(five_runs(runs), link_runs(runs))
    far = pd.concat([the(runs, 1.44e9, 640), the(runs, 6.89e9, 20)])
    told = chain.predict(far["N"], far["D"], interval=False)
    off = 100 * np.abs(told["error"].to_numpy() / far["error"].to_numpy() - 1)
    assert [round(v, 1) for v in off] == [3.4, 2.1]


def test_two_ways_to_write_the_law_are_one():
    c, m = np.geomspace(1e16, 1e24, 9)[:, None], np.array([5.0, 20.0, 640.0])
    n, d = np.sqrt(c / (6 * m)), np.sqrt(c * m / 6)
    np.testing.assert_allclose(LAW.loss(c, m), LAW.loss_nd(n, d), rtol=1e-12)
    code = LAW.to_code()
    by_hand = code["E"] + code["p"] * n ** -code["h"] + code["q"] * 6 ** (-code["h"] / 2) * (m * n) ** -code["h"]
    np.testing.assert_allclose(LAW.loss_nd(n, d), by_hand, rtol=1e-12)
    again = OvertrainingLaw.from_code(**code)
    np.testing.assert_allclose([again.a, again.b, again.E, again.eta], [LAW.a, LAW.b, LAW.E, LAW.eta], rtol=1e-14)


def test_lines_at_every_ratio_are_parallel():
    c = np.geomspace(1e17, 1e23, 7)
    for m in (5.0, 20.0, 320.0):
        slopes = np.diff(np.log(LAW.loss(c, m) - LAW.E)) / np.diff(np.log(c))
        np.testing.assert_allclose(slopes, -LAW.eta, rtol=1e-9)


@pytest.mark.parametrize("flops", [1e18, 1e22])
def test_the_best_ratio_is_where_the_loss_is_least_whatever_the_budget(flops):
    found = minimize_scalar(
        lambda t: LAW.loss(flops, np.exp(t)), bounds=(0, 8), method="bounded", options={"xatol": 1e-9}
    )
    assert np.exp(found.x) == pytest.approx(LAW.optimal_ratio(), rel=1e-3)


def test_serving_makes_the_model_smaller_and_the_loss_stays():
    n, d = LAW.inference_aware(1e21, 0)
    assert d / n == pytest.approx(LAW.optimal_ratio(), rel=5e-3) and 6 * n * d == pytest.approx(1e21, rel=1e-4)
    small, long = LAW.inference_aware(1e21, 1e12)
    assert small < 0.8 * n and long > d
    assert LAW.loss_nd(small, long) == pytest.approx(LAW.loss_nd(n, d), rel=1e-6)
    assert 6 * small * long + 2 * small * 1e12 < 6 * n * d + 2 * n * 1e12


def test_whole_numbers_of_the_largest_run_do_not_overflow():
    n, d = 1_439_795_200, 921_468_928_000  # 6·N·D is above 2^63
    assert LAW.loss_nd(n, d) == pytest.approx(LAW.loss_nd(float(n), float(d)))
    assert load_gadre("redpajama")["C"].max() > 2**63


def test_a_model_that_knows_nothing_makes_the_most_errors():
    link = LossToError(0.857, 2.2, 0.71)
    assert link.error(100.0) == pytest.approx(0.857)
    assert link.error(2.0) == pytest.approx(0.857 - 2.2 * np.exp(-1.42))


def test_five_runs_give_a_range_and_name_the_run_that_cannot_be_left_out():
    runs = five_runs(load_gadre("redpajama"))
    law = OvertrainingLaw.fit(runs)
    assert law.kind == "leave-one-out" and len(law.draws) == 4
    assert "rpj-d=96_l=8_h=4-16.0" in law.note
    low, high = law.range(runs["N"], runs["D"])
    assert (low <= law.loss_nd(runs["N"], runs["D"]) + 1e-9).all() and (low < high).any()


def test_many_runs_give_a_bootstrap_that_covers_and_another_seed_another():
    runs = load_gadre("redpajama")
    true, hits = LAW.loss_nd(runs["N"], runs["D"]), 0
    for seed in range(20):
        noise = 0.005 * np.random.default_rng(seed).standard_normal(len(runs))
        law = OvertrainingLaw.fit(runs.assign(loss=true * np.exp(noise)), samples=100)
        low, high = law.range(6.9e9, 1.4e11)
        hits += low < LAW.loss_nd(6.9e9, 1.4e11) < high
    assert hits >= 15  # 90 of 100 such data sets were covered; fewer than 15 of 20 then has probability 0.01
    assert law.kind == "bootstrap" and law.note == ""
    other = OvertrainingLaw.fit(runs.assign(loss=true * np.exp(noise)), samples=100, seed=1)
    assert other == law and not np.allclose(other.draws, law.draws)


def test_what_cannot_be_known_is_refused():
    runs = load_gadre("redpajama")
    with pytest.raises(UserError, match="a and b cannot be separated"):
        OvertrainingLaw.fit(runs[runs["M"].round() == 20])
    with pytest.raises(UserError, match="at least 5"):
        OvertrainingLaw.fit(five_runs(runs).iloc[:4])
    with pytest.raises(UserError, match="typed, not fitted"):
        LAW.range(1e9, 1e11)
    with pytest.raises(UserError, match="missing: error"):
        LossToError.fit(runs[["loss"]])
    with pytest.raises(UserError, match="resamples them together"):
        Chain(OvertrainingLaw.fit(five_runs(runs)), LossToError(0.8, 2.0, 0.7)).predict(1e9, 1e10)
    with pytest.raises(UserError, match="column run"):
        Chain.fit(runs.drop(columns="run"), runs)
    with pytest.raises(UserError, match="FLOP > 0"):
        LAW.inference_aware(0, 0)
    with pytest.raises(UserError, match="did you mean redpajama"):
        load_gadre("redpajam")
    with pytest.raises(UserError, match=r"no models/\*\.json"):
        gadre.convert(SHARED / "nowhere")


def test_the_shipped_table_is_what_the_command_makes(tmp_path):
    folder = SHARED / "scaling" / "exp_data"
    if not folder.is_dir():
        pytest.skip("the authors' JSON files lie beside the checkout of the authors only; the table made of them ships")
    out = tmp_path / "gadre.csv"
    gadre.main([str(folder), str(out)])
    assert out.read_bytes() == (gadre.assets() / "scaling" / "gadre.csv").read_bytes()


def test_the_table_holds_104_runs():
    runs = load_gadre()
    assert runs["dataset"].value_counts().to_dict() == {"redpajama": 35, "refinedweb": 35, "c4": 34}
    assert runs["run"].is_unique and np.isfinite(runs.select_dtypes("number")).all().all()
    assert (runs["low"] < runs["loss"]).all() and (runs["loss"] < runs["high"]).all()
    assert runs["N"].min() == 10_569_312 and set(runs["M"].round()) == {5, 10, 20, 40, 80, 160, 320, 640}


def rows_of(percents, trained="four fifths"):
    """Rows of one seed from {arm: errors in percent}, the same for two corpora."""
    return pd.DataFrame(
        {"seed": 0, "corpus": corpus, "arm": arm, "trained": trained, "percent": value}
        for corpus in ("c4", "redpajama") for arm, values in percents.items() for value in values
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "two", "compute", "expected"),
    [
        ([1.0, 1.0, 3.0], [3.5], [9.0], 0.5),  # worst of two exponents half a point above
        ([1.0, 1.7, 3.0], [4.0], [9.0], 0.3),  # median 0.3 below 2 %
        ([1.0, 1.0, 3.0], [4.0], [2.0], -1.0),  # compute alone has a smaller worst error
        ([2.5, 2.5, 3.0], [4.0], [9.0], -0.5),
    ],
)
def test_margin_by_hand(ours, two, compute, expected):
    rows = rows_of({"one exponent": ours, "two exponents": two, "compute only": compute})
    assert page.margin(rows) == pytest.approx(expected)


def test_the_card_s_expected_errors_with_all_runs():
    rows = []
    for corpus, runs in load_gadre().assign(x=lambda table: table["C"]).groupby("dataset"):
        train, test = runs[runs["C"] <= page.CUT], runs[runs["C"] > page.CUT]
        for arm, name in page.ARMS.items():
            place = {"seed": 0, "corpus": corpus, "arm": arm, "trained": "all"}
            rows += page.score(place, test, ScalingLaw(name).fit(train).predict(test))
    full = pd.DataFrame(rows).groupby(["arm", "corpus"])["percent"]
    corpora = ["c4", "redpajama", "refinedweb"]
    assert [round(full.median()["one exponent", c], 1) for c in corpora] == [1.0, 1.4, 1.3]
    assert [round(full.max()["one exponent", c], 1) for c in corpora] == [4.0, 1.9, 2.0]
    assert [round(full.max()["two exponents", c], 1) for c in corpora] == [6.2, 2.4, 3.3]
    assert [round(full.max()["compute only", c], 1) for c in corpora] == [7.6, 6.2, 2.8]
    assert full.size()["one exponent"].to_dict() == {"c4": 5, "redpajama": 6, "refinedweb": 6}
    assert page.margin(pd.DataFrame(rows), "all") == pytest.approx(0.50, abs=0.01)
