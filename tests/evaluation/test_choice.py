import itertools
import math

import numpy as np
import pytest
import torch

from workbench.data.format import encoder
from workbench.errors import JobError, UserError
from workbench.evaluation import Item, multiple_choice, passage_choice

OWN = [
    Item(" The white whale swam", (" away", " before the ship at noon", " home."), 1, "a"),
    Item(" A bosom", (" friend and breakfast", " x"), 0, "b"),
    Item(" The white whale swam", (" down", " up and up"), 0, "b"),
]


@pytest.fixture(scope="module")
def items(chapters, tokenizer):
    return passage_choice(chapters, tokenizer, items=24, choices=4, seed=3, context=12, length=6)


def by_hand(model, tokenizer, item):
    plain, found = encoder(tokenizer), []
    for choice in item.choices:
        context, ids = plain(item.context), plain(choice)
        logp = model(input_ids=torch.tensor([context + ids])).logits[0].log_softmax(-1)
        found.append(sum(logp[len(context) - 1 + i, token].item() for i, token in enumerate(ids)) / len(ids))
    return found


def test_questions_hold_the_text_and_give_nothing_away(items, chapters, tokenizer):
    plain = encoder(tokenizer)
    texts = {row["group"]: row["text"] for row in chapters.rows}
    for item in items:
        assert item.context + item.choices[item.answer] in texts[item.group]
        assert len(set(item.choices)) == 4 and {len(plain(choice)) for choice in item.choices} == {6}
        assert len(plain(item.context)) == 12
        assert all(choice.startswith(" ") and choice[1].isalnum() for choice in item.choices)
        for i, choice in enumerate(item.choices):
            homes = [group for group, whole in texts.items() if choice in whole]
            assert i == item.answer or set(homes) != {item.group}
    assert len({item.answer for item in items}) == 4
    assert sorted(map([item.group for item in items].count, texts)) == [4] * 6


def test_questions_depend_on_the_seed_only(items, chapters, tokenizer):
    settings = {"items": 24, "context": 12, "length": 6}
    again = passage_choice(chapters.with_rows(chapters.rows[::-1]), tokenizer, seed=3, **settings)
    assert again == items
    assert passage_choice(chapters, tokenizer, seed=4, **settings) != items


def test_true_passages_of_one_document_do_not_overlap(items, chapters):
    texts = {row["group"]: row["text"] for row in chapters.rows}
    for group, whole in texts.items():
        spans = sorted(
            (whole.index(item.context + item.choices[item.answer]), len(item.context + item.choices[item.answer]))
            for item in items
            if item.group == group
        )
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))


