"""A real small grid: cells in processes of their own, killed and resumed, recomputed from its record."""

import json
import os
import signal
import time

import pandas as pd
import psutil
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.grid import planning, record, report
from workbench.grid.running import Runner, run_grid

WORDS = {"war": "battle army fought ships gun", "peace": "treaty trade friend harvest calm"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = []
    for document in range(24):
        label = list(WORDS)[document % 2]
        words = WORDS[label].split()
        for line in range(3):
            text = " ".join(words[(document + line + k) % 5] for k in range(6))
            rows.append({"text": f"the {text} of {document}", "label": label, "group": f"d{document}"})
    path = tmp_path_factory.mktemp("data") / "small.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def config(data):
    return {
        "models": ["tiny-lm"], "tasks": [str(data)], "methods": ["lora", "bitfit"], "budget": "params=lora:r=1",
        "outside": True, "seeds": 2, "trials": 1, "steps": 3, "batch_size": 4, "window": 16, "eval_rows": 4, "test_rows": 6,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A grid whose fourth cell is killed, which is then run again: (record, folder, cells kept over the kill, progress)."""
    folder, told, killed = tmp_path_factory.mktemp("grid") / "run", [], []

    def kill_once() -> bool:
        if not killed and len(runner.done) >= 3:
            killed.extend(child.pid for child in psutil.Process(server.process.pid).children())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return False

    with Runner(planning.plan(config), folder, lambda *words: told.append(words), kill_once) as runner:
        server = runner.servers[0]
        runner.all()
        assert len(runner.killed) == 1
        kept = {path.name: path.read_bytes() for path in (folder / "cells").glob("[!.]*.json")}
        del told[:]
        assert runner.all()
    return run_grid(config, folder, command="again"), folder, kept, told


def test_nothing_that_was_finished_is_done_again(finished):
    found, folder, kept, _ = finished
    assert 3 <= len(kept) < 9  # the killed one, and what waits for it
    for name, content in kept.items():
        assert (folder / "cells" / name).read_bytes() == content
    assert not found["stopped"] and not found["failed"]


def test_base_and_full_are_rows_and_methods_that_do_not_fit_are_named(finished):
    found = finished[0]
    assert {row["name"] for row in found["rows"]} == {"base", "full", "lora"}
    assert any("bitfit" in text for text in found["left_out"])


def test_every_row_has_intervals_costs_and_a_verdict(finished):
    for row in finished[0]["rows"]:
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["seeds"] == 2 and row["accuracy_n"] == 2
        assert row["training_bytes"] > 0 and row["step_seconds"] > 0 and len(row["trials"]) == 1
    rows = {row["name"]: row for row in finished[0]["rows"]}
    assert rows["base"]["trainable"] == 0 < rows["lora"]["trainable"] < rows["full"]["trainable"]
    assert rows["lora"]["training_bytes"] < rows["full"]["training_bytes"]
    assert rows["lora"]["size"] == rows["lora"]["trainable"]


def test_the_table_follows_from_the_cells_alone(finished):
    stored = json.loads((finished[1] / "grid.json").read_text(encoding="utf-8"))
    again = record.files.plain(record.rows_of(stored))
    assert again == {name: stored[name] for name in ("rows", "tied_best", "failed")}


def test_all_methods_answer_the_same_items_with_the_same_seeds(finished):
    (block,) = finished[0]["blocks"]
    finals = [cell for cell in block["cells"] if cell["stage"] == "final"]
    assert {len(cell["chosen"]) for cell in finals} == {len(block["items"]["answers"])} == {6}
    assert {name: sorted(c["seed"] for c in finals if c["name"] == name) for name in ("lora", "full")} == {
        "lora": [1, 2], "full": [1, 2],
    }  # fmt: skip
    assert not {c["seed"] for c in block["cells"] if c["stage"] == "trial"} & {1, 2}


def test_progress_starts_where_it_was_and_ends_at_the_end(finished):
    told = finished[3]
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == told[-1][1] == 9


def test_the_same_settings_again_compute_nothing(finished, config):
    found, folder, _, _ = finished
    begun = time.monotonic()
    again = run_grid(config, folder, command="again")
    assert time.monotonic() - begun < 20
    assert again["rows"] == found["rows"]


def test_a_stop_keeps_what_is_there(config, tmp_path):
    found = run_grid(config, tmp_path / "stopped", should_stop=lambda: True)
    assert found["stopped"] and found["rows"] == []


def test_figures_and_report_are_in_the_house_style(finished):
    found, folder, _, _ = finished
    for _, _, rows in report.blocks(found):
        style.check(report.scores(rows))
        style.check(report.against(rows[rows["trainable"] > 0]))
        style.check(report.against(rows, "training_bytes"))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "tiny-lm" in text and "again" in text and "bitfit" in text
    assert (folder / "rows.csv").read_text().count("\n") == 4


def test_a_budget_that_cannot_be_reached_is_refused_with_the_nearest(config):
    with pytest.raises(UserError, match=r"cannot reach the budget.*comes nearest with \d+ trained numbers"):
        planning.plan({**config, "methods": ["ln-tuning"], "outside": False})


def test_packed_bases_cross_with_what_can_train_on_them(config):
    plan = planning.plan({**config, "methods": ["lora", "ia3"], "bases": ["none", "nf4"], "budget": "none"})
    names = [row.name for row in plan.rows]
    assert names == ["base", "full", "lora", "ia3", "lora+nf4"]
    assert len(plan.left_out) == 2 and all("nf4" in text for text in plan.left_out)


def test_tokens_decide_the_steps(config):
    plan = planning.plan({**config, "methods": ["lora"], "budget": "tokens=640"})
    assert {row.steps for row in plan.rows} == {10}
