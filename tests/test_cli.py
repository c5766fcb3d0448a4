from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.cli import COMMANDS

WORKBENCH = [sys.executable, "-m", "workbench"]


def run(*words: str, cwd: Path | None = None, code: int | None = 0, **env: str) -> subprocess.CompletedProcess:
    found = subprocess.run(
        [*WORKBENCH, *words], capture_output=True, text=True, cwd=cwd, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert code is None or found.returncode == code, found.stderr[-2000:] + found.stdout[-500:]
    return found


def seconds(script: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], check=True)
    return time.perf_counter() - begun


def test_import_loads_neither_torch_nor_gradio():
    script = (
        "import workbench, sys; assert not {'torch', 'gradio', 'transformers', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_papers_list_does_not_load_torch():
    script = (
        "import sys, workbench.cli as c\n"
        "sys.argv = ['workbench', 'papers']\n"
        "try:\n    c.main(['papers'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pandas', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_teaches(name):
    text = run(name, "--help").stdout
    assert text.startswith("Usage:")
    assert len(text.splitlines()) > 5


def test_overview_lists_every_command_once():
    text = run("--help").stdout
    assert all(text.count(f"\n  {name} ") == 1 for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("finetun",), "did you mean finetune"),
        (("finetune", "--model", "tiny-ml", "--data", "sotu"), "tiny-lm"),
        (("finetune", "--model", "tiny-lm", "--data", "sotu", "--method", "lorra"), "lora"),
        (("finetune", "--model", "tiny-lm", "--data", "nowhere.csv"), "nowhere.csv"),
        (("finetune", "--model", "tiny-lm", "--data", "sotu", "--set", "r"), "NAME=VALUE"),
        (("finetune", "--model", "tiny-lm", "--data", "sotu", "--steps", "0"), "0"),
        (("quantize", "tiny-lm", "--method", "gptk"), "gptq"),
        (("quantize", "tiny-lm", "--bits", "5"), "5"),
        (("quantize", "tiny-lm", "--group-size", "77"), "77"),
        (("compare", "tiny-lm", "no-such-model"), "no-such-model"),
        (("reproduce", "nolla"), "nola"),
        (("fit", "nowhere.csv"), "nowhere.csv"),
        (("runs", "show", "../../etc"), "run"),
        (("app", "--host", "0.0.0.0", "--no-browser"), "--auth"),
        (("app", "--auth", "me:short", "--no-browser"), "8 characters"),
        (("chat", "someone/some-model", "--prompt", "hi"), "someone/some-model"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr_and_exit_code_2(words, sentence, tmp_path):
    found = run(*words, cwd=tmp_path, code=2, WORKBENCH_RUNS=str(tmp_path / "runs"))
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert not any((tmp_path / "runs").glob("[0-9]*")), "bad input leaves no run behind"


def test_json_is_one_document(tmp_path):
    for words in (("papers",), ("runs",), ("models",), ("data",), ("methods",), ("runs", "list"), ("doctor",)):
        document = json.loads(run(*words, "--json", cwd=tmp_path, code=None).stdout)
        assert isinstance(document, list)


def test_papers_keys(tmp_path):
    pages = json.loads(run("papers", "--json").stdout)
    assert {"nola"} <= {page["slug"] for page in pages}
    for page in pages:
        assert {"slug", "title", "family", "status", "claim", "lesson", "blocks"} <= set(page)
        assert page["status"] in ("holds", "partly", "fails", "not run")


def test_methods_name_their_class_and_arguments():
    methods = json.loads(run("methods", "--json").stdout)
    assert {"lora", "nola", "full"} <= {m["name"] for m in methods if m["kind"] == "adapter"}
    assert {"rtn", "gptq", "nf4"} <= {m["name"] for m in methods if m["kind"] == "quantizer"}
    assert {"chinchilla"} <= {m["name"] for m in methods if m["kind"] == "law"}
    for method in methods:
        assert {"kind", "name", "class", "arguments", "help"} <= set(method)
        assert ":" in method["class"] or method["class"] == ""


def test_fit_command(tmp_path):
    from workbench.paths import assets

    data = assets() / "scaling" / "chinchilla.csv"
    found = json.loads(
        run("fit", str(data), "--samples", "50", "--json", "--predict", "N=7e9", "--predict", "D=1.4e12").stdout
    )
    assert set(found["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert found["parameters"]["alpha"]["low"] < 0.34263 < found["parameters"]["alpha"]["high"]
    report = tmp_path / "fit.html"
    run("fit", str(data), "--samples", "50", "--report", str(report))
    assert "https:" not in report.read_text().split("<body")[0].split("<script")[0]


def test_finetune_quantize_compare_chat_on_the_tiny_model(tmp_path):
    env = {"WORKBENCH_RUNS": str(tmp_path / "runs")}
    words = (
        "--model",
        "tiny-lm",
        "--data",
        "moby-dick",
        "--steps",
        "4",
        "--batch-size",
        "2",
        "--window",
        "64",
        "--json",
    )
    tuned = json.loads(run("finetune", *words, **env).stdout)
    assert Path(tuned["path"]).is_dir() and tuned["forecast"] and tuned["measured"]
    packed = json.loads(
        run("quantize", "tiny-lm", "--method", "rtn", "--bits", "4", "--group-size", "32", "--json", **env).stdout
    )
    assert packed["bits_per_weight"] == pytest.approx(4 + (16 + 4) / 32, rel=0.01)
    settings = ("--tokens", "400", "--items", "4", "--window", "64", "--json")
    compared = json.loads(run("compare", "tiny-lm", tuned["path"], packed["path"], *settings, **env).stdout)
    assert len(compared["rows"]) == 3 and compared["tied_best"]
    answer = run("chat", packed["path"], "--prompt", "The whale", "--new-tokens", "8", **env)
    assert re.search(r"weights [0-9a-f]{12}", answer.stderr)
    listed = json.loads(run("runs", "--json", **env).stdout)
    assert {entry["job"] for entry in listed} == {"finetune", "quantize", "compare"}
    assert all(entry["status"] == "done" for entry in listed)
    run("runs", "delete", "--yes", listed[0]["id"], **env)
    assert len(json.loads(run("runs", "--json", **env).stdout)) == 2


def test_dry_run_forecasts_without_leaving_a_run(tmp_path):
    env = {"WORKBENCH_RUNS": str(tmp_path / "runs")}
    words = (
        "--model",
        "tiny-lm",
        "--data",
        "moby-dick",
        "--steps",
        "50",
        "--batch-size",
        "2",
        "--window",
        "64",
        "--dry-run",
    )
    found = json.loads(run("finetune", *words, "--json", **env).stdout)
    assert found["seconds"] > 0 and found["peak_bytes"] > 0 and 0 < found["trainable"] < found["total"]
    assert not list((tmp_path / "runs").glob("*"))


def test_lab_opens_the_first_lesson_and_asks_nobody_for_news(monkeypatch):
    from workbench.commands import rooms

    called = []
    monkeypatch.setattr(rooms.subprocess, "call", lambda command: called.append(command) or 0)
    rooms.lab.main(["--no-browser"], standalone_mode=False)
    (command,) = called
    assert {"--ip=127.0.0.1", "--no-browser"} <= set(command)
    (opened,) = (word for word in command if word.startswith("--LabApp.default_url="))
    assert opened.endswith(min(path.name for path in rooms.notebooks().glob("[0-9]*.ipynb")))
    (settings,) = (word.split("=")[1] for word in command if word.startswith("--LabApp.app_settings_dir="))
    told = json.loads((Path(settings) / "overrides.json").read_text())["@jupyterlab/apputils-extension:notification"]
    assert told == {"fetchNews": "false", "checkForUpdates": False}
