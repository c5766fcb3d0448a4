from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from workbench.compress import IntLinear, load_adapter, lora_config, merge_and_requantize, quantize_model
from workbench.compress.lora import PackedLoraLinear
from workbench.errors import UserError

# peft asks transformers for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

BASES = [
    {"method": "rtn", "bits": 4, "group_size": 32},
    {"method": "rtn", "bits": 3, "group_size": 32},
    {"method": "nf4"},
]
WITH_TEXT = [
    {"method": "gptq", "bits": 3, "group_size": 32},
    {"method": "awq", "bits": 4, "group_size": 32},  # on GPT-2 two layers of a block keep an input scale
    {"method": "int8-mixed"},
    {"method": "fp4", "double_quant": True},
]


def train(model, tokens, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("settings", [*BASES, *WITH_TEXT], ids=lambda s: f"{s['method']}{s.get('bits', 4)}")
def test_adapter_trains_saves_and_loads_on_packed_weights(kind, settings, tiny, tokens, windows, logits, tmp_path):
    base = tiny(kind)
    quantize_model(base, **settings, calibration=windows)
    plain = logits(base, tokens)
    codes = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = get_peft_model(base, lora_config(base, r=4, lora_dropout=0.1))
    assert torch.equal(logits(model.eval(), tokens), plain)  # starts as identity
    start = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    assert start and all("lora_" in name for name in start)
    train(model, tokens)
    assert all(not torch.equal(start[name], model.get_parameter(name)) for name in start)  # nothing is dead
    tuned = logits(model, tokens)
    assert not torch.allclose(tuned, plain)
    with model.disable_adapter():
        assert torch.equal(logits(model, tokens), plain)
    model.save_pretrained(tmp_path)
    fresh = tiny(kind)
    quantize_model(fresh, **settings, calibration=windows)
    assert all(torch.equal(codes[name], tensor) for name, tensor in fresh.state_dict().items())  # codes never moved
    assert torch.equal(logits(load_adapter(fresh, tmp_path).eval(), tokens), tuned)


def test_layer_equals_the_formula(tiny, tokens):
    base = tiny("llama")
    quantize_model(base, bits=4, group_size=32)
    model = train(get_peft_model(base, lora_config(base, r=4, lora_alpha=10)), tokens)
    layer = next(module for module in model.modules() if isinstance(module, PackedLoraLinear))
    x = torch.randn(70, 64)
    weight = layer.base_layer.dequantize() + 2.5 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), x @ weight.t(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.delta("default"), weight - layer.base_layer.dequantize())


def test_merging_is_refused_and_never_drops_the_adapter(tiny, tokens, logits):
    """peft's merge_and_unload on a layer that only looks dense writes into a temporary: the adapter vanishes."""
    for settings in BASES:
        base = tiny("llama")
        quantize_model(base, **settings)
        model = train(get_peft_model(base, lora_config(base, r=4)), tokens)
        tuned = logits(model, tokens)
        for merge in (model.merge_and_unload, model.merge_adapter):
            with pytest.raises(UserError, match="cannot be merged into packed weights without loss"):
                merge()
        assert torch.equal(logits(model, tokens), tuned)
        with pytest.raises(ValueError, match="not supported"):  # peft alone refuses too, rather than guess
            get_peft_model(tiny_packed(tiny, settings), LoraConfig(r=2, target_modules=["q_proj"]))


@pytest.mark.parametrize("settings", WITH_TEXT, ids=lambda s: s["method"])
def test_requantizing_keeps_what_a_format_has_besides_codes(settings, tiny, windows, tokens, logits):
    base = tiny("gpt2")
    quantize_model(base, **settings, calibration=windows)
    parts = {name: module.parts(module) for name, module in base.named_modules() if isinstance(module, IntLinear)}
    model = train(get_peft_model(base, lora_config(base, r=4)), tokens)
    tuned, plain = logits(model, tokens), logits(base, tokens)
    merged, rows = merge_and_requantize(model)
    assert parts == {n: m.parts(m) for n, m in merged.named_modules() if isinstance(m, IntLinear)} and len(rows) == 8
    if settings["method"] == "int8-mixed":
        assert float((logits(merged, tokens) - tuned).norm()) < 0.1 * float(tuned.norm())
        assert bool(torch.isfinite(plain).all())


def tiny_packed(tiny, settings):
    model = tiny("llama")
    quantize_model(model, **settings)
    return model


def test_merge_and_requantize_reports_what_survives(tiny, tokens, logits):
    kept = {}
    for bits in (8, 3):
        base = tiny("llama")
        quantize_model(base, bits=bits, group_size=32)
        plain = logits(base, tokens)
        model = train(get_peft_model(base, lora_config(base, r=4)), tokens, steps=5)
        tuned = logits(model, tokens)
        merged, rows = merge_and_requantize(model)
        assert not isinstance(merged, PeftModel)
        assert not any(isinstance(module, PackedLoraLinear) for module in merged.modules())
        assert {row["name"] for row in rows} >= {"model.layers.0.self_attn.q_proj"}
        kept[bits] = sum(row["noise"] for row in rows) / len(rows)
        if bits == 8:
            assert all(0.9 < row["kept"] < 1.1 for row in rows)
            after = logits(merged, tokens)
            assert float((after - tuned).norm()) < 0.3 * float((tuned - plain).norm())
    assert kept[8] < 0.2 * kept[3]


def test_dense_neighbours_merge_exactly(tiny, tokens, logits):
    base = tiny("llama")
    quantize_model(base, bits=8, group_size=32, skip=("lm_head", "o_proj"))
    config = lora_config(base, r=4, target_modules=["q_proj", "o_proj"])
    model = train(get_peft_model(base, config), tokens)
    dense = model.base_model.model.model.layers[0].self_attn.o_proj
    want = dense.base_layer.weight + dense.get_delta_weight("default")
    merged, rows = merge_and_requantize(model)
    torch.testing.assert_close(merged.model.layers[0].self_attn.o_proj.weight, want)
    assert {row["name"].rpartition(".")[2] for row in rows} == {"q_proj"}


def test_bad_input(tiny, tmp_path):
    dense = tiny("llama")
    with pytest.raises(UserError, match="has no packed layer; quantize it first"):
        lora_config(dense, r=4)
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        load_adapter(dense, tmp_path)
    with pytest.raises(UserError, match="no LoRA on packed layers"):
        merge_and_requantize(get_peft_model(dense, LoraConfig(r=2, target_modules=["q_proj"])))
    packed = tiny_packed(tiny, BASES[0])
    with pytest.raises(UserError, match="DoRA needs the norm of a dense weight"):
        get_peft_model(packed, lora_config(packed, use_dora=True))
