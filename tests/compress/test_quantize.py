from __future__ import annotations

import json
import os

import pytest
import torch

from workbench.compress import WbFloatConfig, WbIntConfig, quantize_model
from workbench.compress.packed_model import stored_bytes
from workbench.compress.records import float_bits_per_weight, integer_bits_per_weight
from workbench.compress.targets import find_targets, sizes
from workbench.errors import UserError

# peft asks transformers for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SETTINGS = [
    {"method": "rtn", "bits": 8, "group_size": None},
    {"method": "rtn", "bits": 4, "group_size": 32, "symmetric": True},
    {"method": "gptq", "bits": 3, "group_size": 32},
    {"method": "gptq", "bits": 2, "group_size": 16, "act_order": True},
    {"method": "nf4", "group_size": 64},
    {"method": "fp4", "group_size": 64, "double_quant": True},
]


def file_bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s['method']}{s.get('bits', 4)}")
def test_saved_model_reloads_bit_for_bit(kind, settings, tiny, windows, tokens, logits, tmp_path):
    model = tiny(kind)
    dense = logits(model, tokens)
    report = quantize_model(model, calibration=windows, **settings)
    assert [layer["name"] for layer in report.layers] and len(report.layers) == len(find_targets(tiny(kind)))
    answer = logits(model, tokens)
    assert 0 < float((answer - dense).norm() / dense.norm()) < 1
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, tokens), answer)
    one, two = model.state_dict(), again.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    again.save_pretrained(tmp_path / "second")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "second"), tokens), answer)
    assert report.bytes == stored_bytes(again) == pytest.approx(file_bytes(tmp_path), rel=0.08)  # header of a tiny file


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (lambda: WbIntConfig(bits=4, group_size=32), {"method": "rtn", "bits": 4, "group_size": 32}),
        (lambda: WbIntConfig(bits=3, group_size=None), {"method": "rtn", "bits": 3, "group_size": None}),
        (lambda: WbFloatConfig(kind="nf4", double_quant=True), {"method": "nf4", "double_quant": True}),
    ],
)
def test_rounding_while_loading_equals_rounding_afterwards(kind, config, settings, tiny, tokens, logits, tmp_path):
    model = tiny(kind)
    model.save_pretrained(tmp_path / "dense")
    loaded = type(model).from_pretrained(tmp_path / "dense", quantization_config=config())
    quantize_model(model, **settings)
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    loaded.save_pretrained(tmp_path / "packed")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "packed"), tokens), logits(model, tokens))


def test_dequantize_gives_the_dense_model_back(tiny, tokens, logits):
    for kind in ("llama", "gpt2"):
        model = tiny(kind)
        names = set(model.state_dict())
        quantize_model(model, bits=8, group_size=32)
        packed = logits(model, tokens)
        dense = model.dequantize()
        assert set(dense.state_dict()) == names and getattr(dense, "hf_quantizer", None) is None
        torch.testing.assert_close(logits(dense, tokens), packed, atol=1e-4, rtol=1e-4)


def test_size_on_disk_equals_the_formula_and_a_third_of_bf16(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
    )
    for method, bits, group, symmetric, expected in [
        ("rtn", 4, 128, False, integer_bits_per_weight(4, 128, False)),
        ("rtn", 3, 64, True, integer_bits_per_weight(3, 64, True)),
        ("rtn", 3, 64, False, integer_bits_per_weight(3, 64, False)),
        ("rtn", 2, 64, False, integer_bits_per_weight(2, 64, False)),
        ("nf4", 4, 64, False, float_bits_per_weight(64)),
    ]:
        model = LlamaForCausalLM(config)
        targets = find_targets(model)
        weights = sum(out * width for out, width in map(sizes, targets.values()))
        dense = sum(tensor.numel() * 4 for tensor in model.state_dict().values()) - 4 * weights
        report = quantize_model(model, method=method, bits=bits, group_size=group, symmetric=symmetric)
        folder = tmp_path / f"{method}{bits}{group}{symmetric}"
        model.save_pretrained(folder)
        packed = 8 * (file_bytes(folder) - dense - header(folder)) / weights
        assert packed == pytest.approx(expected, rel=0.01) == pytest.approx(report.bits_per_weight, rel=0.01)
        if (bits, group) == (4, 128):
            assert packed <= 0.30 * 16


