from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from workbench.compress import job
from workbench.errors import JobError, UserError

TEXT = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse. " * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved two-layer Llama with a byte tokenizer, and a text file beside it."""
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
    (where.parent / "ishmael.txt").write_text(TEXT, encoding="utf-8")
    return where


def context(tmp_path, stop_after=10**9, **config):
    seen = []
    return SimpleNamespace(
        directory=tmp_path, config=config, progress=lambda *now: seen.append(now), seen=seen,
        should_stop=lambda: len(seen) >= stop_after,
    )  # fmt: skip


def test_job_writes_a_folder_that_loads_like_any_model(folder, tmp_path):
    from workbench import models

    run = context(
        tmp_path, model=str(folder), method="gptq", bits=3, group_size=32, data=str(folder.parent / "ishmael.txt"),
        samples=8, window=64,
    )  # fmt: skip
    result = job.run(run)
    assert {"method", "bits", "bytes", "bits_per_weight", "layers", "seconds", "peak_bytes", "path"} <= result.keys()
    assert len(result["layers"]) == 14 and run.seen
    stored = json.loads((tmp_path / "packed" / "quantization_report.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]  # nothing half-written is left
    model, tokenizer = models.load_model(result["path"]), models.load_tokenizer(result["path"])
    ids = tokenizer("Call me", return_tensors="pt").input_ids
    with torch.no_grad():
        assert bool(torch.isfinite(model(ids.to(model.device)).logits).all())
    assert result["bytes"] == job.forecast(run.config)["bytes"]


def test_forecast_reads_no_weights(folder, tmp_path):
    config = {"model": str(folder), "method": "gptq", "bits": 4, "group_size": 32, "samples": 8, "window": 64}
    plan = job.forecast(config)
    assert plan["layers"] == 14 and plan["calibration_tokens"] == 512 and plan["tokens_needed"] == 128
    assert plan["bits_per_weight"] == 4 + 20 / 32
    assert plan["peak_bytes"] > plan["activation_bytes"] > 2 * 512 * 64 * 4
    assert job.forecast(config | {"method": "nf4", "group_size": 64})["bits_per_weight"] == 4.5
    with pytest.raises(UserError, match="does not divide"):
        job.forecast(config | {"group_size": 48})


def test_a_stopped_job_leaves_nothing(folder, tmp_path):
    run = context(tmp_path, stop_after=3, model=str(folder), method="rtn", bits=4, group_size=32)
    assert job.run(run) == {"stopped": True}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_writing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(JobError, match="free some space and resume the run"):
        job.run(context(tmp_path, model=str(folder), method="rtn", bits=4, group_size=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"method": "gptk"}, "did you mean gptq"),
        ({"bits": 6}, "6 bits are not offered"),
        ({"grup_size": 4}, "has no setting grup_size"),
        ({"method": "fp4", "bits": 3}, "fp4 has 4 bits"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"samples": 1, "window": 64}, "has 64 tokens, but"),
    ],
)
def test_bad_settings_are_refused(config, match, folder, tmp_path):
    base = {"model": str(folder), "data": str(folder.parent / "ishmael.txt"), "group_size": 32}
    with pytest.raises(UserError, match=match):
        job.run(context(tmp_path, **(base | config)))
    assert list(tmp_path.iterdir()) == []
