import json
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from workbench.data import load
from workbench.errors import UserError

ROWS = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(6)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs(examples):
    return [{"prompt": row["prompt"], "completion": row["completion"]} for row in examples.rows]


def test_the_same_table_reads_the_same_from_every_format(write, tmp_path):
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "c.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "d.parquet")
    write("e.jsonl", jsonl(ROWS))
    write("f.json", json.dumps(ROWS))
    write("g.csv", b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    for name in ("a.csv", "b.csv", "c.tsv", "d.parquet", "e.jsonl", "f.json", "g.csv"):
        found = load(tmp_path / name)
        assert found.kind == "prompt-completion" and pairs(found) == ROWS, name
        assert found.source == name and found.report.kept == 6


def test_a_cell_may_be_longer_than_the_csv_module_allows(write):
    long = "word " * 40_000
    assert load(write("a.csv", f'text,group\n"{long}",a\n"x, ""y""\nz",b\n')).rows == [
        {"text": long, "group": "a"},
        {"text": 'x, "y"\nz', "group": "b"},
    ]


def test_a_folder_of_txt_is_one_document_per_file(write, tmp_path):
    write("books/b.txt", "Second")
    write("books/a/x.txt", "First")
    write("books/.hidden/y.txt", "No")
    write("books/empty.txt", "")
    found = load(tmp_path / "books")
    assert found.rows == [{"text": "First", "group": "a/x.txt"}, {"text": "Second", "group": "b.txt"}]
    assert found.report.table().place.tolist() == ["empty.txt"]


def test_a_folder_of_jsonl_shards_is_one_table(write, tmp_path):
    write("shards/1.jsonl", jsonl(ROWS[:3]))
    write("shards/2.jsonl", jsonl([*ROWS[3:], {"prompt": "", "completion": "x"}]))
    found = load(tmp_path / "shards")
    assert pairs(found) == ROWS
    assert found.report.table().place.tolist() == ["2.jsonl line 4"]


def test_a_long_text_is_cut_at_empty_lines_and_nothing_is_lost(write):
    paragraphs = [f"Paragraph {n}. " + "Some words follow. " * 40 for n in range(60)]
    found = load(write("book.txt", "\n\n".join(paragraphs)))
    assert len(found) > 5 and found.groups()[1] == "book.txt §2"
    assert "\n\n".join(row["text"] for row in found.rows).split() == " ".join(paragraphs).split()
    assert all(row["text"].startswith("Paragraph") and len(row["text"]) >= 3900 for row in found.rows)
    assert "cut into" in found.report.sentence()


def test_a_short_text_is_one_document(write):
    assert load(write("note.txt", "Just this.")).rows == [{"text": "Just this.", "group": "note.txt"}]


def test_a_saved_datasets_folder_loads_with_class_names(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    table = datasets.Dataset.from_dict({"text": [f"t{n}" for n in range(6)], "label": [0, 1] * 3}, features=features)
    table.save_to_disk(tmp_path / "one", num_proc=None)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        found = load(tmp_path / name)
        assert found.kind == "classification" and found.labels == ("neg", "pos")
        assert [row["label"] for row in found.rows] == ["neg", "pos"] * 3


def test_a_hub_id_is_loaded_through_datasets(monkeypatch):
    import datasets
    from huggingface_hub import HfApi

    asked = []

    def stand_in(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    monkeypatch.setattr(HfApi, "dataset_info", lambda self, name, timeout: None)
    assert pairs(load("someone/pairs")) == ROWS
    load("someone/pairs:small#validation")
    assert asked == [("someone/pairs", None, "train"), ("someone/pairs", "small", "validation")]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ValueError("Unknown split")))
    with pytest.raises(UserError, match="Unknown split"):
        load("someone/pairs#nope")


def test_a_hub_id_while_offline_is_refused_in_one_sentence():
    code = "from workbench.data import load; load('someone/pairs')"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("workbench.errors.UserError: 'someone/pairs' is neither a file or folder here nor a bundled")
    assert "offline" in last


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (None, "machine is offline"),
        (404, r"no data set 'someone/pairs' that you may read \(404\)"),
        (400, "answers 400"),
    ],
)
def test_what_the_hub_answers_becomes_one_sentence(status, message, monkeypatch):
    from huggingface_hub import constants

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *ignored):
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        port = server.server_port if status else 9  # nothing listens on port 9
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with pytest.raises(UserError, match=message):
                load("someone/pairs")
        finally:
            server.shutdown()
            thread.join()