def test_shared_context_equals_whole_rows_by_hand(model, tokenizer, items):
    for questions in (items, OWN):
        found = multiple_choice(model, tokenizer, questions)
        for row, item in zip(found.items.itertuples(), questions, strict=True):
            scores = np.array(by_hand(model, tokenizer, item))
            margin = scores[item.answer] - np.delete(scores, item.answer).max()
            assert row.margin == pytest.approx(margin, abs=1e-10)
            assert (row.chosen, row.correct) == (scores.argmax(), margin > 0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_adapters_answer_alike_with_and_without_a_shared_context(build, tokenizer, items, method, monkeypatch):
    import peft

    from workbench.evaluation import choice

    config = {
        "lora": lambda: peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }[method]()
    adapted = peft.get_peft_model(build(), config).double().eval()
    first = multiple_choice(adapted, tokenizer, items)
    monkeypatch.setattr(choice, "_can_share", lambda model: False)
    second = multiple_choice(adapted, tokenizer, items)
    np.testing.assert_allclose(first.items["margin"], second.items["margin"], atol=1e-10)
    base = multiple_choice(build(), tokenizer, items)
    assert not np.allclose(first.items["margin"], base.items["margin"])


def test_length_counts_as_asked(model, tokenizer):
    item, sums = OWN[1], by_hand(model, tokenizer, OWN[1])
    lengths = [len(encoder(tokenizer)(text)) for text in item.choices]
    total = [s * n for s, n in zip(sums, lengths, strict=True)]
    for how, divide in (("tokens", lengths), ("bytes", [len(t) for t in item.choices]), ("none", [1, 1])):
        found = multiple_choice(model, tokenizer, [item], normalize=how)
        scores = [t / d for t, d in zip(total, divide, strict=True)]
        assert found.items["margin"].item() == pytest.approx(scores[0] - scores[1], abs=1e-10)


def test_a_model_that_knows_nothing_is_never_right(build, tokenizer, items):
    flat = build()
    flat.lm_head.weight.data.zero_()
    found = multiple_choice(flat, tokenizer, items)
    assert (
        found.value == 0 and found.chance == 0.25 and found.low == 0 < found.high < 0.25
    )  # equal scores are no answer


def test_random_models_answer_at_chance(build, tokenizer, items):
    share = np.mean([multiple_choice(build(seed), tokenizer, items).value for seed in range(12)])
    assert abs(share - 0.25) < 0.1  # 288 answers: two standard errors are 0.05, questions are shared


def test_training_on_the_documents_lifts_accuracy(build, tokenizer, text, chapters):
    from workbench.data import encode

    short = text(*[row["text"][:800] for row in chapters.rows])
    questions = passage_choice(short, tokenizer, items=24, context=12, length=6)
    model = build(initializer_range=0.05).float().train()
    rows = torch.tensor([row["input_ids"] for row in encode(short, tokenizer, window=64)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    chance = torch.Generator().manual_seed(0)
    for _ in range(120):
        batch = rows[torch.randint(len(rows), (16,), generator=chance)]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = multiple_choice(model, tokenizer, questions)
    assert found.value >= 0.6 and found.low > found.chance


def test_interval_resamples_documents(model, tokenizer, items):
    from workbench.evaluation import bootstrap_mean

    found = multiple_choice(model, tokenizer, items)
    mean = bootstrap_mean(
        found.items["correct"].astype(float), groups=found.items["group"].tolist(), method="percentile", widen=True
    )
    assert (found.low, found.high) == (mean.low, mean.high)


def test_text_without_blanks_makes_questions(tokenizer, text):
    chance = np.random.default_rng(0)
    texts = ["".join(chance.choice(list("鯨船海人風波日月"), 400)) for _ in range(3)]
    assert len(passage_choice(text(*texts), tokenizer, items=3, context=6, length=6)) == 3


def test_nan_logits_name_the_model(build, tokenizer):
    broken = build()
    broken.lm_head.weight.data[3] = math.nan
    with pytest.raises(JobError, match="gptq-2"):
        multiple_choice(broken, tokenizer, OWN, name="gptq-2")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"items": 0}, "items = 0"),
        ({"choices": 1}, "choices = 1.*2 or more"),
        ({"length": 0}, "length = 0"),
        ({"context": 5000}, "shorter context"),
        ({"items": 900}, "use items="),
    ],
)
def test_questions_that_cannot_be_made_are_refused(chapters, tokenizer, settings, words):
    with pytest.raises(UserError, match=words):
        passage_choice(chapters.with_rows(chapters.rows[:2]), tokenizer, **{"context": 12, "length": 6} | settings)


def test_one_document_is_refused(chapters, tokenizer):
    with pytest.raises(UserError, match="two documents"):
        passage_choice(chapters.with_rows(chapters.rows[:1]), tokenizer)


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([], "no questions"),
        ([Item("a", (" b",), 0)], "Question 0 has 1 choices"),
        ([Item("a", (" b", " c"), 2)], "answer 2"),
        ([Item("", (" b", " c"), 0)], "empty context"),
        ([Item("a", (" b", ""), 0)], "empty context or choice"),
    ],
)
def test_questions_that_cannot_be_answered_are_refused(model, tokenizer, questions, words):
    with pytest.raises(UserError, match=words):
        multiple_choice(model, tokenizer, questions)
