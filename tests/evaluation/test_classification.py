import math

import pytest
import torch

from workbench.data import Examples, Report
from workbench.errors import JobError, UserError
from workbench.evaluation import classification_accuracy

ROWS = [{"text": "whale " * n, "label": label, "group": f"g{n % 4}"} for n, label in enumerate("bbaabcabbbab", start=1)]


@pytest.fixture
def examples():
    return Examples("classification", ROWS, "the test's labels", Report("x", 12, 12), ("a", "b", "c"))


@pytest.fixture
def classifier(build):
    from transformers import LlamaForSequenceClassification

    return build(cls=LlamaForSequenceClassification, num_labels=3)


def test_answers_equal_single_unpadded_calls(classifier, tokenizer, examples):
    found = classification_accuracy(classifier, tokenizer, examples)
    for row, record in zip(ROWS, found.items.itertuples(), strict=True):
        logits = classifier(**tokenizer(row["text"], return_tensors="pt", return_token_type_ids=False)).logits[0]
        assert record.chosen == logits.argmax()
        assert record.correct == (examples.labels[record.chosen] == row["label"])
        others = [logits[i] for i in range(3) if i != record.answer]
        assert record.margin == pytest.approx((logits[record.answer] - max(others)).item(), abs=1e-10)
    assert found.chance == 7 / 12  # the most frequent label


def test_model_without_padding_token_gives_the_same(classifier, tokenizer, examples):
    first = classification_accuracy(classifier, tokenizer, examples)
    classifier.config.pad_token_id = None
    assert classification_accuracy(classifier, tokenizer, examples).items["margin"].tolist() == pytest.approx(
        first.items["margin"].tolist(), abs=1e-10
    )


def test_perfect_head_scores_one_with_a_wilson_interval(classifier, tokenizer, examples):
    classifier.score.weight.data.zero_()
    classifier.score.weight.data[1] = 1.0
    only_b = examples.with_rows([row for row in ROWS if row["label"] == "b"])
    signs = classification_accuracy(classifier, tokenizer, only_b).items
    assert set(signs["chosen"]) <= {0, 1}
    hidden = torch.nn.Linear(32, 3, dtype=torch.float64)
    hidden.weight.data.zero_()
    hidden.bias.data = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    classifier.score = hidden
    found = classification_accuracy(classifier, tokenizer, only_b)
    assert found.value == 1 and found.high == 1 and 0.6 < found.low < 0.7  # Wilson for 7 of 7: 0.646


def test_bad_input(classifier, tokenizer, examples, text):
    with pytest.raises(UserError, match="no label"):
        classification_accuracy(classifier, tokenizer, text("a"))
    with pytest.raises(UserError, match="no rows"):
        classification_accuracy(classifier, tokenizer, examples.with_rows([]))
    classifier.config.num_labels = 2
    with pytest.raises(UserError, match="num_labels=3"):
        classification_accuracy(classifier, tokenizer, examples)


def test_nan_names_the_model(classifier, tokenizer, examples):
    classifier.score.weight.data[0] = math.nan
    with pytest.raises(JobError, match="sotu-head"):
        classification_accuracy(classifier, tokenizer, examples, name="sotu-head")
