"""The job and the command, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from peft import get_peft_model

from workbench.commands.export import export
from workbench.compress import lora_config, quantize_model
from workbench.errors import JobError, UserError
from workbench.export import destination, job

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
W4 = {"bits": 4, "group_size": 32}


def context(tmp_path, texts, stop_after=10**9, **config):
    seen = []
    base = {"data": str(texts), "window": 64}
    return SimpleNamespace(
        directory=tmp_path, config=base | config, progress=lambda *now: seen.append(now), seen=seen,
        should_stop=lambda: len(seen) >= stop_after,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, folders, text, tokenizer, tiny):
    """An adapter trained on codes whose float base is known, as fine-tuning leaves it."""
    base = tiny("llama")
    quantize_model(base, **W4)
    model = get_peft_model(base, lora_config(base, r=4))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(12):
        sum(model(window, labels=window).loss for window in text).backward()
        optimizer.step()
        optimizer.zero_grad()
    where = tmp_path_factory.mktemp("run") / "tuned"
    model.save_pretrained(where)
    record = {"model": str(folders("llama")), "task": "causal-lm", "labels": [], "method": "lora", "quantize": None}
    model = tiny("llama")
    quantize_model(model, **W4)
    model.save_pretrained(where / "base")
    tokenizer.save_pretrained(where / "base")
    (where / "workbench.json").write_text(json.dumps(record))
    return where.parent


def test_job_writes_and_reports(folders, texts, tmp_path):
    run = context(tmp_path, texts, model=str(folders("llama")), to="gguf-q8_0", destination=str(tmp_path / "out"))
    result = job.run(run)
    assert {"to", "path", "file", "bytes", "check", "seconds", "engines", "notes", "settings"} <= result.keys()
    assert [now[0] for now in run.seen] == sorted(now[0] for now in run.seen) and run.seen[-1][0] == run.seen[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert job.forecast(run.config)["bytes"] == pytest.approx(result["bytes"], rel=0.1, abs=8000)
    from workbench import models

    assert (
        models.load_tokenizer(result["file"])("Call me").input_ids
        == models.load_tokenizer(str(folders("llama")))("Call me").input_ids
    )
    run.resumed = True  # the process died after the rename: the export is there, and is not made again
    again = job.run(run)
    assert again["check"] == result["check"] and again["seconds"] == result["seconds"]


def test_packed_folder_to_an_engine_and_default_destination(folders, texts, tmp_path):
    run = context(tmp_path, texts, model=str(folders("llama", **W4)), to="compressed-tensors")
    result = job.run(run)
    assert result["path"] == str(tmp_path / "exported") and result["check"]["layout"] < 1e-6
    stored = json.loads((tmp_path / "exported" / "config.json").read_text())["quantization_config"]
    assert stored["format"] == "pack-quantized" and stored["ignore"] == ["lm_head"]


def test_adapter_on_codes_exports_where_the_sum_fits(tuned, texts, tmp_path):
    result = job.run(context(tmp_path, texts, model=str(tuned), to="safetensors"))
    assert result["check"]["rounding"] < 1e-4 and result["check"]["layout"] < 1e-6


def test_adapter_on_codes_is_not_merged_into_codes_in_silence(tuned, texts, tmp_path):
    with pytest.raises(UserError, match=r"not on the grid of the codes.*Add --requantize"):
        job.run(context(tmp_path, texts, model=str(tuned), to="gptq-v2"))
    assert list(tmp_path.iterdir()) == []


def test_requantizing_reports_the_change_in_loss(tuned, texts, tmp_path):
    result = job.run(context(tmp_path, texts, model=str(tuned), to="gptq-v2", requantize=True, samples=8))
    found = result["requantized"]
    assert found["base"] != "the unpacked codes" and found["bits"] == 4 and found["group_size"] == 32
    assert found["loss_tuned"] < found["loss_base"] - 0.2  # it learned something
    assert found["kept"] > 0.6  # and most of it survives in codes
    assert found["loss_requantized"] == pytest.approx(result["check"]["loss_before"], abs=1e-4)
    assert result["check"]["layout"] < 1e-6


def test_an_interrupted_export_leaves_nothing_under_the_name(folders, tmp_path):
    """Killed in the middle of writing, without a chance to clean up; the next export takes the remains away."""
    script = textwrap.dedent(f"""
        import os, signal, torch
        from workbench import models
        from workbench.export import export_model
        folder = {str(folders("llama"))!r}
        def kill(done, total, text):
            if done > 0.3:
                os.kill(os.getpid(), signal.SIGKILL)
        tokenizer = models.load_tokenizer(folder)
        text = [torch.arange(64).view(1, -1) + 1]
        export_model(models.load_model(folder, device="cpu"), tokenizer, {str(tmp_path / "out")!r}, to="gguf-f16",
                     text=text, progress=kill)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".out.part-") and any(left[0].iterdir())
    with destination.draft(tmp_path / "out") as draft:
        (draft / "x").write_text("whole")
        (draft / "x").chmod(0o600)  # as safetensors leaves its files
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    out = tmp_path / "out"  # whoever may read the folder may read what is in it
    assert (out / "x").stat().st_mode & 0o444 == out.stat().st_mode & 0o444


