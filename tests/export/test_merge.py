"""Adapters: merged exactly, or refused; never lost."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

from workbench.compress import lora_config, quantize_model
from workbench.errors import UserError
from workbench.export import export_model
from workbench.export.check import logits, relative
from workbench.export.merge import fold

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def train(model, text, steps=3):
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(text[0], labels=text[0]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("packing", [None, {"bits": 4, "group_size": 32}, {"method": "nf4"}], ids=str)
def test_merged_equals_unmerged(kind, packing, tiny, tokenizer, text, tmp_path):
    base = tiny(kind)
    if packing:
        quantize_model(base, **packing)
        config = lora_config(base, r=4)
    else:
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"] if kind == "llama" else ["c_attn", "c_fc"])
        config.fan_in_fan_out = kind == "gpt2"
    plain = logits(base, text)
    model = train(get_peft_model(base, config), text)
    before = logits(model, text)
    assert relative(before, plain) > 0.01  # the adapter does something
    report = export_model(model, tokenizer, tmp_path / "out", to="safetensors", text=text)
    assert report.check["layout"] < 1e-6 and report.check["rounding"] < 1e-4  # against the unmerged model
    assert "merged" in report.notes[0]


class Computed(nn.Linear):
    """A layer that looks dense, with a weight that is computed at every look: what is written to it is gone."""

    @property
    def weight(self):
        return self.codes.float() * 0.1

    @weight.setter
    def weight(self, value):
        self.codes = nn.Buffer((value.detach() / 0.1).round().to(torch.int8))


def test_an_adapter_that_merging_would_lose_is_refused(tiny, tokenizer, text, tmp_path):
    """peft's own merge_and_unload runs through on such a layer, and returns the base model without the adapter."""
    base = tiny("llama")
    for layer in base.model.layers:
        dense = layer.mlp.up_proj
        trap = Computed.__new__(Computed)
        nn.Module.__init__(trap)
        trap.in_features, trap.out_features, trap.bias = dense.in_features, dense.out_features, None
        trap.codes = nn.Buffer((dense.weight.detach() / 0.1).round().to(torch.int8))
        layer.mlp.up_proj = trap
    model = train(get_peft_model(base, LoraConfig(r=4, target_modules=["up_proj"])), text)
    with pytest.raises(UserError, match="adapter is lost"):
        export_model(model, tokenizer, tmp_path / "out", to="safetensors", text=text)
    assert list(tmp_path.iterdir()) == []


def test_codes_with_an_adapter_do_not_go_into_formats_of_codes(tiny, tokenizer, text, tmp_path):
    base = tiny("llama")
    quantize_model(base, bits=4, group_size=32)
    model = train(get_peft_model(base, lora_config(base, r=2)), text)
    with pytest.raises(UserError, match=r"gptq cannot hold this model: .* dense"):
        export_model(model, tokenizer, tmp_path / "out", to="gptq", text=text)


def test_prompts_are_refused(tiny, text):
    model = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UserError, match="prompt_tuning acts on the input"):
        fold(model, text, torch.zeros(1))
