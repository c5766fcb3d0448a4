import re
import subprocess
import sys
from collections import Counter

import pytest

from workbench.data import documents, list_data, load
from workbench.data.bundle import LIMIT, clean, write
from workbench.data.bundled import passages, sentences
from workbench.errors import UserError
from workbench.paths import assets


@pytest.mark.parametrize("info", list_data(), ids=lambda info: info.name)
def test_the_list_states_what_the_files_hold(info):
    found = load(info.name)
    assert found.kind == info.kind
    assert info.documents == len(found.groups())
    assert info.rows == len(found)
    assert info.characters == sum(len(row["text"]) for row in found.rows)
    assert (
        info.bytes
        == (assets() / "text" / f"{info.name.split('-century')[0].split('-party')[0]}.jsonl.xz").stat().st_size
    )


def test_known_documents_are_where_they_belong():
    moby = {row["id"]: row for row in documents("moby-dick")}
    assert moby["Chapter 1"]["title"] == "Loomings." and moby["Chapter 1"]["text"].startswith("Call me Ishmael.")
    assert list(moby)[-1] == "Epilogue" and len(moby) == 138
    kjv = {row["id"]: row for row in documents("kjv")}
    assert kjv["Genesis 1"]["text"].startswith("In the beginning God created the heaven and the earth.\n")
    assert kjv["John 11"]["text"].split("\n")[34] == "Jesus wept."
    assert len({row["book"] for row in kjv.values()}) == 66
    sotu = {row["id"]: row for row in documents("sotu")}
    assert sotu["1862 Abraham Lincoln"]["party"] == "Republican"
    assert min(row["year"] for row in sotu.values()) == 1790


def test_text_is_clean():
    for name in ("sotu", "moby-dick", "kjv"):
        for row in documents(name):
            text = row["text"]
            assert len(text) > 100 and text == text.strip()
            assert not any(bad in text for bad in ("  ", " \n", "\n ", "\n\n\n", "\t", "\r", "\x02", "\ufffd")), row[
                "id"
            ]


def test_cleaning_changes_white_space_only():
    assert clean(" a\x02b  c \t d\r\n\r\n\n\n  e ") == "a b c d\n\ne"


def test_century_follows_the_year_and_party_is_one_of_two(century):
    for row in century.rows:
        year = int(row["group"][:4])
        assert row["label"] == {17: "18th", 18: "19th", 19: "20th", 20: "21st"}[(year - 1) // 100]
    party = load("sotu-party")
    assert party.labels == ("Democratic", "Republican")
    assert min(int(row["group"][:4]) for row in party.rows) == 1861


def test_passages_are_whole_sentences_of_a_readable_length_and_no_address_dominates(century):
    rows = century.rows
    assert all(80 <= len(row["text"].split()) <= 140 for row in rows)
    assert sum(row["text"].rstrip("\"”')")[-1] in ".!?" for row in rows) > 0.99 * len(rows)
    assert max(Counter(row["group"] for row in rows).values()) == 40


def test_sentences_keep_titles_initials_and_closing_quotes_together():
    text = 'Mr. Adams came. He met J. Q. Smith at No. 5! "So it is." They left'
    assert sentences(text) == ["Mr. Adams came.", "He met J. Q. Smith at No. 5!", '"So it is."', "They left"]


def test_passages_by_hand():
    text = " ".join(["One two three four."] * 5 + ["Long " + "word " * 9 + "end."] + ["Five six seven eight."] * 2)
    found = passages(text, low=8, high=10)
    assert found == ["One two three four. One two three four."] * 2 + ["Five six seven eight. Five six seven eight."]
    assert passages(text, low=8, high=10, most=1) == found[:1]
    assert passages("Too short.") == []


def test_the_shipped_texts_stay_small_and_sourced():
    files = list((assets() / "text").glob("*.jsonl.xz"))
    assert len(files) == 3 and sum(file.stat().st_size for file in files) <= LIMIT
    sources = (assets() / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"text/{file.name}" in sources for file in files)
    assert all(re.search(rf"{info.source.split()[1]}`? ", sources) for info in list_data())


def test_writing_is_deterministic(tmp_path):
    rows = [{"id": "1", "text": "Größe"}]
    assert write(rows, tmp_path / "a.xz") == write(rows, tmp_path / "b.xz")
    assert (tmp_path / "a.xz").read_bytes() == (tmp_path / "b.xz").read_bytes()


def test_the_build_command_explains_itself():
    done = subprocess.run([sys.executable, "-m", "workbench.data.bundle"], capture_output=True, text=True)
    assert done.returncode == 2 and "OUT_FOLDER" in done.stderr


def test_unknown_names_bring_the_nearest():
    with pytest.raises(UserError, match=r"'sotuu'; did you mean sotu"):
        load("sotuu")
    with pytest.raises(UserError, match="choose one of: kjv, moby-dick, sotu, sotu-century, sotu-party"):
        load("wikipedia")
    with pytest.raises(UserError, match="did you mean moby-dick"):
        documents("moby-dik")


def test_text_can_be_taken_from_a_classification_set():
    found = load("sotu-century", kind="text")
    assert found.kind == "text" and set(found.rows[0]) == {"text", "group"} and found.labels == ()
    with pytest.raises(UserError, match="prompt"):
        load("sotu", kind="prompt-completion")
