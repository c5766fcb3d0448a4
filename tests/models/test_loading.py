from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from workbench.errors import UserError
from workbench.models import load_config, load_model, load_tokenizer, resolve

IDS = torch.tensor([[5, 17, 42, 7, 99, 250]])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_folder_gives_back_the_same_logits_in_eval_mode(originals, name):
    model, folder = originals[name]
    loaded = load_model(folder, device="cpu")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_resolve_names_folder_and_architecture_without_importing_weights(originals):
    ref = resolve(originals["gpt2"][1])
    assert (ref.kind, ref.path, ref.architecture) == ("folder", originals["gpt2"][1], "GPT2LMHeadModel")
    assert load_config(originals["gpt2"][1]).n_embd == 32


def test_dtype_is_what_was_asked_for(originals, copy):
    assert load_model(originals["llama"][1], dtype="bfloat16").dtype == torch.bfloat16
    folder = copy()
    load_model(folder, dtype="float16").save_pretrained(folder)
    assert load_model(folder, dtype="auto").dtype == torch.float16
    assert load_model(folder).dtype == torch.float32


def test_an_encoder_and_a_new_classification_head_load(originals):
    encoder = load_model(originals["bert"][1], task="encoder")
    assert torch.equal(encoder(input_ids=IDS).last_hidden_state, originals["bert"][0](input_ids=IDS).last_hidden_state)
    head = load_model(originals["bert"][1], task="sequence-classification", num_labels=5)
    assert head(input_ids=IDS).logits.shape == (1, 5)
    body = head.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(body, originals["bert"][0].encoder.layer[0].output.dense.weight)


def test_a_language_model_can_carry_a_classification_head(originals):
    head = load_model(originals["llama"][1], task="sequence-classification", num_labels=3)
    assert head.config.num_labels == 3
    assert torch.equal(
        head.model.layers[0].mlp.up_proj.weight, originals["llama"][0].model.layers[0].mlp.up_proj.weight
    )


def test_an_encoder_is_not_taken_for_a_language_model(originals):
    with pytest.raises(UserError, match="BertModel, which cannot continue a text"):
        load_model(originals["bert"][1])


def test_the_tokenizer_always_pads(originals, copy):
    assert load_tokenizer(originals["llama"][1]).pad_token == "<|pad|>"
    folder = copy()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    padded = tokenizer(["a", "a longer line"], padding=True)["input_ids"]
    assert len(padded[0]) == len(padded[1])


def test_a_tokenizer_without_any_special_token_is_refused(copy):
    folder = copy()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("pad_token", "eos_token", "bos_token"):
        del settings[key]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no special token to pad with"):
        load_tokenizer(folder)


def test_a_sharded_folder_loads_and_a_missing_shard_is_named(originals, tmp_path):
    model, _ = originals["llama"]
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(load_model(tmp_path)(input_ids=IDS).logits, model(input_ids=IDS).logits)
    shards[0].unlink()
    with pytest.raises(UserError, match=rf"{shards[0].name} is missing"):
        resolve(tmp_path)


def test_the_room_is_cheap_to_import_and_to_list():
    code = (
        "import sys, workbench.models as m; m.list_models();"
        "print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_prints_nothing(originals, capfd):
    load_model(originals["bert"][1], task="sequence-classification", num_labels=2)
    load_tokenizer(originals["llama"][1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "causal"}, "did you mean causal-lm"),
        ({"dtype": "float8"}, "no dtype called 'float8'"),
        ({"device": "tpu9"}, "no device 'tpu9'"),
        ({"num_labels": 2}, "needs sequence-classification"),
        ({"num_labels": 0, "task": "sequence-classification"}, "num_labels is 0"),
    ],
)
def test_wrong_options_are_refused(originals, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_model(originals["llama"][1], **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(originals):
    with pytest.raises(UserError, match="sees no GPU"):
        load_model(originals["llama"][1], device="cuda")
