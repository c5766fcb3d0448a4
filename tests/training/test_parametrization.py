"""MiniCPM's parametrization: the table's rules, parity with transformers' Granite, the plain model at r = 1, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM

from workbench.errors import UserError
from workbench.training.parametrization import as_granite, minicpm_parametrization

IDS = torch.arange(24).view(2, 12) % 97


def llama(width=32, layers=2, tied=False):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=width // 8,
            num_key_value_heads=width // 16, vocab_size=97, tie_word_embeddings=tied, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_at_the_base_width_with_neutral_multipliers_it_is_the_plain_model_bit_for_bit():
    plain, changed = llama(layers=4), llama(layers=4)
    groups = minicpm_parametrization(changed, 32, scale_emb=1, scale_depth=2, init_std=0.02, lr=0.01)
    assert torch.equal(logits(changed), logits(plain))
    assert {group["lr"] for group in groups} == {0.01}
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), changed.parameters(), strict=True))


def test_the_rules_of_the_table_at_r_4():
    plain, changed = llama(64), llama(64)
    matrix, rest = minicpm_parametrization(changed, 16, init_std=0.1, lr=0.01)
    assert (matrix["lr"], rest["lr"]) == (0.0025, 0.01)
    layer, old = changed.model.layers[1], plain.model.layers[1]
    assert torch.allclose(layer.mlp.up_proj.weight, old.mlp.up_proj.weight * 5 / 2, rtol=1e-6)  # 0.1 / 0.02 / √4
    assert torch.allclose(changed.lm_head.weight, plain.lm_head.weight * 5, rtol=1e-6)
    assert torch.allclose(changed.model.embed_tokens.weight, plain.model.embed_tokens.weight * 5, rtol=1e-6)
    assert torch.equal(layer.input_layernorm.weight, torch.ones(64))
    ids = {id(p) for p in matrix["params"]}
    names = {name for name, p in changed.named_parameters() if id(p) in ids}
    assert names == {name for name, _ in changed.named_parameters() if "_proj" in name}
    assert len(ids) + len(rest["params"]) == len(list(changed.parameters()))


def reference(model, scale_emb, branch, r):
    """The forward pass written out again from a plain model with the same weights."""
    core = model.model
    x = core.embed_tokens(IDS) * scale_emb
    places = torch.arange(IDS.shape[1])[None]
    angles = core.rotary_emb(x, places)
    mask = torch.full((IDS.shape[1],) * 2, float("-inf")).triu(1)[None, None]
    for layer in core.layers:
        x = x + branch * layer.self_attn(layer.input_layernorm(x), position_embeddings=angles, attention_mask=mask)[0]
        x = x + branch * layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(core.norm(x)) / r


@pytest.mark.parametrize("tied", [False, True])
def test_forward_is_the_formula(tied):
    changed = llama(64, tied=tied)
    minicpm_parametrization(changed, 16)
    plain = llama(64, tied=tied)
    plain.load_state_dict(changed.state_dict())
    with torch.no_grad():
        expected = reference(plain, 12.0, 1.4 / 2**0.5, 4.0)
    assert torch.allclose(logits(changed), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(plain), expected, rtol=1e-2)


@pytest.mark.parametrize("tied", [False, True])
def test_granite_computes_the_same_and_survives_a_folder(tied, tmp_path):
    model = llama(64, tied=tied)
    minicpm_parametrization(model, 16)
    granite = as_granite(model)
    assert torch.allclose(logits(granite), logits(model), rtol=1e-5, atol=1e-6)
    granite.save_pretrained(tmp_path)
    again = GraniteForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(granite))


def test_a_zero_readout_gives_the_same_logits_at_every_width():
    narrow, wide = llama(32), llama(64)
    for model in (narrow, wide):
        minicpm_parametrization(model, 32)
        torch.nn.init.zeros_(model.lm_head.weight)
    assert torch.equal(logits(narrow), logits(wide))


def moved(width, parametrized):
    """How far three Adam steps on one batch move the logits."""
    model = llama(width)
    groups = minicpm_parametrization(model, 32) if parametrized else [{"params": list(model.parameters()), "lr": 0.01}]
    optimizer, before = torch.optim.AdamW(groups), logits(model)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (logits(model) - before).abs().mean().item()


def test_steps_move_the_logits_alike_at_every_width():
    # Measured from width 32 to 256: from 0.37 to 0.22 under the parametrization, from 0.23 to 2.5 under the plain model.
    assert 0.4 < moved(256, True) / moved(32, True) < 1.2
    assert moved(256, False) / moved(32, False) > 5


def test_a_copy_keeps_the_multipliers():
    model = llama(64)
    minicpm_parametrization(model, 16)
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def test_refusals():
    model = llama()
    with pytest.raises(UserError, match="d_base must be above 0"):
        minicpm_parametrization(model, 0)
    with pytest.raises(UserError, match="needs a model that"):
        as_granite(model)
    minicpm_parametrization(model, 16)
    with pytest.raises(UserError, match="already applied"):
        minicpm_parametrization(model, 16)
    other = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=9, bos_token_id=0, eos_token_id=1))
    with pytest.raises(UserError, match="GPT2LMHeadModel is not built like a Llama"):
        minicpm_parametrization(other, 16)
