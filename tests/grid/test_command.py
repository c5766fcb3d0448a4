"""The command: plain comparison stays, methods make a grid, options that belong to a grid say so."""

import json

import pytest
from click.testing import CliRunner

from workbench.commands import grid
from workbench.errors import UserError
from workbench.grid.command import words
from workbench.grid.settings import DEFAULTS, check


@pytest.fixture
def called(monkeypatch):
    """What would be run: (job, config)."""
    seen = []

    def start(job, config, **_):
        seen.append((job, config))

    monkeypatch.setattr(grid.jobs, "start", start)
    return seen


def ask(*words):
    return CliRunner().invoke(grid.compare, list(words), catch_exceptions=False)


def test_without_methods_models_are_compared_as_before(called):
    assert ask("tiny-lm", "smollm2-135m", "--tokens", "900").exit_code == 0
    job, config = called[0]
    assert job == "compare"
    assert config == {"models": ["tiny-lm", "smollm2-135m"], "data": "moby-dick", "window": 256, "tokens": 900,
                      "items": 48, "seed": 0}  # fmt: skip


def test_methods_make_a_grid(called, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    ask("tiny-lm", "--methods", "lora, ia3", "--tasks", "sotu-party", "--seeds", "5", "--set", "lora.lora_alpha=4",
        "--rate", "full=1e-3", "--window", "32")  # fmt: skip
    job, config = called[0]
    assert job == "grid"
    assert config == {"models": ["tiny-lm"], "methods": ["lora", "ia3"], "tasks": ["sotu-party"], "seeds": 5, "window": 32,
                      "method_args": {"lora": {"lora_alpha": 4}}, "rates": {"full": 1e-3}}  # fmt: skip
    assert check(config)["trials"] == DEFAULTS["trials"]


def test_the_command_of_a_record_gives_its_settings_back(called, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    config = {"models": ["tiny-lm"], "methods": ["lora"], "tasks": ["sotu-party"], "outside": True, "search": "random",
              "space": {"lora": {"lora_alpha": [4, 16]}}, "rates": {"lora": 0.002}, "split_seed": 3}  # fmt: skip
    ask(*words(config).split()[2:])
    assert called[0] == ("grid", config)


def test_out_writes_the_whole_record_with_the_command_that_writes_it(monkeypatch, tmp_path):
    kept, there = tmp_path / "grid.json", tmp_path / "my grid.json"
    record = {"command": "workbench compare tiny-lm --methods lora", "rows": [{"name": "größe"}]}
    kept.write_text(json.dumps(record), encoding="utf-8")
    found = {"path": str(kept), "rows": [], "left_out": [], "failed": [], "tied_best": [], "report": "report.html"}
    monkeypatch.setattr(grid, "start", lambda *_, **__: found)
    ask("tiny-lm", "--methods", "lora", "--out", str(there), "--json")
    assert json.loads(there.read_text("utf-8")) == record | {"command": f"{record['command']} --out 'my grid.json'"}
    assert json.loads(kept.read_text("utf-8")) == record


def test_labelled_data_takes_the_encoder_and_text_the_language_model(called, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    ask("--methods", "lora", "--tasks", "moby-dick")
    assert called[0][1]["models"] == ["smollm2-135m"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name models, or methods"),
        (("tiny-lm", "--trials", "3"), "--trials belongs to a grid"),
        (("tiny-lm", "--methods", "lora", "--set", "r=3"), "METHOD.ARGUMENT=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(arguments, told):
    with pytest.raises(UserError, match=told.replace(".", r"\.")):
        ask(*arguments)


def test_published_results_are_shown_as_json(tmp_path):
    with pytest.raises(UserError, match="method_comparison"):
        ask("--published", str(tmp_path), "--json")


def test_help_teaches_both_uses():
    text = ask("--help").output
    assert "--bases none,nf4" in text and "as they are" in text and "--dry-run" in text
    json.dumps(text)