BAD = {
    "missing": ("nothing.csv", None, r"There is no file .*nothing\.csv"),
    "empty": ("a.csv", b"", r"is empty \(0 bytes\)"),
    "empty txt": ("a.txt", b" \n \n", "only white space"),
    "empty jsonl": ("a.jsonl", b"\n\n", "only empty lines"),
    "header only": ("a.csv", b"text,label\n", r"header \(text, label\) and no rows"),
    "cells only blank": ("a.csv", b"\n\n,,\n", "holds no cells"),
    "duplicate column": ("a.csv", b"text,label,text\na,b,c\n", r"'text' \(columns 1, 3\)"),
    "ragged": ("a.csv", b"text,label\na,b\nc,d,e\n", r"row 3 has 3.*between double quotes"),
    "open quote": ("a.csv", b'text,label\n"a,b\nc,d\n', "without its closing quote"),
    "latin1": (
        "a.csv",
        "text\nok\ncafé\n".encode("cp1252"),
        r"0xe9 in line 3 \(byte 12 of the file\).*iconv -f cp1252",
    ),
    "utf16": ("a.txt", "hello".encode("utf-16"), "UTF-16.*iconv -f utf-16"),
    "broken line": ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', r"1 broken line \(line 2: .*character"),
    "two broken": ("a.jsonl", b"{\n\n[1]\n", r"2 broken lines \(line 1: .*line 3: it holds a list"),
    "repeated key": ("a.jsonl", b'{"text": "a", "text": "b"}\n', "line 1: the key 'text' appears twice"),
    "lines in json": ("a.json", b'{"text": "a"}\n{"text": "b"}\n', "rename it to a.jsonl"),
    "broken json": ("a.json", b'[{"text": "a"},\n{"text": }]', "line 2"),
    "json object": ("a.json", b'{"text": "a"}', "must hold a list of objects"),
    "not parquet": ("a.parquet", b"PAR1 but not really", "not a readable Parquet file"),
    "ending": ("a.docx", b"x", r"the ending \.docx.*\.jsonl"),
    "no ending": ("notes", b"x", r"the ending \(none\)"),
    "spreadsheet": ("a.xlsx", b"x", "export it .* as CSV"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_with_place_and_repair(write, tmp_path, name, content, message):
    path = tmp_path / name if content is None else write(name, content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_code_carrying_files_are_never_opened(write, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("a.pkl", "a.pt", "a.bin", "a.joblib"):
        with pytest.raises(UserError, match="can run code"):
            load(write(name, pickle.dumps(Trap())))
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match="arrays of numbers"):
        load(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


def test_an_unreadable_file_names_the_reason(write, monkeypatch):
    path = write("a.csv", "text\nx\n")
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        load(path)


def test_a_parquet_file_with_duplicate_columns_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"'text' \(columns 1, 2\)"):
        load(tmp_path / "a.parquet")


def test_folders_that_cannot_be_one_table_are_refused(write, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no \.txt, \.jsonl"):
        load(tmp_path / "none")
    write("mixed/a.txt", "x")
    write("mixed/b.csv", "text\nx\n")
    with pytest.raises(UserError, match=r"mixes \.txt and \.csv"):
        load(tmp_path / "mixed")
    write("uneven/a.csv", "text\nx\n")
    write("uneven/b.csv", "body\nx\n")
    with pytest.raises(UserError, match=r"b\.csv has the columns body but a.csv has text"):
        load(tmp_path / "uneven")


def test_a_source_must_be_named():
    with pytest.raises(UserError, match="No data was named"):
        load(" ")
