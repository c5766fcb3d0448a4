"""Settings: budgets in words, problems in one sentence, the command that runs a grid again."""

import pytest

from workbench.errors import UserError
from workbench.grid.command import words
from workbench.grid.planning import trials
from workbench.grid.settings import Budget, budget, check, seeds, trial_seed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("params=18432", Budget("params", 18432)),
        ("params=0.3%", Budget("params", 0.003, share=True)),
        ("params=lora:r=2", Budget("params", like=("lora", {"r": 2}))),
        ("bytes=100k", Budget("bytes", 100_000)),
        ("tokens=1.5M", Budget("tokens", 1_500_000)),
        ("seconds=60", Budget("seconds", 60)),
        ("none", Budget("none")),
    ],
)
def test_budgets_are_read(text, wanted):
    found = budget(text)
    assert (found.kind, found.share, found.like) == (wanted.kind, wanted.share, wanted.like)
    assert found.value == pytest.approx(wanted.value)


@pytest.mark.parametrize("text", ["params", "params=0", "watts=3", "bytes=3%", "params=-4", "params=lora:r", "none=3"])
def test_other_budgets_are_refused_with_examples(text):
    with pytest.raises(UserError, match=r"params=0\.3%"):
        budget(text)


def test_all_problems_come_at_once():
    with pytest.raises(UserError) as told:
        check(
            {
                "trials": 0,
                "seeds": "3",
                "methods": [],
                "serach": "log",
                "span": 0.5,
                "test_share": 1,
                "space": {"lora": {"r": [1]}},
            }
        )
    for word in (
        "trials is 0",
        "seeds is '3'",
        "methods must be a list",
        "serach",
        "span is 0.5",
        "test_share is 1",
        "search=random",
    ):
        assert word in str(told.value)


def test_an_unknown_method_and_argument_name_the_nearest():
    with pytest.raises(UserError, match="lora"):
        check({"methods": ["lorra"]})
    with pytest.raises(UserError, match="lora_alpha"):
        check({"methods": ["lora"], "method_args": {"lora": {"lora_alfa": 2}}})
    with pytest.raises(UserError, match="not among the methods"):
        check({"methods": ["lora"], "method_args": {"ia3": {}}})


def test_rows_that_are_always_there_need_no_name_and_the_reference_is_a_row():
    found = check({"methods": ["base", "full", "ia3"]})
    assert found["methods"] == ["ia3"] and found["reference"] == "ia3"


def test_trials_never_use_a_judged_seed():
    found = check({"seeds": 4, "first_seed": 7})
    assert seeds(found) == [7, 8, 9, 10]
    assert trial_seed(found) not in seeds(found)


def test_every_method_gets_the_same_number_of_rates_around_its_own():
    found = check({"methods": ["lora", "ia3"], "trials": 3, "span": 100.0})
    assert [t["learning_rate"] for t in trials("lora", found)] == pytest.approx([1e-4, 1e-3, 1e-2], rel=0.01)
    assert [t["learning_rate"] for t in trials("ia3", found)] == pytest.approx([5e-4, 5e-3, 5e-2], rel=0.01)
    assert [t["learning_rate"] for t in trials("lora", {**found, "trials": 1})] == [1e-3]


def test_the_middle_of_the_rates_can_be_given():
    found = check({"methods": ["lora"], "rates": {"full": 1e-3}, "trials": 1})
    assert trials("full", found) == [{"learning_rate": 1e-3}]
    with pytest.raises(UserError, match="rates gives ia3"):
        check({"methods": ["lora"], "rates": {"ia3": 1e-3}})
    with pytest.raises(UserError, match="above 0"):
        check({"methods": ["lora"], "rates": {"lora": -1}})


def test_drawn_trials_are_the_same_again_and_tune_more():
    found = check({"methods": ["lora"], "search": "random", "trials": 5, "space": {"lora": {"lora_alpha": [4, 16]}}})
    one, again = trials("lora", found), trials("lora", found)
    assert one == again
    assert {t["lora_alpha"] for t in one} <= {4, 16}
    assert all(1e-3 / 3.2 <= t["learning_rate"] <= 1e-3 * 3.2 for t in one)
    assert trials("lora", {**found, "first_seed": 9}) != one


def test_the_command_holds_what_is_not_the_default():
    text = words({"models": ["tiny-lm"], "methods": ["lora", "ia3"], "seeds": 5, "outside": True,
                  "method_args": {"lora": {"lora_alpha": 4}}})  # fmt: skip
    assert text == "workbench compare tiny-lm --methods lora,ia3 --seeds 5 --set lora.lora_alpha=4 --outside"
