import json

import pytest

from workbench.data import load
from workbench.data.columns import choose_columns
from workbench.errors import UserError


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GUESSES = {
    "text": (["text"], "text", {"text": "text"}),
    "content": (["id", "Content"], "text", {"text": "Content"}),
    "alpaca": (["instruction", "input", "output"], "prompt-completion",
               {"prompt": "instruction", "input": "input", "completion": "output"}),
    "questions": (["Question", "Answer"], "prompt-completion", {"prompt": "Question", "completion": "Answer"}),
    "sequence": (["input", "target"], "prompt-completion", {"prompt": "input", "completion": "target"}),
    "labels": (["text", "target"], "classification", {"text": "text", "label": "target"}),
    "question classes": (["question", "category"], "classification", {"text": "question", "label": "category"}),
    "sharegpt": (["id", "conversations"], "chat", {"messages": "conversations"}),
    "grouped": (["text", "doc_id"], "text", {"text": "text", "group": "doc_id"}),
    "document is text": (["document"], "text", {"text": "document"}),
}  # fmt: skip


@pytest.mark.parametrize(("names", "kind", "mapping"), GUESSES.values(), ids=GUESSES)
def test_kind_and_columns_are_guessed(names, kind, mapping):
    assert choose_columns(names, "a.csv") == (kind, mapping)


def test_told_roles_win_and_choose_the_kind():
    names = ["question", "answer", "verdict"]
    assert choose_columns(names, "a", columns={"text": "answer", "label": "verdict"}) == (
        "classification",
        {"text": "answer", "label": "verdict"},
    )
    assert choose_columns(names, "a", columns={"text": "answer"}) == ("text", {"text": "answer"})
    assert choose_columns(names, "a", columns={"group": "verdict"})[1]["group"] == "verdict"
    assert choose_columns(["text", "label"], "a", kind="text") == ("text", {"text": "text"})


REFUSED = {
    "nothing fits": (["a", "b"], {}, r"columns 'a', 'b'.*columns=\{'text': 'a'\}.*--column text=a"),
    "kind lacks label": (["text", "b"], {"kind": "classification"}, "text \\+ label cannot be guessed"),
    "unknown kind": (["text"], {"kind": "txt"}, "no kind of examples called 'txt'; did you mean text"),
    "unknown role": (["text"], {"columns": {"lable": "text"}}, "no column role called 'lable'; did you mean label"),
    "unknown column": (["text"], {"columns": {"text": "txt"}}, "no column in a.csv called 'txt'; did you mean text"),
    "two families": (["a", "b"], {"columns": {"label": "a", "prompt": "b"}}, "belong to different kinds"),
    "role of another kind": (["text"], {"kind": "text", "columns": {"label": "text"}}, "have no role 'label'"),
    "two candidates": (["Text", "text"], {}, r"'Text' and 'text' could both be the text; say which"),
}