def header(folder) -> int:
    return sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in folder.glob("*.safetensors"))


def test_head_and_tied_and_named_layers_stay_dense(tiny, tmp_path):
    model = tiny("qwen3")
    quantize_model(model, bits=4, group_size=32, skip=("lm_head", "o_proj", "model.layers.0.mlp"))
    dense = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    want = {"lm_head", *(f"model.layers.{i}.self_attn.o_proj" for i in (0, 1))}
    want |= {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert dense == want
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert set(stored["modules_to_not_convert"]) == dense and stored["quant_method"] == "wb_int"


def test_training_mode_and_report_survive(tiny, windows):
    model = tiny("llama").train()
    seen = []
    report = quantize_model(
        model, method="gptq", bits=4, group_size=32, calibration=windows, progress=lambda *now: seen.append(now)
    )
    assert model.training and all(module.training for module in model.modules())
    assert seen[-1][0] == seen[-1][1] == 2
    plain = json.loads(json.dumps(report.to_dict()))
    assert {"method", "bits", "bytes", "bits_per_weight", "layers", "seconds", "peak_bytes"} <= plain.keys()
    assert plain["peak_bytes"] > 10_000_000 and plain["seconds"] > 0


def test_registering_twice_is_harmless_and_costs_no_torch_import():
    import importlib
    import subprocess
    import sys

    from workbench.compress import registry

    importlib.reload(importlib.import_module("workbench.compress"))
    kept = registry.WbQuantizer
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    assert AUTO_QUANTIZER_MAPPING["wb_int"] is kept
    code = "import workbench.compress, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def refused(match: str, model, **settings) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=match):
        quantize_model(model, **settings)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) or before[k].isnan().any() for k in before)


def test_bad_arguments_are_refused_before_anything_changes(tiny, windows):
    model = tiny("llama")
    refused("did you mean gptq", model, method="gtpq")
    refused("5 bits are not offered", model, bits=5)
    refused("nf4 has 4 bits, not 3", model, method="nf4", bits=3)
    refused("nf4 scales blocks", model, method="nf4", group_size=None)
    refused(
        r"group_size 48 does not divide the 64 input features of model\.layers\.0\.self_attn\.q_proj",
        model,
        group_size=48,
    )
    refused("needs calibration text", model, method="gptq", group_size=32)
    refused(
        r"has 49 tokens, but model\.layers\.0\.mlp\.down_proj has 128 input features; give at least 128",
        model, method="gptq", group_size=32, calibration=windows[-1:],
    )  # fmt: skip
    refused("token ids of shape", model, method="gptq", group_size=32, calibration=[torch.zeros(2, 64).long()])
    refused("no linear layer left", model, skip=("proj",))


def test_damaged_weights_are_refused_by_name(tiny, tmp_path):
    for bad in (float("nan"), float("inf")):
        model = tiny("llama")
        model.model.layers[1].mlp.up_proj.weight.data[3, 5] = bad
        refused(r"model\.layers\.1\.mlp\.up_proj holds NaN or infinite", model, bits=4, group_size=32)


def test_a_quantized_model_is_refused(tiny):
    model = tiny("llama")
    quantize_model(model, bits=4, group_size=32)
    with pytest.raises(UserError, match=r"already quantized \(wb_int\); start from its unquantized weights"):
        quantize_model(model, bits=4, group_size=32)


def test_a_model_with_adapters_is_refused(tiny):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(UserError, match="carries adapters; merge them first"):
        quantize_model(model, bits=4, group_size=32)


def test_group_that_does_not_divide_is_refused_while_loading(tiny, tmp_path):
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"does not divide the 64 input features of model\.layers\.0\.self_attn\.q_proj"
    ):
        type(model).from_pretrained(tmp_path, quantization_config=WbIntConfig(bits=4, group_size=48))
    with pytest.raises(UserError, match="has no setting grop_size"):
        WbIntConfig(grop_size=4)
    with pytest.raises(UserError, match="choose 2, 3, 4 or 8"):
        WbIntConfig(bits=7)
