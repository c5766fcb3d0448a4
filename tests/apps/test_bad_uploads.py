"""A file that cannot be used: one plain sentence that names it, without a path of the server or an option of the shell."""

from __future__ import annotations

import html as markup
import re

import pytest

from workbench.commands.rooms import apps_main

apps_main()
from workbench.apps import choices, fields  # noqa: E402
from workbench.apps.pages import finetune, scaling, shapes  # noqa: E402

TEXTS = {
    "empty.csv": b"", "white.txt": b"  \n\n ", "header.csv": b"text,label\n", "latin.csv": b"text,label\nd\xe9j\xe0,a\n",
    "utf16.csv": "text,label\na,b\n".encode("utf-16"), "broken.json": b'{"a": [1,', "list.json": b"[1, 2]",
    "broken.jsonl": b'{"text": "a"}\n{"text":\n', "archive.csv": b"PK\3\4\0\0abc", "quotes.csv": b'text,label\n"open,a\nb,c\n',
    "ragged.csv": b"a,b\n1,2,3\n4\n", "numbers.csv": b"x,y\n1,2\n3,4\n", "fake.parquet": b"PAR1xxxx",
    "twice.csv": b"text,text\na,b\n",
}  # fmt: skip
TABLES = ("empty.csv", "header.csv", "latin.csv", "utf16.csv", "archive.csv", "quotes.csv", "ragged.csv", "numbers.csv")
POINTS = {
    "empty.xyz": b"", "words.xyz": b"a b c\n", "two.xyz": b"1 2\n3 4\n", "few.xyz": b"0 0 0\n1 1 1\n",
    "nan.xyz": b"nan nan nan\n" * 60, "no.ply": b"hello", "short.obj": b"v 1 2\n", "same.xyz": b"1 1 1\n" * 100,
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    return tmp_path


def plain(said: str, folder, name: str) -> str:
    """The sentence of a note, checked."""
    assert said.count('role="alert"') == 1 and "wb-bad" in said, said
    text = markup.unescape(re.sub("<[^>]+>", "", said))
    assert str(folder) not in text and "/.uploads" not in text and "--" not in text and "Traceback" not in text
    assert text.endswith((".", "?”.")) and len(text) < 320
    return text


@pytest.mark.parametrize("name", TEXTS)
def test_of_a_text_that_cannot_be_learned(folder, name):
    (folder / name).write_bytes(TEXTS[name])
    chosen, _, said = finetune.keep(str(folder / name))
    if not said:
        said = finetune.look_at(chosen["value"], "", "[]", "tiny-lm")
    assert plain(said, folder, name).startswith(name)


@pytest.mark.parametrize("name", TABLES)
def test_of_a_table_that_no_law_fits(folder, name):
    (folder / name).write_bytes(TEXTS[name])
    chosen, _, said = scaling.keep(str(folder / name))
    if not said:
        form = fields.payload(scaling.shown_form(), {"samples": 20})
        said = scaling.run(chosen["value"], "chinchilla", "[]", form)[-1]
    plain(said, folder, name)


@pytest.mark.parametrize("name", POINTS)
def test_of_points_that_make_no_surface(folder, name):
    (folder / name).write_bytes(POINTS[name])
    _, _, said = shapes.keep(str(folder / name))
    assert plain(said, folder, name).startswith(name)


def test_a_name_with_spaces_loses_its_folder_too(folder):
    kept = choices.upload_folder() / "0123456789ab" / "my data.csv"
    assert (
        choices.for_page(f"{kept} is empty; give a file with data.") == "my data.csv is empty; give a file with data."
    )
    assert choices.for_page("steps is 0; it takes 1 or more.") == "steps is 0; it takes 1 or more."


def test_a_type_the_app_does_not_take_is_refused_on_the_page(page, server, tmp_path):
    wrong = tmp_path / "weights.bin"
    wrong.write_bytes(b"\0\1\2")
    page.goto(f"{server.url}/finetune")
    page.wait_for_selector(".wb-form [name=r]")
    page.locator("input[type=file]").first.set_input_files(str(wrong))
    page.get_by_text("weights.bin").or_(page.get_by_text("Invalid file type")).first.wait_for()