@pytest.mark.parametrize(("names", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_columns_that_do_not_fit_are_refused(names, options, message):
    with pytest.raises(UserError, match=message):
        choose_columns(names, "a.csv", **options)


def test_every_dropped_row_is_reported_with_place_reason_and_repair(write):
    rows = [{"text": "good"}, {"text": None}, {"text": "fine"}, {"text": 5}, {"text": "well"}, {"other": "x"},
            {"text": "more"}, {"text": "NaN"}, {"text": "last"}, {"text": "  "}]  # fmt: skip
    found = load(write("a.jsonl", jsonl(rows)))
    assert [row["text"] for row in found.rows] == ["good", "fine", "well", "more", "last"]
    table = found.report.table()
    assert table.columns.tolist() == ["place", "column", "reason", "fix"]
    assert table.place.tolist() == ["line 2", "line 4", "line 6", "line 8", "line 10"]
    assert table.reason[1] == "'text' holds a number, not text"
    sentence = found.report.sentence()
    assert sentence.startswith(
        "5 of 10 rows of a.jsonl can be used (text = 'text'). Dropped 5: empty 'text' (4: line 2"
    )
    assert "Columns not used: other." in sentence


def test_csv_rows_are_counted_as_a_spreadsheet_shows_them(write):
    found = load(write("a.csv", "text,label\none,x\n,x\nthree,y\nfour,\nfive,y\nsix,x\n"))
    assert found.report.table().place.tolist() == ["row 3", "row 5"]
    assert found.report.table().column.tolist() == ["text", "label"]


def test_nan_cells_of_parquet_are_empty_cells(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", None, "c", "d"], "label": [1.0, 1.0, 2.0, 2.0]})
    frame = pd.concat([frame, pd.DataFrame({"text": ["e", "f"], "label": [float("nan"), 1.0]})], ignore_index=True)
    frame.to_parquet(tmp_path / "a.parquet")
    found = load(tmp_path / "a.parquet")
    assert found.report.table().place.tolist() == ["row 2", "row 5"]
    assert found.labels == ("1", "2") and [row["label"] for row in found.rows] == ["1", "2", "2", "1"]


def test_a_source_that_is_mostly_unusable_is_refused_with_its_reasons(write):
    with pytest.raises(
        UserError, match=r"Only 1 of 3 rows .*'text' holds a number, not text \(2: line 1, line 3; write it"
    ):
        load(write("a.jsonl", jsonl([{"text": 1}, {"text": "a"}, {"text": 3}])))
    with pytest.raises(UserError, match=r"Only 0 of 2 rows .*empty 'text'"):
        load(write("b.csv", "text,other\nNaN,1\n,2\n"))


def test_labels_that_mix_text_and_numbers_are_refused(write):
    rows = [
        {"text": "a", "label": 1},
        {"text": "b", "label": "1"},
        {"text": "c", "label": 1},
        {"text": "d", "label": "1"},
    ]
    with pytest.raises(UserError, match=r"mix text and numbers \(line 2: '1', line 1: 1\)"):
        load(write("a.jsonl", jsonl(rows)))


def test_a_label_with_one_example_is_refused_with_its_row(write):
    with pytest.raises(UserError, match=r"1 label has one example in a.csv: 'rare' \(row 4\).*merge labels"):
        load(write("a.csv", "text,label\na,x\nb,x\nc,rare\nd,y\ne,y\n"))
    with pytest.raises(UserError, match="nothing to tell apart"):
        load(write("b.csv", "text,label\na,x\nb,x\n"))


def test_fractions_and_lists_are_no_labels(write):
    rows = [{"text": str(n), "label": n % 2} for n in range(6)] + [
        {"text": "f", "label": 0.5},
        {"text": "g", "label": [1]},
    ]
    found = load(write("a.jsonl", jsonl(rows)))
    assert found.report.table().reason.tolist() == ["'label' holds the fraction 0.5", "'label' holds a list"]


def test_number_labels_are_ordered_by_value(write):
    rows = [{"text": f"{n} {k}", "label": n} for n in (10, 2, 0) for k in range(2)]
    assert load(write("a.jsonl", jsonl(rows))).labels == ("0", "2", "10")


def test_an_instruction_takes_its_input_along(write):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    assert [row["prompt"] for row in load(write("a.jsonl", jsonl(rows))).rows] == ["Add.\n\n1 2", "Greet."]


def test_conversations_of_several_dialects_become_messages(write):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [
        {"messages": turns},
        {"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"messages": json.dumps(turns)},
        {"messages": [turns[0], {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]},
    ]
    found = load(write("a.jsonl", jsonl(rows)))
    assert found.kind == "chat" and all(row["messages"] == turns for row in found.rows)


CHATS = {
    "no answer": ([{"role": "user", "content": "Hi"}], "no assistant message"),
    "role": ([{"role": "boss", "content": "Hi"}], "the role 'boss' is unknown"),
    "empty turn": ([{"role": "user", "content": " "}], "a user message without text"),
    "not a list": ("Hi there", "is text, not a list of messages"),
    "list of text": (["Hi"], "is not a list of messages"),
}


@pytest.mark.parametrize(("messages", "reason"), CHATS.values(), ids=CHATS)
def test_conversations_that_cannot_be_used_say_why(write, messages, reason):
    good = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
    found = load(write("a.jsonl", jsonl([*good, {"messages": messages}])))
    assert reason in found.report.table().reason[0] and len(found) == 1


def test_groups_come_from_content_so_order_and_copies_do_not_matter(write):
    rows = [{"prompt": p, "completion": c} for p, c in (("a", "1"), ("b", "2"), ("a", "3"), ("b", "2"))]
    first = load(write("a.jsonl", jsonl(rows)))
    again = load(write("b.jsonl", jsonl(rows[::-1])))
    groups = [row["group"] for row in first.rows]
    assert groups[0] == groups[2] != groups[1] == groups[3]
    assert [row["group"] for row in again.rows] == groups[::-1]
    assert "1 row repeats an earlier one, each with its copy in one group." in first.report.sentence()


def test_copies_in_different_groups_and_damaged_text_are_noted(write):
    rows = [{"text": "same", "group": "a"}, {"text": "same", "group": "b"}, {"text": "caf\ufffd", "group": "c"}]
    sentence = load(write("a.jsonl", jsonl(rows))).report.sentence()
    assert "a copy can reach the test part" in sentence and "sign \ufffd stands in 1 of them" in sentence


def test_a_limit_takes_rows_from_the_whole_source_and_keeps_shares(write):
    path = write("a.jsonl", jsonl([{"text": str(n)} for n in range(10)]))
    assert [row["text"] for row in load(path, limit=5).rows] == ["1", "3", "5", "7", "9"]
    found = load("sotu-party", limit=100)
    assert len(found) == 100 and abs(sum(row["label"] == "Democratic" for row in found.rows) - 41) <= 1
    assert found.labels == ("Democratic", "Republican") and "100 of them are used" in found.report.sentence()


def test_impossible_limits_are_refused(write):
    path = write("a.csv", "text,label\n" + "".join(f"t{n},{'xyz'[n % 3]}\n" for n in range(9)))
    with pytest.raises(UserError, match=r"10 rows were asked for but a\.csv has 9 usable ones; ask for 9 or fewer"):
        load(path, limit=10)
    with pytest.raises(UserError, match="leaves nothing"):
        load(path, limit=0)
    with pytest.raises(UserError, match="limit of 2 rows loses the label"):
        load(path, limit=2)
    with pytest.raises(UserError, match=r"(has|have) one example"):
        load(path, limit=4)
