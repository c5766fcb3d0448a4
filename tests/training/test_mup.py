from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.errors import UserError
from workbench.training.mup import MupReadout, abc_regime, coord_check, mup_init_, mup_param_groups, width_multipliers


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), MupReadout(width, 10, base_d_in=64)
    )


def llama(width: int, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=width // 4, vocab_size=97, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def test_the_three_rows_of_the_paper():
    # Depth L = 3 hidden layers: (a_1, a_hidden, a_out), (b_1, …), c.
    standard = abc_regime([0, 0, 0, 0], [0, 0.5, 0.5, 0.5], 0)
    assert not standard["stable"]
    assert abc_regime([0, 0, 0, 0], [0, 0.5, 0.5, 0.5], 1) == {
        "stable": True, "nontrivial": True, "feature_learning": False, "r": 0.5,
    }  # fmt: skip
    ntk = abc_regime([0, 0.5, 0.5, 0.5], [0, 0, 0, 0], 0)
    assert ntk["stable"] and ntk["nontrivial"] and not ntk["feature_learning"] and ntk["r"] == pytest.approx(0.5)
    mup = abc_regime([-0.5, 0, 0, 0.5], [0.5, 0.5, 0.5, 0.5], 0)
    assert mup["feature_learning"] and mup["r"] == pytest.approx(0)


def test_regime_is_invariant_under_the_symmetry():
    for theta in (-0.7, 0.3):
        a = [x + theta for x in (-0.5, 0, 0, 0.5)]
        b = [x - theta for x in (0.5, 0.5, 0.5, 0.5)]
        assert abc_regime(a, b, -2 * theta)["feature_learning"]


def test_roles_of_a_llama():
    widths = width_multipliers(llama(64), llama(32))
    roles = {name.replace("model.layers.0.", "L."): width.role for name, width in widths.items()}
    assert roles["model.embed_tokens.weight"] == "input"
    assert roles["L.self_attn.q_proj.weight"] == roles["L.mlp.down_proj.weight"] == "matrix"
    assert roles["L.input_layernorm.weight"] == "input"
    assert roles["lm_head.weight"] == "output"


def test_at_base_width_nothing_changes_bit_for_bit():
    plain, turned = llama(32), llama(32)
    mup_init_(turned, llama(32))
    ids = torch.arange(12)[None]
    assert torch.equal(plain(ids).logits, turned(ids).logits)
    groups = mup_param_groups(turned, llama(32), 0.01, weight_decay=0.1)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.01, 0.1)]


def test_rates_and_initial_std_by_the_table():
    model, base = llama(128), llama(32)
    before = copy.deepcopy(model.state_dict())
    mup_init_(model, base)
    q = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(model.state_dict()[q], before[q] / 2)  # m = 4, std × 4^(−1/2)
    assert torch.equal(model.state_dict()["lm_head.weight"], before["lm_head.weight"])
    rate = {id(p): g["lr"] for g in mup_param_groups(model, base, 0.01) for p in g["params"]}
    named = dict(model.named_parameters())
    assert rate[id(named[q])] == pytest.approx(0.0025)
    assert rate[id(named["model.embed_tokens.weight"])] == rate[id(named["lm_head.weight"])] == 0.01
    sgd = {id(p): g["lr"] for g in mup_param_groups(model, base, 0.01, optimizer="sgd") for p in g["params"]}
    assert sgd[id(named[q])] == pytest.approx(0.01) and sgd[id(named["lm_head.weight"])] == pytest.approx(0.04)
    assert model.model.layers[0].self_attn.scaling == pytest.approx(8**0.5 / 32)


def test_decay_stays_independent_of_the_divided_rate():
    groups = mup_param_groups(llama(128), llama(32), 0.01, weight_decay=0.1)
    assert {round(g["lr"] * g["weight_decay"], 12) for g in groups} == {0.001}


