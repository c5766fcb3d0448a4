"""The page `peft-review`: verdict by hand, what is judged, the material, the figures, the rows of the badge."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _peft_review_figures, _peft_review_runs, badge, peft_review

METHODS = ("lora", "ia3", "prompt", "vera", "compacter")
EQUAL = {"base": 5.0, "full": 4.0, **dict.fromkeys(METHODS, 4.0)}
MEMORY = {"base": 0, "full": 100, **dict.fromkeys(METHODS, 70)}


def table(first=EQUAL, second=None, memory=MEMORY, seed=0, modules=6, noise=0.0):
    """Rows of one page seed: {name: loss} of half A and half B, 100 tokens a module, `noise` nats per token between them."""
    rng, rows = np.random.default_rng(seed), []
    for half, losses, trainings in (("A", first, (1, 2, 3)), ("B", second or first, (51, 52, 53))):
        for name, loss in losses.items():
            for training in trainings if name != "base" else trainings[:1]:
                nats = 100 * (loss + (0 if name == "base" else noise) * rng.standard_normal(modules))
                rows.append({
                    "seed": seed, "half": half, "name": name, "method": name, "training_seed": training,
                    "loss": nats.sum() / (100 * modules), "nll": " ".join(f"{value:.4f}" for value in nats),
                    "tokens": " ".join(["100"] * modules), "training_bytes": memory[name], "within_budget": True,
                })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("first", "second", "memory", "expected"),
    [
        (EQUAL, None, MEMORY, 2.0),  # nothing behind: 2, 30, 20
        (EQUAL | {"vera": 4.04}, None, MEMORY, 1.0),  # 1 percent behind
        (EQUAL | {"vera": 4.12}, None, MEMORY, -1.0),  # 3 percent behind
        (EQUAL, None, MEMORY | {"prompt": 110}, -10.0),  # one needs more memory than full fine-tuning
        (EQUAL, EQUAL | {"lora": 3.9, "ia3": 3.9}, MEMORY, 100 * 13 / 21 - 80),  # 8 of 21 pairs change their verdict
        (EQUAL | {"lora": 3.9}, None, MEMORY, -1.0),  # a lone winner
        (EQUAL | {"base": 4.0}, None, MEMORY, -1.0),  # nothing was learned
        ({name: 4.0 + (name == "base") for name in EQUAL if name != "lora"}, None, MEMORY, -1.0),  # four methods
    ],
)
def test_margin_by_hand(first, second, memory, expected):
    assert peft_review.margin(table(first, second, memory)) == pytest.approx(expected)


def test_the_worst_method_is_named_and_the_untrained_model_is_counted_apart():
    rows = table(EQUAL | {"vera": 4.04}, EQUAL | {"vera": 4.04, "lora": 4.02})
    text = peft_review.note(rows)
    assert "Worst method: vera, +1.00 percent" in text and "takes 20.0 percent off the loss" in text
    same, among_trained = 21 - 4, 15 - 4  # lora against full, ia3, prompt, compacter; against vera it stays better
    assert f"{100 * same / 21:.0f} percent of pairs judged alike twice" in text
    assert f"({100 * among_trained / 15:.0f} percent without the untrained model)" in text


def test_equal_methods_with_noise_are_judged_alike_twice():
    found = [_peft_review_runs.judged(table(noise=0.02, seed=seed)) for seed in range(20)]
    assert np.mean([one["agreement"] for one in found]) > 95
    assert all(one["tied"] >= 5 for one in found)


def test_modules_of_several_page_seeds_stand_side_by_side_and_the_untrained_model_is_measured_once():
    rows = pd.concat([table(seed=0, modules=4), table(seed=1, modules=6)])
    found = _peft_review_runs.measured(rows)
    assert found["lora"][0].shape == (6, 10) and found["lora"][1].tolist() == [100.0] * 10
    assert found["base"][0].shape == (1, 10)


def test_no_module_is_in_two_parts_and_every_row_that_trains_is_full():
    from workbench.grid import settings

    found = settings.check(_peft_review_runs.PLANS["small"] | {"split_seed": 1})
    text = _peft_review_runs.material(found)
    parts = [{row["group"] for row in text[name]} for name in ("train", "evaluation", "test")]
    assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert {len(row["input_ids"]) for row in text["train"] + text["evaluation"]} == {found["window"]}
    assert len(text["test"]) >= 20


def test_every_method_has_the_same_trials_and_the_halves_share_no_seed_with_them():
    from workbench.grid import planning, settings

    made = planning.plan(_peft_review_runs.PLANS["small"] | {"first_seed": 1})
    trained = [row for row in made.rows if row.trials]
    assert {len(row.trials) for row in trained} == {4} and {row.steps for row in trained} == {30}
    assert len([row for row in made.rows if row.method not in settings.ALWAYS]) >= peft_review.METHODS
    first = settings.seeds(made.settings)
    assert settings.trial_seed(made.settings) not in (*first, *(seed + 50 for seed in first))


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(EQUAL | {"vera": 4.3}, noise=0.01, seed=seed) for seed in range(seeds)])
    fig = peft_review.figure(rows)
    told = _peft_review_figures.paired(rows, "full", "vera")
    fewer = _peft_review_figures.scores(rows, trainings=1, modules=4)
    for shown in (fig, told, fewer, _peft_review_figures.lottery(), _peft_review_figures.lottery(3, 50, 0.9, 1)):
        style.check(shown)
        style.check(style.theme(shown, dark=True))
    assert f"{6 * seeds} modules" in fig.layout.meta["caption"] and "4 modules" in fewer.layout.meta["caption"]
    assert "vera − full = +0.30" in style.alt(told)
    assert "tied with" in style.alt(fewer) and "vera" in style.alt(fewer) and "vera" not in style.alt(fig)


def test_more_questions_bring_equal_methods_together():
    def lead(questions):
        leads = []
        for seed in range(30):
            (marks,) = _peft_review_figures.lottery(12, questions, seed=seed).data
            leads.append(max(marks.x) - min(marks.x))
        return np.mean(leads)

    # the range of 12 normal draws is 3.26 standard deviations on average
    for questions in (100, 10_000):
        assert lead(questions) == pytest.approx(3.26 * 0.5 / questions**0.5, rel=0.15)


def test_unknown_scales_are_refused():
    with pytest.raises(UserError, match="did you mean smoke"):
        peft_review.plan_for("smok")


def test_the_badge_judged_every_method_at_the_budget():
    rows = pd.DataFrame(badge.read("peft-review")["rows"])
    plan = peft_review.plan_for("small")
    for _, own in rows.groupby("seed"):
        counts = own.groupby("name").size()
        assert set(counts.index) == {"base", "full", *plan["methods"]}
        assert set(counts.drop("base")) == {2 * plan["seeds"]}
        lora = own[own["name"] == "lora"]["trainable"].iloc[0]
        inside = own[own["within_budget"] & ~own["name"].isin(("base", "full"))]
        assert ((inside["trainable"] / lora - 1).abs() <= 0.02).all()


def test_what_the_lesson_says_of_the_badge():
    from workbench.training.methods import find_method

    rows = pd.DataFrame(badge.read("peft-review")["rows"])
    found = [_peft_review_runs.judged(own) for _, own in rows.groupby("seed")]
    loss = rows.pivot_table(index="name", columns="seed", values="loss")
    behind = 100 * (loss / loss.loc["full"] - 1).drop(["full", "base"])
    assert set(behind.idxmin()) == {"compacter"} and behind.min().min() > 18 and behind.max().max() < 41
    assert {round(one["saved"]) for one in found} == {46} and {one["tied"] for one in found} == {1}
    assert [round(one["agreement"]) for one in sorted(found, key=lambda one: one["agreement"])] == [89, 93, 96]
    rates = rows[rows["name"] != "base"].groupby("name")["learning_rate"]
    assert rates.nunique().max() == 1
    for name, rate in rates.first().drop("full").items():
        assert rate == pytest.approx(10 * find_method(name).learning_rate)
    assert rates.first()["full"] < 1e-2


def test_what_the_lesson_says_of_the_standing_grid():
    from workbench.grid import standing

    rows, wide = (pd.DataFrame(standing(name)["rows"]).set_index("name") for name in ("minilm", "minilm-wide"))
    for one in (rows, wide):
        assert len(one) == 14 and set(one["accuracy_n"]) == {92} and set(one["budget"].dropna()) == {18432}
        assert not one["within_budget"].all()
    assert (
        rows["accuracy"].idxmax() == "full" and rows["accuracy_tied"].sum() == 10 and rows.loc["base", "accuracy_tied"]
    )
    assert 1.8 < rows.loc["nola", "step_seconds"] / rows.loc["lora", "step_seconds"] < 2.4
    trials = [trial["learning_rate"] for trial in wide.loc["lora", "trials"]]
    assert wide.loc["lora", "learning_rate"] == max(trials) and not wide.loc["lora", "accuracy_tied"]
    block = standing("minilm-wide")["blocks"][0]
    best = max(cell.get("eval_accuracy", 0) for cell in block["cells"] if cell["name"] == "lora")
    commonest = pd.Series(block["items"]["answers"]).value_counts(normalize=True).iloc[0]
    assert best == pytest.approx(0.82, abs=0.005) and wide.loc["lora", "accuracy"] == pytest.approx(commonest, abs=0.01)