def test_a_stopped_job_leaves_nothing(folders, texts, tmp_path):
    run = context(tmp_path, texts, stop_after=12, model=str(folders("llama")), to="gguf-f16")
    assert job.run(run) == {"stopped": True}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_weights_are_read(folders, texts, tmp_path, monkeypatch):
    from workbench import models

    monkeypatch.setattr(destination.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(JobError, match=r"the disk of .* has 0.001 MB left"):
        job.run(context(tmp_path, texts, model=str(folders("llama")), to="gguf-f16"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_one_sentence(tmp_path):
    with pytest.raises(JobError, match="No space left on device"), destination.draft(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"to": "gguf-q4"}, "did you mean gguf-q4_"),
        ({"format": "gptq"}, "export has no setting format"),
        ({"window": 1}, "window is 1"),
        ({"max_loss_change": 0}, "above 0"),
        ({"to": "gptq"}, "weights are dense .quantize first: workbench quantize MODEL"),
        ({"requantize": True}, "--requantize is for an adapter on quantized weights"),
        ({"base": "tiny-lm"}, "add --requantize"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "minilm-l6", "to": "safetensors"}, "cannot continue a text|not installed"),
        ({"data": "no-such-text.txt"}, "no-such-text"),
    ],
)
def test_bad_settings_are_refused_before_weights_are_read(config, match, folders, texts, tmp_path, monkeypatch):
    from workbench import models

    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=match):
        job.run(context(tmp_path, texts, **({"model": str(folders("llama"))} | config)))
    assert list(tmp_path.iterdir()) == []


def test_destinations_that_cannot_be(folders, texts, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for place, match in (("file", "exists already"), ("full", "exists already"), ("file/out", "not a folder")):
        with pytest.raises(UserError, match=match):
            job.run(context(tmp_path, texts, model=str(folders("llama")), destination=str(tmp_path / place)))
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert destination.check_free(tmp_path / "empty") == tmp_path / "empty"


def test_gpt2_goes_where_it_can_and_is_told_where(folders, texts, tmp_path):
    with pytest.raises(UserError, match=r"only llama and qwen2 .* is gpt2. What can: safetensors, gptq"):
        job.run(context(tmp_path, texts, model=str(folders("gpt2", **W4)), to="gguf-q8_0"))
    result = job.run(context(tmp_path, texts, model=str(folders("gpt2")), to="safetensors", dtype="bfloat16"))
    assert result["check"]["layout"] < 1e-6


def test_the_command_teaches_forecasts_and_sums_up(folders, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    text = CliRunner().invoke(export, ["--help"]).stdout
    assert all(word in text for word in ("gguf-q4_1", "compressed-tensors", "--requantize", "llama.cpp"))
    base = [str(folders("llama")), "--data", str(texts), "--window", "64"]
    plan = json.loads(CliRunner().invoke(export, [*base, "--dry-run"], catch_exceptions=False).stdout)
    assert plan["layers"] == 14 and plan["packed_layers"] == 0 and "gguf-q4_0" in plan["can_hold"]
    asked = [*base, "--to", "gguf-q4_1", "--max-loss-change", "9", "-o", os.path.relpath(tmp_path / "out")]
    found = CliRunner().invoke(export, asked, catch_exceptions=False)
    assert "read back by transformers' GGUF reader" in found.stdout and "Run it: llama-cli -m" in found.stdout
    asked = [*base, "--to", "safetensors", "-o", str(tmp_path / "plain"), "--json"]
    told = json.loads(CliRunner().invoke(export, asked, catch_exceptions=False).stdout)
    assert told["path"] == str(tmp_path / "plain") and told["check"]["layout"] == 0
