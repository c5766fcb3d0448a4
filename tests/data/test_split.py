import random

import pytest

from workbench.data import Examples, Report, load, split
from workbench.errors import UserError


def make(n_groups, rows_per_group=3, label=None):
    rows = [
        {"text": f"{g}.{k}", "group": f"g{g}"} | ({"label": label(g)} if label else {})
        for g in range(n_groups)
        for k in range(rows_per_group)
    ]
    kind = "classification" if label else "text"
    labels = tuple(sorted({row["label"] for row in rows})) if label else ()
    return Examples(kind, rows, "made", Report("made", len(rows), len(rows)), labels)


def texts(part):
    return sorted(row["text"] for row in part.rows)


@pytest.mark.parametrize("name", ["moby-dick", "sotu-century"])
def test_no_document_is_in_two_parts_and_no_row_is_lost(name, century):
    examples = century if name == "sotu-century" else load(name)
    parts = split(examples)
    groups = [set(part.groups()) for part in parts.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert sorted(text for part in parts.values() for text in texts(part)) == texts(examples)
    assert [len(g) / len(examples.groups()) for g in groups] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_the_split_ignores_row_order_and_follows_the_seed():
    examples = load("moby-dick")
    shuffled = examples.with_rows(random.Random(3).sample(examples.rows, len(examples)))
    first, again, other = split(examples, seed=1), split(shuffled, seed=1), split(examples, seed=2)
    assert all(texts(first[part]) == texts(again[part]) for part in first)
    assert texts(first["test"]) != texts(other["test"])


def test_adding_a_document_moves_few_others():
    before, after = split(make(100)), split(make(101))
    moved = set(before["test"].groups()) ^ set(after["test"].groups())
    assert len(moved) <= 2


def test_each_label_keeps_its_share_and_training_has_them_all(century):
    parts = split(century, evaluation=0.2, test=0.2)
    for part in parts.values():
        assert {row["label"] for row in part.rows} == set(century.labels) and part.labels == century.labels
    rare = split(make(21, label=lambda g: "rare" if g == 0 else "often"))
    assert "rare" in {row["label"] for row in rare["train"].rows}


def test_few_documents_still_fill_every_wanted_part():
    assert [len(part.groups()) for part in split(make(3)).values()] == [1, 1, 1]
    parts = split(make(2), test=0)
    assert [len(part.groups()) for part in parts.values()] == [1, 1, 0]
    assert len(split(make(5), evaluation=0, test=0)["train"]) == 15


def test_impossible_splits_are_refused():
    with pytest.raises(UserError, match="made has 2 documents, but 3 parts need at least 3"):
        split(make(2))
    with pytest.raises(UserError, match="test share is 1"):
        split(make(9), test=1.0)
    with pytest.raises(UserError, match=r"evaluation share is -0\.1"):
        split(make(9), evaluation=-0.1)
    with pytest.raises(UserError, match="leave nothing to train on"):
        split(make(9), evaluation=0.5, test=0.5)
