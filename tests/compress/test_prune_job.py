from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from workbench.commands.prune import prune
from workbench.compress import prune_job as job
from workbench.compress.masks import check_nm
from workbench.compress.targets import find_targets, matrix
from workbench.errors import JobError, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved two-layer Llama with a byte tokenizer, and a folder of three texts beside it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: i + 1 for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = Tokenizer(models.BPE({"</s>": 0, **letters}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    where = tmp_path_factory.mktemp("model")
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", pad_token="</s>").save_pretrained(where)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=257,
        bos_token_id=None, eos_token_id=0, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(where)
    texts = where.parent / "texts"
    texts.mkdir()
    for name, line in (
        ("a", "Call me Ishmael. "),
        ("b", "Some years ago, never mind how long. "),
        ("c", "Little money. "),
    ):
        (texts / f"{name}.txt").write_text(line * 120, encoding="utf-8")
    return where


def context(tmp_path, folder, stop_after=10**9, **config):
    seen = []
    base = {"model": str(folder), "data": str(folder.parent / "texts"), "samples": 8, "window": 64}
    return SimpleNamespace(
        directory=tmp_path, config=base | config, progress=lambda *now: seen.append(now), seen=seen,
        should_stop=lambda: len(seen) >= stop_after,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_job_writes_a_folder_that_loads_like_any_model(method, folder, tmp_path):
    from workbench import models

    run = context(
        tmp_path, folder, method=method, pattern="2:4", retrain=["norms", "masklora"], steps=3, batch_size=2, rank=2
    )
    result = job.run(run)
    assert {"method", "bits", "bytes", "bits_per_weight", "layers", "seconds", "peak_bytes", "path"} <= result.keys()
    assert len(result["layers"]) == 14 and len(result["retrained"]["losses"]) == 3
    assert [now[0] for now in run.seen] == sorted(now[0] for now in run.seen)
    stored = json.loads((tmp_path / "pruned" / "pruning_report.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]  # nothing half-written is left
    model, tokenizer = models.load_model(result["path"]), models.load_tokenizer(result["path"])
    assert all(check_nm(matrix(layer), 2, 4) for layer in find_targets(model).values())
    ids = tokenizer("Call me", return_tensors="pt").input_ids
    with torch.no_grad():
        assert bool(torch.isfinite(model(ids.to(model.device)).logits).all())
    plan = job.forecast(run.config)
    assert plan["bytes"] == result["bytes"] and plan["removed"] == plan["weights"] // 2
    assert plan["trainable"] == result["retrained"]["trainable"]


def test_forecast_reads_no_weights_and_says_what_is_needed(folder, tmp_path):
    config = context(tmp_path, folder, method="sparsegpt", sparsity=0.75).config
    plan = job.forecast(config)
    assert plan["layers"] == 14 and plan["calibration_tokens"] == 512 and plan["tokens_needed"] == 128
    assert plan["removed"] == 0.75 * plan["weights"] and plan["trainable"] == 0
    assert plan["packed_bits_per_weight"] == pytest.approx(8 + 0.811, abs=1e-3)  # a quarter of 32, and the places
    assert job.forecast(config | {"method": "magnitude"})["calibration_tokens"] == 0
    with pytest.raises(UserError, match="has no biases to retrain"):
        job.forecast(config | {"retrain": ["biases"]})


def test_retraining_reads_the_training_part_only(folder):
    from workbench import data, models

    tokenizer = models.load_tokenizer(str(folder))
    full = job.settings({"data": str(folder.parent / "texts"), "retrain": ["norms"], "window": 64, "samples": 4})
    windows, rows = job.texts(full, tokenizer)
    held = data.split(data.load(full["data"]), evaluation=0, seed=0)["test"].rows
    beginnings = {row["text"][:9] for row in held}
    assert len(windows) == 4 and rows.shape[1] == 64
    text = "".join(tokenizer.batch_decode([*rows, *(window[0] for window in windows)]))
    assert held and not any(beginning in text for beginning in beginnings)


def test_an_untied_head_is_retrained(folder, tmp_path):
    found = job.run(context(tmp_path, folder, method="magnitude", retrain=["head"], steps=1, rank=2))
    assert found["retrained"]["trainable"] == 2 * (64 + 257)


def test_a_stopped_job_leaves_nothing(folder, tmp_path):
    run = context(tmp_path, folder, stop_after=17, method="magnitude", retrain=["norms"], steps=5)
    assert job.run(run) == {"stopped": True}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_writing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(JobError, match="free some space and resume the run"):
        job.run(context(tmp_path, folder, method="magnitude"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"method": "wander"}, "did you mean wanda"),
        ({"sparsity": 1.5}, "from 0 to below 1"),
        ({"pattern": "1:3"}, "choose one of"),
        ({"bits": 4}, "prune has no setting bits"),
        ({"retrain": ["masklora", "loraprune"]}, "choose one of them"),
        ({"learning_rate": 0}, "above 0"),
        ({"steps": 0}, "steps is 0"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"method": "sparsegpt", "samples": 1}, "has 64 tokens, but"),
        ({"retrain": ["norms"], "window": 100_000, "method": "magnitude"}, "Nothing|nothing|No row"),
    ],
)
def test_bad_settings_are_refused(config, match, folder, tmp_path):
    with pytest.raises(UserError, match=match):
        job.run(context(tmp_path, folder, **config))
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_json_document_or_a_summary(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path))
    base = [str(folder), "--method", "magnitude", "--sparsity", "0.6"]
    found = CliRunner().invoke(prune, [*base, "--json"], catch_exceptions=False)
    told = json.loads(found.stdout)
    assert {"method", "bits", "bytes", "bits_per_weight", "layers", "seconds", "peak_bytes", "path"} <= told.keys()
    assert {"name", "error"} <= told["layers"][0].keys()
    found = CliRunner().invoke(prune, [*base, "--retrain", "norms", "--steps", "2", "--window", "64", "--data",
                                       str(folder.parent / "texts")], catch_exceptions=False)  # fmt: skip
    assert "60.0% of the layers' weights are zero" in found.stdout and "retrained norms: 320 numbers" in found.stdout
    plan = json.loads(CliRunner().invoke(prune, [*base, "--dry-run"], catch_exceptions=False).stdout)
    assert plan["layers"] == 14
    assert "masklora" in CliRunner().invoke(prune, ["--help"]).stdout
