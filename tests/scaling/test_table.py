from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.scaling.laws import get_law
from workbench.scaling.table import read_runs

from .conftest import simulate

LAW = get_law("chinchilla")


def test_guesses_names_and_header_units():
    table = pd.DataFrame({"Params (M)": [70, 400], "tokens_B": [1.4, 8.0], "val_loss": [3.1, 2.7]})
    runs = read_runs(table, LAW)
    assert runs.table["N"].tolist() == [70e6, 400e6]
    assert runs.table["D"].tolist() == [1.4e9, 8e9]
    assert runs.mapping == {"N": "Params (M)", "D": "tokens_B", "loss": "val_loss"}
    assert len(runs.notes) == 2


def test_bits_and_perplexity_become_nats():
    base = {"N": [1e7, 2e7], "D": [1e9, 2e9]}
    assert read_runs(pd.DataFrame({**base, "loss (bits)": [4.0, 3.0]}), LAW).table["loss"][0] == pytest.approx(
        4 * np.log(2)
    )
    assert read_runs(pd.DataFrame({**base, "ppl": [np.e**3, np.e**2]}), LAW).table["loss"].tolist() == pytest.approx(
        [3, 2]
    )


def test_tokens_from_compute_in_floating_point():
    runs = read_runs(
        pd.DataFrame({"params": [7e9, 70e9], "FLOP": [6 * 7e9 * 2e12, 6 * 70e9 * 1.5e13], "loss": [2.0, 1.8]}), LAW
    )
    assert runs.table["D"].tolist() == pytest.approx([2e12, 1.5e13])


def test_curves_keep_their_last_row_and_bad_rows_are_named(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "run,N,D,loss\na,1e7,1e8,4\na,1e7,2e8,3.5\nb,2e7,1e8,nan\nb,2e7,3e8,3.2\nc,3e7,4e8,-1\nd,3e7,4e8,3.1\n"
    )
    runs = read_runs(path, LAW)
    assert runs.table["loss"].tolist() == [3.5, 3.2, 3.1]
    assert "file lines 4, 6" in " ".join(runs.notes)
    assert "3 runs" in " ".join(runs.notes)


def test_duplicates_are_counted_once():
    table = simulate("chinchilla", n=10)
    assert len(read_runs(pd.concat([table, table.iloc[:3]], ignore_index=True), LAW).table) == 10


def test_odd_units_draw_a_warning_and_keep_the_numbers():
    runs = read_runs(pd.DataFrame({"N": [70.0, 400.0], "D": [1.4e9, 8e9], "loss": [3.1, 2.7]}), LAW)
    assert runs.table["N"].tolist() == [70.0, 400.0]
    assert "millions or billions" in runs.warnings[0]
    runs = read_runs(pd.DataFrame({"N": [1e7, 4e7], "D": [1.4e9, 8e9], "loss": [31.0, 27.0]}), LAW)
    assert "perplexity" in runs.warnings[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"N,D,loss\n", "no rows"),
        (b"N,D,loss\n\xff\xfe,1,2\n", "UTF-8"),
        (b"size,weight\n1,2\n", "no column was found for D, loss"),
        (b"N,D,loss\nx,y,z\n", "No usable row"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_runs(path, LAW)


def test_missing_file_and_wrong_mapping():
    with pytest.raises(UserError, match="no file"):
        read_runs("nowhere.csv", LAW)
    with pytest.raises(UserError, match="no column 'size'"):
        read_runs(simulate("chinchilla"), LAW, {"N": "size"})
