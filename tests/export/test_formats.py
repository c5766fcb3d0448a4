"""What does not fit is refused, with formats that do."""

from __future__ import annotations

import pytest
import torch

from workbench.compress import quantize_model
from workbench.errors import UserError
from workbench.export import FORMATS, holders, obstacle, outline
from workbench.export.formats import check
from workbench.export.size import check_options

GGUF = {"gguf-f16", "gguf-q8_0", "gguf-q4_1", "gguf-q4_0"}
CODES = {"gptq", "gptq-v2", "compressed-tensors"}


@pytest.mark.parametrize(
    ("kind", "packing", "fits"),
    [
        ("llama", None, {"safetensors"} | GGUF),
        ("qwen2", None, {"safetensors"} | GGUF),
        ("gpt2", None, {"safetensors"}),
        ("llama", {"bits": 4, "group_size": 32}, set(FORMATS) - {"gguf-q4_0"}),
        ("llama", {"bits": 4, "group_size": 32, "symmetric": True}, set(FORMATS)),
        ("llama", {"bits": 4, "group_size": 16}, {"safetensors", "gguf-f16"} | CODES),
        ("llama", {"bits": 8, "group_size": 32}, {"safetensors", "gguf-f16"} | CODES),
        ("llama", {"bits": 8, "group_size": 32, "symmetric": True}, {"safetensors", "gguf-f16", "gguf-q8_0"} | CODES),
        ("llama", {"bits": 3, "group_size": 32}, set(FORMATS) - {"gguf-q4_0"}),
        ("llama", {"method": "nf4"}, {"safetensors", "gguf-f16", "gguf-q8_0"}),
        ("llama", {"method": "int8-mixed"}, {"safetensors", "gguf-f16", "gguf-q8_0"}),
        ("gpt2", {"bits": 4, "group_size": 32}, {"safetensors", "gptq", "gptq-v2"}),
        ("llama", {"bits": 4, "group_size": 32, "skip": ("q_proj",)}, set(FORMATS) - {"gguf-q4_0", "gptq", "gptq-v2"}),
    ],
)
def test_the_formats_that_hold_a_model(kind, packing, fits, tiny, text):
    model = tiny(kind)
    if packing:
        quantize_model(model, **packing, calibration=text)
    shape = outline(model)
    assert set(holders(shape)) == fits
    for name in set(FORMATS) - fits:
        with pytest.raises(UserError, match=f"{name} cannot hold this model: .+ What can: safetensors"):
            check(name, shape)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled by 'linear'"),
        ({"hidden_act": "gelu"}, "'gelu' is not silu"),
        ({"attention_bias": True}, "q_proj has a bias"),
        ({"hidden_size": 80, "num_attention_heads": 4, "head_dim": 16}, "multiples of 32"),
    ],
)
def test_llamas_that_gguf_readers_would_misread(change, reason):
    from transformers import LlamaConfig, LlamaForCausalLM

    base = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
    with torch.device("meta"):
        shape = outline(LlamaForCausalLM(LlamaConfig(**(base | change))))
    assert reason in obstacle("gguf-q8_0", shape)
    assert obstacle("safetensors", shape) is None


def test_a_zero_point_of_zero_needs_version_two(tiny):
    from workbench.compress.linear import IntLinear
    from workbench.export.gptq import convert

    model = tiny("llama")
    quantize_model(model, bits=4, group_size=32)
    layer = next(module for module in model.modules() if isinstance(module, IntLinear))
    layer.restore()
    layer.zeros[0] = 0
    with pytest.raises(UserError, match="zero point of 0"):
        convert("layers.0.q_proj", layer, torch.float16)
    assert convert("layers.0.q_proj", layer, torch.float16, version=2)


@pytest.mark.parametrize(
    ("to", "dtype", "embeddings", "match"),
    [
        ("gguf-q8_0", "float16", None, "--dtype is for the other formats"),
        ("gguf-q8_0", None, "q4_0", "no format of embeddings called 'q4_0'"),
        ("safetensors", None, "f16", "--embeddings is for gguf"),
        ("safetensors", "float8", None, "no number type called 'float8'"),
        ("compressed-tensors", "bfloat16", None, "would round them"),
    ],
)
def test_options_that_a_format_does_not_take(to, dtype, embeddings, match, tiny):
    with pytest.raises(UserError, match=match):
        check_options(to, outline(tiny("llama")), dtype, embeddings)


def test_an_unknown_format_is_named_with_the_nearest(tiny):
    with pytest.raises(UserError, match="did you mean gguf-q4_1"):
        check("gguf-q41", outline(tiny("llama")))


def test_tokenizers_that_gguf_has_no_name_for(tokenizer):
    import copy

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from workbench.export.gguf_tokenizer import first_cut, metadata

    assert first_cut(tokenizer) == "gpt-2"
    found = metadata(tokenizer, 261)
    assert found["tokenizer.ggml.tokens"][257:] == ["th", "Ġth", "[PAD259]", "[PAD260]"]
    assert found["tokenizer.ggml.token_type"][0] == 3 and found["tokenizer.ggml.token_type"][257:] == [1, 1, 5, 5]
    assert found["tokenizer.ggml.merges"] == ["t h", "Ġ th"]
    assert found["tokenizer.ggml.eos_token_id"] == 0 and "message" in found["tokenizer.chat_template"]
    with pytest.raises(UserError, match="the embedding only 200 rows"):
        metadata(tokenizer, 200)
    other = copy.deepcopy(tokenizer)
    cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
    other.backend_tokenizer.pre_tokenizer = cut
    assert first_cut(other) == "smollm"
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), cut])
    with pytest.raises(UserError, match="GGUF has no name for"):
        first_cut(other)
    for odd in (models.WordLevel({"a": 0}, "a"), models.BPE({"a": 0}, [])):
        with pytest.raises(UserError, match="byte-level BPE tokenizers"):
            first_cut(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(odd)))


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_split_patterns_are_those_that_transformers_reads(name, tokenizer):
    import copy

    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    from workbench.export.gguf_tokenizer import first_cut

    other = copy.deepcopy(tokenizer)
    split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    assert first_cut(other) == name
