from __future__ import annotations

import io

import pandas as pd

from workbench.figures.table import columns, note, print_table, render

ROWS = [
    {"name": "base", "perplexity": 31.42, "perplexity_low": 27.9, "perplexity_high": 34.9, "perplexity_tied": False,
     "disk_bytes": 269_060_552, "seconds": 0.0, "n": 64},
    {"name": "gptq-4", "perplexity": 25.49, "perplexity_low": 22.98, "perplexity_high": 28.0, "perplexity_tied": True,
     "disk_bytes": 1_110_395_392, "seconds": 130.0, "n": 64},
]  # fmt: skip


def test_estimate_and_interval_become_one_cell():
    made = {c.key: c for c in columns(ROWS)}
    assert list(made) == ["name", "perplexity", "disk_bytes", "seconds"]
    assert made["perplexity"].cells == ["31.4 ± 3.5", "25.5 ± 2.5"]
    assert made["perplexity"].tied == [False, True]
    assert made["disk_bytes"].cells == ["269", "1\u2009110"] and made["disk_bytes"].unit == "MB"
    assert made["seconds"].cells == ["0 s", "2 min 10 s"]


def test_the_whole_table():
    assert render(ROWS, 100).splitlines() == [
        "            Perplexity     Disk        Time",
        "        held-out, 95 %       MB",
        "───────────────────────────────────────────",
        "base        31.4 ± 3.5      269         0 s",
        "gptq-4      25.5 ± 2.5 ≈  1\u2009110  2 min 10 s",
        "",
        "≈ the best, and what a paired test cannot tell from it. n = 64 items.",
    ]


def test_no_line_is_wider_than_asked_and_no_column_is_lost():
    wide = pd.DataFrame([{"name": f"variant-{i}", **{f"measure_{k}": 1234.5 + k for k in range(14)}} for i in range(3)])
    text = render(wide, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("variant-0") >= 2
    assert all(f"Measure {k}" in text for k in range(14))


def test_missing_values_and_odd_columns():
    rows = [
        {"name": "a", "accuracy": 0.5, "licence": "MIT", "done": True},
        {"name": "b", "accuracy": None, "licence": None, "done": False},
    ]
    made = {c.key: c for c in columns(rows)}
    assert made["accuracy"].cells == ["0.500", "–"]
    assert made["licence"].cells == ["MIT", "–"] and not made["licence"].numeric
    assert made["done"].cells == ["True", "False"]


def test_n_that_varies_is_a_column():
    rows = [dict(ROWS[0], n=64), dict(ROWS[1], n=60)]
    assert [c.cells for c in columns(rows) if c.key == "n"] == [["64", "60"]]
    assert "n =" not in note(rows)


def test_an_empty_table_says_so():
    assert render([], 80) == "Nothing to show yet: the table has no rows."
    assert render(pd.DataFrame(columns=["name", "accuracy"]), 80).startswith("Nothing to show yet")


def test_printing_goes_to_the_stream():
    out = io.StringIO()
    print_table(ROWS, width=90, stream=out)
    assert out.getvalue() == render(ROWS, 90) + "\n"