@pytest.mark.parametrize("tied", [False, True])
def test_readout_divides_the_logits_and_survives_saving(tmp_path, tied):
    plain, turned = llama(64, tied), mup_init_(llama(64, tied), llama(32, tied))
    hidden = torch.randn(3, 64)
    assert torch.allclose(turned.lm_head(hidden) * 2, plain.lm_head(hidden), atol=1e-6)
    assert turned.state_dict().keys() == plain.state_dict().keys()


def train_loss(width: int, rate_log2: int, mup: bool, steps: int = 25, seed: int = 0) -> float:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(seed)
    model = mlp(width) if mup else nn.Sequential(*list(mlp(width))[:-1], nn.Linear(width, 10))
    rate = 2.0**rate_log2
    if mup:
        nn.init.zeros_(model[4].weight)
        base = mlp(64)
        optimizer = torch.optim.Adam(mup_param_groups(mup_init_(model, base), base, rate))
    else:
        optimizer = torch.optim.Adam(model.parameters(), rate)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        batch = order[(step * 128) % 1664 : (step * 128) % 1664 + 128]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x), y).item()


def test_best_rate_stands_still_under_mup_and_slides_without():
    rates = range(-10, -2)
    best = {
        (mup, width): min(rates, key=lambda r: train_loss(width, r, mup))
        for mup in (True, False)
        for width in (64, 512)
    }
    assert abs(best[True, 512] - best[True, 64]) <= 1
    assert best[False, 64] - best[False, 512] >= 1


def test_coordinate_check_is_flat_under_mup_and_rises_without():
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 10, (32,), generator=torch.Generator().manual_seed(1))

    def make(mup):
        def inner(width):
            if mup:
                model = mup_init_(mlp(width), mlp(64))
                return model, torch.optim.Adam(mup_param_groups(model, mlp(64), 0.01))
            model = nn.Sequential(*list(mlp(width))[:-1], nn.Linear(width, 10))
            return model, torch.optim.Adam(model.parameters(), 0.01)

        return inner

    def steepest(mup):
        rows = coord_check(make(mup), (64, 256, 1024), lambda m: nn.functional.cross_entropy(m(x), y), seeds=(0, 1))
        last = rows[rows["step"] == 2].groupby(["layer", "width"])["size"].mean().unstack()
        return max(abs(np.polyfit(np.log2(last.columns), np.log2(line), 1)[0]) for line in last.to_numpy())

    assert steepest(True) < 0.2
    assert steepest(False) > 0.4


def test_refusals():
    model = mup_init_(llama(64), llama(32))
    with pytest.raises(UserError, match="twice"):
        mup_init_(model, llama(32))
    with pytest.raises(UserError, match="exists in only one"):
        width_multipliers(mlp(64), nn.Linear(3, 3))
    with pytest.raises(UserError, match="above 0"):
        mup_param_groups(llama(64), llama(32), 0.0)
    with pytest.raises(UserError, match="same length"):
        abc_regime([0, 0], [0], 0)


def test_readout_and_hidden_biases_of_default_linears_start_at_the_bases_size():
    torch.manual_seed(0)
    model, base = mlp(1024), mlp(64)
    before = copy.deepcopy(model.state_dict())
    after = mup_init_(model, base).state_dict()
    for name in ("2.bias", "4.weight", "4.bias"):  # torch made them 4 = √16 times smaller than at the base
        assert torch.allclose(after[name], 4 * before[name])
    for name in ("0.weight", "0.bias", "2.weight"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("width", [64, 128])
def test_a_zero_readout_is_zero_at_every_width_the_base_included(width):
    model = mup_init_(mlp(width), mlp(64), zero_readout=True)
    assert not model[4].weight.any() and model[2].weight.any()
    language = mup_init_(llama(width), llama(64), zero_readout=True)
    assert not language.lm_head.weight.any()


def test_a_zero_readout_without_a_free_readout_is_refused_before_anything_changes():
    model = llama(64, tied=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="MupReadout"):
        mup_init_(model, llama(32, tied=True), zero_readout=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
