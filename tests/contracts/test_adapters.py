"""What every adapter of ours must do that peft's own do (and a little more), on six kinds of model (control: LoRA).

Methods are discovered from their METHOD literals; `tiny` there gives arguments that fit these models. Further keys, with
their defaults: `other` (a second setting; rank one lower), `starts` (0: as the base model; a number: that far from it at
most; None: elsewhere), `merges` (True), `mixes` (True: rows of a batch may use different adapters), `kinds` (all models),
`places` (False; True: the method finds its layers itself and takes no target_modules), `converts` (`merges`).
"""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, convert_to_lora, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from workbench import adapters

# peft 0.21 still uses the names of transformers 4
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing(_enable)?` is deprecated:FutureWarning")
adapters.register_all()
TINY = {"lora": {"r": 4}, **{method["name"]: method["tiny"] for method in adapters.methods()}}
METHODS = sorted(TINY)
FACTS = {"lora": {}, **{method["name"]: method for method in adapters.methods()}}


class SmallConv(nn.Module):
    """A convolution and two linear layers: a model that transformers never saw."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.first = nn.Linear(4 * 7 * 7, 16)
        self.second = nn.Linear(16, 12)

    def forward(self, pixels):
        return self.second(torch.relu(self.first(self.conv(pixels).flatten(1))))


def llama():
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=64, max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=32, bos_token_id=0, eos_token_id=1,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def vit():
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=8, num_labels=5,
        )
    )  # fmt: skip


def bert():
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=64,
            max_position_embeddings=32, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def t5():
    return T5ForConditionalGeneration(
        T5Config(
            d_model=32, d_ff=48, d_kv=16, num_layers=2, num_heads=2, vocab_size=64, dropout_rate=0.0,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


MODELS = {
    "llama": (llama, ["q_proj", "v_proj"]),
    "gpt2": (gpt2, ["c_attn"]),
    "vit": (vit, ["q_proj", "v_proj"]),
    "bert": (bert, ["query", "value"]),
    "t5": (t5, ["q", "v"]),
    "conv": (SmallConv, ["first", "second"]),
}


def base_model(kind, dtype=torch.float32):
    torch.manual_seed(0)
    return MODELS[kind][0]().to(dtype).eval()


def inputs(kind, rows=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    if kind in ("llama", "gpt2", "bert"):
        return {"input_ids": torch.randint(2, 64, (rows, 7), generator=generator)}
    if kind == "t5":
        return {
            name: torch.randint(2, 64, (rows, 6), generator=generator) for name in ("input_ids", "decoder_input_ids")
        }
    size, name = ((3, 16), "pixel_values") if kind == "vit" else ((1, 16), "pixels")
    return {name: torch.randn(rows, size[0], size[1], size[1], generator=generator).to(dtype)}


def config(method, kind, **settings):
    settings = {**TINY[method], "target_modules": MODELS[kind][1], **settings}
    if FACTS[method].get("places"):
        settings.pop("target_modules", None)
    if method == "lora" and kind == "gpt2":
        settings["fan_in_fan_out"] = True
    return PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()](**settings)


def other(method, kind, **settings):
    """A second setting of a method: another size, other targets."""
    changed = FACTS[method].get("other") or {"r": TINY[method]["r"] - 1}
    return config(method, kind, **{**changed, **settings})


def merges(method):
    return FACTS[method].get("merges", True)


def output(model, batch):
    with torch.no_grad():
        out = model(**batch)
    return out if isinstance(out, torch.Tensor) else out.logits.contiguous()


def train(model, batch, steps=3):
    """`steps` real optimizer steps towards a fixed random target, in training mode; leaves the model in eval mode."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    model.train()
    for _ in range(steps):
        out = model(**batch)
        out = out if isinstance(out, torch.Tensor) else out.logits
        target = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        optimizer.zero_grad()
        (out.float() - target).square().mean().backward()
        optimizer.step()
    return model.eval()


def tuned(method, kind, dtype=torch.float32, steps=3, **settings):
    model = get_peft_model(base_model(kind, dtype), config(method, kind, **settings))
    return train(model, inputs(kind, dtype=dtype), steps) if steps else model.eval()


def close(a, b, factor=1.0):
    torch.testing.assert_close(a, b, rtol=2e-4 * factor, atol=2e-5 * factor)


every = pytest.mark.parametrize("method", METHODS)
everywhere = pytest.mark.parametrize(
    ("method", "kind"), [(m, kind) for m in METHODS for kind in FACTS[m].get("kinds", MODELS)]
)
mergeable = pytest.mark.parametrize("method", [method for method in METHODS if merges(method)])


@everywhere
def test_starts_as_the_base_model(method, kind):
    batch, allowed = inputs(kind), FACTS[method].get("starts", 0.0)
    start, base = output(tuned(method, kind, steps=0), batch), output(base_model(kind), batch)
    assert start.shape == base.shape
    if allowed is None:
        assert not torch.equal(start, base)
    else:
        torch.testing.assert_close(start, base, rtol=0, atol=allowed)


@everywhere
def test_two_steps_move_every_trainable_tensor_and_nothing_else(method, kind):
    model = get_peft_model(base_model(kind), config(method, kind))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, inputs(kind), steps=2)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[method.upper()]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (prefix in name), name
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@everywhere
def test_trainable_count_equals_the_formula(method, kind):
    model = tuned(method, kind, steps=0)
    settings = model.peft_config["default"]
    layers = [m for m in model.modules() if hasattr(m, "base_layer")]
    assert layers
    count = getattr(settings, "trainable_per_module", lambda i, o: settings.r * (i + o))
    shared = getattr(settings, "trainable_shared", lambda: 0)()
    norms = [m for m in layers if "Norm" in type(m.get_base_layer()).__name__]
    expected = sum(count(m.in_features, m.out_features) for m in layers if hasattr(m, "in_features"))
    expected += sum(p.numel() for m in norms for p in m.get_base_layer().parameters()) + shared
    if hasattr(settings, "trainable_in"):
        expected = settings.trainable_in(base_model(kind))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@everywhere
def test_save_and_load_give_the_same_output(method, kind, tmp_path):
    model, batch = tuned(method, kind), inputs(kind)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(base_model(kind), tmp_path), batch), output(model, batch))
    lean = PeftModel.from_pretrained(base_model(kind), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(output(lean, batch), output(model, batch))


@everywhere
def test_merged_equals_unmerged_and_unmerging_restores(method, kind):
    if not merges(method):
        refuses_to_merge(tuned(method, kind), inputs(kind))
        return
    model, batch = tuned(method, kind), inputs(kind)
    base = {k: v.clone() for k, v in model.state_dict().items() if "base_layer.weight" in k}
    apart = output(model, batch)
    assert not torch.allclose(apart, output(base_model(kind), batch), atol=1e-3)
    model.merge_adapter()
    close(output(model, batch), apart)
    with pytest.warns(UserWarning, match="[Aa]lready"):
        model.merge_adapter()  # a second merge adds nothing
    close(output(model, batch), apart)
    model.unmerge_adapter()
    for key, weight in base.items():
        torch.testing.assert_close(model.state_dict()[key], weight, rtol=0, atol=1e-6)
    close(output(model.merge_and_unload(safe_merge=True), batch), apart)


def refuses_to_merge(model, batch):
    """Both ways to merge are refused with the reason, and nothing has changed."""
    before = output(model, batch)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    assert torch.equal(output(model, batch), before)


@every
def test_disabled_equals_the_base_model_also_when_merged(method):
    model, batch = tuned(method, "llama"), inputs("llama")
    base = output(base_model("llama"), batch)
    with model.disable_adapter():
        assert torch.equal(output(model, batch), base)
    if not merges(method):
        return
    model.merge_adapter()
    with model.disable_adapter():
        close(output(model, batch), base)


@every
def test_unloading_gives_the_base_model_back(method):
    expected = base_model("gpt2").state_dict()
    bare = tuned(method, "gpt2").unload().state_dict()
    assert bare.keys() == expected.keys()
    assert all(torch.equal(bare[key], expected[key]) for key in expected)


@mergeable
def test_a_broken_adapter_is_not_merged_safely(method):
    model = tuned(method, "llama")
    weights = {k: v.clone() for k, v in model.state_dict().items() if "base_layer.weight" in k}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems"):
        model.merge_adapter(safe_merge=True)
    assert all(torch.equal(model.state_dict()[key], weight) for key, weight in weights.items())


@every
def test_two_adapters_of_different_rank_live_side_by_side(method, tmp_path):
    batch = inputs("llama")
    model = tuned(method, "llama")
    one = output(model, batch)
    model.add_adapter("other", other(method, "llama", target_modules=["v_proj", "up_proj"]))
    assert torch.equal(output(model, batch), one)  # adding changes nothing
    model.set_adapter("other")
    train(model, batch)
    two = output(model, batch)
    model.set_adapter("default")
    close(output(model, batch), one)
    assert not torch.allclose(one, two, atol=1e-3)

    model.save_pretrained(tmp_path, selected_adapters=["other"])
    alone = PeftModel.from_pretrained(base_model("llama"), tmp_path / "other")
    close(output(alone, batch), two)

    model.base_model.set_adapter(["default", "other"])
    both = output(model, batch)
    assert not torch.allclose(both, one, atol=1e-3) and not torch.allclose(both, two, atol=1e-3)
    if not merges(method):
        return
    model.merge_adapter(["default", "other"])
    close(output(model, batch), both)


@every
def test_rows_of_one_batch_can_use_different_adapters(method):
    batch = inputs("llama", rows=4)
    model = tuned(method, "llama")
    model.add_adapter("other", other(method, "llama", target_modules=["v_proj"]))
    model.set_adapter("other")
    train(model, inputs("llama"))
    wanted = ["default", "__base__", "other", "default"]
    if not FACTS[method].get("mixes", True):  # a method may refuse; it may not ignore
        with pytest.raises(ValueError, match="adapter per row"):
            output(model, {**batch, "adapter_names": wanted})
        return
    mixed = output(model, {**batch, "adapter_names": wanted})
    with model.disable_adapter():
        close(mixed[1], output(model, batch)[1])
    for row, name in enumerate(wanted):
        if name != "__base__":
            model.set_adapter(name)
            close(mixed[row], output(model, batch)[row])
    with pytest.raises(ValueError, match="non-existing adapter"):
        output(model, {**batch, "adapter_names": ["default", "nobody", "other", "default"]})
    with pytest.raises(ValueError, match="training mode"):
        output(model.train(), {**batch, "adapter_names": wanted})
    with pytest.raises(ValueError, match="adapter_names"):
        output(model.eval(), {**batch, "adapter_names": wanted[:2]})
    if not merges(method):
        return
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged"):
        output(model, {**batch, "adapter_names": wanted})


@every
def test_deleting_active_inactive_and_unknown_adapters(method):
    batch, model = inputs("llama"), tuned(method, "llama")
    model.add_adapter("other", config(method, "llama"))
    one = output(model, batch)
    model.delete_adapter("other")
    assert torch.equal(output(model, batch), one)
    assert not any(".other" in key for key in model.state_dict())
    with pytest.raises(ValueError, match="nobody"):
        model.delete_adapter("nobody")
    model.add_adapter("other", config(method, "llama"))
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert list(model.peft_config) == ["other"]
    start = tuned(method, "llama", steps=0)
    if FACTS[method].get("starts", 0.0) == 0.0:
        close(output(model, batch), output(start, batch))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_bases_train_and_merge(method, dtype):
    batch = inputs("llama")
    model = tuned(method, "llama", dtype)
    assert output(model, batch).dtype == dtype
    apart = output(model, batch).float()
    assert torch.isfinite(apart).all()
    if not merges(method):
        return
    model.merge_adapter()
    # Merged weights are rounded once to 8 (11) bits; measured 0.0064 (0.0007) of the largest logit (LoRA 0.0053).
    bound = (0.02 if dtype == torch.bfloat16 else 0.0025) * apart.abs().max().item()
    torch.testing.assert_close(output(model, batch).float(), apart, rtol=0, atol=bound)


@every
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(method, reentrant):
    def gradients(checkpointing):
        model = tuned(method, "llama", steps=2).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        model(**inputs("llama")).logits.square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        close(checkpointed[name], gradient)


@every
def test_generation_works_with_ids_in_either_place_and_with_embeddings(method):
    model, ids = tuned(method, "llama"), inputs("llama")["input_ids"]
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    named = model.generate(input_ids=ids, **settings)
    assert torch.equal(model.generate(ids, **settings), named)
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **settings), named[:, ids.shape[1] :])
    step = [named[:, : ids.shape[1] + n] for n in range(4)]
    assert all(
        torch.equal(output(model, {"input_ids": seen})[:, -1].argmax(-1), named[:, seen.shape[1]]) for seen in step
    )


@every
def test_only_the_wanted_layers_are_adapted(method):
    if "layers_to_transform" not in PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()].__dataclass_fields__:
        return  # it has one place only
    model = tuned(method, "llama", steps=0, layers_to_transform=[1])
    adapted = {name for name, module in model.named_modules() if hasattr(module, "base_layer")}
    assert adapted and all(".layers.1." in name for name in adapted)
    if FACTS[method].get("places"):
        return
    with_all = tuned(method, "llama", steps=0, target_modules="all-linear")
    linear = [m for m in with_all.modules() if hasattr(m, "base_layer") and hasattr(m, "in_features")]
    assert len(linear) == 2 * 7


@every
def test_modules_to_save_are_trained_and_saved(method, tmp_path):
    kind = "vit" if "vit" in FACTS[method].get("kinds", MODELS) else "bert"
    model = tuned(method, kind, modules_to_save=["classifier"])
    assert not torch.equal(model.base_model.model.classifier.weight, base_model(kind).classifier.weight)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(kind), tmp_path)
    assert torch.equal(output(again, inputs(kind)), output(model, inputs(kind)))


@every
def test_state_after_training_survives_save_load_merge_and_unmerge(method, tmp_path):
    model, batch = tuned(method, "gpt2"), inputs("gpt2")
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model("gpt2"), tmp_path, is_trainable=True)
    if merges(method):
        again.merge_adapter()
        again.unmerge_adapter()
    train(again, batch, 1)
    close(output(again, batch), output(train(model, batch, 1), batch), factor=10)


@every
def test_adapter_names_may_hold_the_prefix(method, tmp_path):
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[method.upper()]
    with pytest.warns(UserWarning, match="prefix"):
        model = get_peft_model(base_model("llama"), config(method, "llama"), adapter_name=prefix)
    train(model, inputs("llama"))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model("llama"), tmp_path / prefix, adapter_name=prefix)
    assert torch.equal(output(again, inputs("llama")), output(model, inputs("llama")))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "lora"])
def test_a_method_with_a_delta_converts_to_lora(method):
    model, batch = tuned(method, "llama"), inputs("llama")
    if not model.supports_lora_conversion():
        with pytest.raises((TypeError, ValueError)):
            convert_to_lora(model, rank=2, progressbar=False)
        return
    settings, weights = convert_to_lora(model, rank=TINY[method]["r"], progressbar=False)
    lora = get_peft_model(base_model("llama"), settings)
    named = {key.replace(".weight", ".default.weight"): weight for key, weight in weights.items()}
    missing = lora.load_state_dict(named, strict=False)
    assert not missing.unexpected_keys
    assert isinstance(settings, LoraConfig)
    close(output(lora.eval(), batch), output(model, batch), factor=5)


@every
def test_copies_are_independent(method):
    model, batch = tuned(method, "llama"), inputs("llama")
    before = output(model, batch)
    train(copy.deepcopy(model), batch)
    assert torch.equal(output(model, batch), before)


@every
def test_config_survives_its_file(method, tmp_path):
    settings = config(method, "llama")
    settings.save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert again.to_dict() == settings.to_dict()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == method.upper()


@pytest.mark.parametrize("method", [method["name"] for method in adapters.methods()])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_quantized_base_can_be_adapted_saved_and_loaded_but_not_merged_into(method, kind, tmp_path):
    from workbench.compress import quantize_model

    def quantized():
        model = base_model(kind)
        quantize_model(model, method="rtn", bits=4, group_size=16)
        return model

    batch = inputs(kind)
    base = output(quantized(), batch)
    model = train(get_peft_model(quantized(), config(method, kind)), batch)
    apart = output(model, batch)
    assert not torch.allclose(apart, base, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(output(model, batch), base)
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_adapter()
    assert torch.equal(output(model, batch), apart)
    model.save_pretrained(tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(quantized(), tmp_path), batch), apart)


FRESH = """
import json, sys, torch
from safetensors.torch import load_file
from peft import PeftModel
import workbench.adapters
workbench.adapters.register_all()
sys.path.insert(0, sys.argv[1])
from transformers import LlamaForCausalLM
for name in json.loads(sys.argv[3]):
    folder = f"{sys.argv[2]}/{name}"
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(f"{sys.argv[2]}/base"), folder).eval()
    kept = load_file(f"{folder}/seen.safetensors")
    with torch.no_grad():
        assert torch.equal(model(kept["ids"]).logits, kept["logits"]), name
print("equal")
"""


def test_a_fresh_process_loads_every_adapter_to_the_same_output(tmp_path):
    from safetensors.torch import save_file

    base_model("llama").save_pretrained(tmp_path / "base")
    ids = inputs("llama")["input_ids"]
    for method in METHODS:
        model = tuned(method, "llama")
        model.save_pretrained(tmp_path / method)
        save_file({"ids": ids, "logits": output(model, {"input_ids": ids})}, tmp_path / method / "seen.safetensors")
    command = [sys.executable, "-c", FRESH, str(tmp_path), str(tmp_path), json.dumps(METHODS)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    assert done.stdout.strip() == "equal", done.stderr


def test_every_method_file_says_what_the_room_needs():
    for method in adapters.methods():
        assert set(method) >= {
            "name",
            "prefix",
            "config",
            "model",
            "layer",
            "paper",
            "family",
            "tiny",
            "help",
            "module",
        }
        fields = PEFT_TYPE_TO_CONFIG_MAPPING[method["name"].upper()].__dataclass_fields__
        inherited = PeftConfig.__dataclass_fields__
        silent = [name for name, f in fields.items() if name not in inherited and not f.metadata.get("help")]
        assert not silent, f"{method['config']} has arguments without help: {silent}"
