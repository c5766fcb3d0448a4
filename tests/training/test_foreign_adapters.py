"""Adapters that do not belong: other model, damaged file, unknown method, quantized base. Each is one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from workbench.errors import UserError
from workbench.models.quiet import quiet
from workbench.training.attach import apply_method
from workbench.training.load import _with_adapter
from workbench.training.methods import find_method
from workbench.training.save import save_weights


def causal(folder):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(params=["lora", "nola"])
def saved(request, llama, tmp_path):
    model = apply_method(find_method(request.param), {}, causal(llama), 10)
    save_weights(model, tmp_path / "adapter")
    return tmp_path / "adapter"


def small_llama(**changes):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 320, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))


def test_the_right_model_takes_it(saved, llama):
    assert _with_adapter(causal(llama), saved).peft_config


def test_another_width_is_refused_with_name_and_shapes_of_the_first_tensor(llama, tmp_path):
    save_weights(apply_method(find_method("lora"), {}, causal(llama), 10), tmp_path / "adapter")
    with pytest.raises(UserError) as caught:
        _with_adapter(small_llama(hidden_size=48, num_attention_heads=4, num_key_value_heads=2), tmp_path / "adapter")
    text = str(caught.value)
    assert "belongs to another base model" in text and "q_proj.lora_A" in text
    assert "8 × 32 in the file and 8 × 48 here" in text


def test_fewer_layers_leave_tensors_without_a_place(saved):
    with pytest.raises(UserError, match=r"holds \d+ tensors that its adapter has no place for \(first: .*layers\.1"):
        _with_adapter(small_llama(num_hidden_layers=1), saved)


def test_more_layers_lack_tensors(saved):
    with pytest.raises(UserError, match=r"lacks \d+ tensors of its adapter \(first: .*layers\.2"):
        _with_adapter(small_llama(num_hidden_layers=3), saved)


def test_an_extra_tensor_is_refused_by_name(saved, llama):
    file = saved / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.stray.weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match=r"holds 1 tensors .* \(first: base_model\.model\.stray"):
        _with_adapter(causal(llama), saved)


def test_a_model_without_those_layers_is_refused(saved):
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=1)
    )
    with pytest.raises(UserError, match=r"another base model|No layer of this model is called"):
        _with_adapter(other, saved)


def test_a_method_nobody_registered_says_what_to_import(saved, llama):
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "SOMEBODYS"}))
    with pytest.raises(UserError, match="method 'SOMEBODYS', which neither peft nor workbench has here; import"):
        _with_adapter(causal(llama), saved)


def test_merging_into_a_packed_base_is_refused_with_the_reason(llama, texts, tmp_path):
    from workbench.training import FinetuneConfig, finetune, load_tuned

    config = FinetuneConfig(
        llama, texts, steps=1, batch_size=2, window=16, eval_every=1, precision="fp32", quantize="rtn-4"
    )
    path = finetune(config, tmp_path / "run").path
    with pytest.raises(UserError, match="sits on quantized weights; merging would round them again"):
        load_tuned(path, merged=True)


@pytest.mark.parametrize(
    ("method", "args", "words"),
    [
        ("nola", {"r": 0}, "r=0|r is 0"),
        ("wb-randlora", {"r": 0}, "r=0|r is 0"),
        ("dept", {"r": 0}, "r=0|r is 0"),
        ("compacter", {"width": 0}, "width"),
        ("unified", {"r": 0}, "r=0|r is 0"),
        ("spiel", {"density": 0.0}, "density"),
        ("said", {"d": 0}, "d=0|d is 0|d takes|dimension"),
        ("wb-randlora", {"r": 33}, "33"),
        ("nola", {"r": 64}, "64"),
        ("nola", {"target_modules": ["q_porj"]}, "q_porj.*did you mean q_proj"),
        ("spiel", {"target_modules": ["q_porj"]}, "q_porj.*did you mean q_proj"),
        ("said", {"target_modules": ["q_porj"]}, "q_porj.*did you mean q_proj"),
        ("compacter", {"target_modules": ["q_porj"]}, "q_porj.*did you mean q_proj"),
        ("wb-randlora", {"target_modules": ["q_porj"]}, "q_porj.*did you mean q_proj"),
    ],
)
def test_our_methods_refuse_sizes_and_places_that_cannot_be(method, args, words, llama):
    with pytest.raises(UserError, match=words):
        apply_method(find_method(method), args, causal(llama), 10)


@pytest.mark.parametrize("method", ["nola", "spiel", "said", "compacter"])
def test_peft_alone_gets_the_nearest_name_too(method, llama):
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from workbench import adapters

    tiny = {m["name"]: m["tiny"] for m in adapters.methods()}[method]
    with pytest.raises(ValueError, match=r"q_porj.*q_proj"):
        get_peft_model(causal(llama), PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()](target_modules=["q_porj"], **tiny))
