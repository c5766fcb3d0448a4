"""Growth operators: layers from the right place, functions that are kept, copies that are copies, and numbers of the paper."""

from __future__ import annotations

import copy

import pytest
import torch

from workbench.errors import UserError
from workbench.models import load_model
from workbench.models.growth import blocks_of, deepen, grow, widen
from workbench.models.growth_plan import OPERATORS, growth_tokens, origins

TOKENS = torch.arange(40).remainder(37).view(2, 20)
KEEP = ("zero", "width", "mlp")


def build(kind: str):
    """A model of two layers with random weights, in float64."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )  # fmt: skip

    torch.manual_seed(0)
    size = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 37,
    }
    made = (
        {
            "llama": lambda: LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=2, tie_word_embeddings=False)),
            "tied": lambda: LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=4, tie_word_embeddings=True)),
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**size, num_key_value_heads=2)),
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**size, num_key_value_heads=2, head_dim=8)),
            "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=37, n_positions=64)),
            "bert": lambda: BertForMaskedLM(BertConfig(**size)),
            "t5": lambda: T5ForConditionalGeneration(
                T5Config(d_model=16, d_kv=4, num_layers=2, num_heads=4, vocab_size=37)
            ),
        }[kind]()
        .double()
        .eval()
    )
    with torch.no_grad():  # norms and biases begin at 1 and 0, which hides mistakes
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens).logits


def test_origins_by_hand():
    assert origins("stack", 3, 2) == [0, 1, 2, 0, 1, 2] == origins("zero", 3, 2)
    assert origins("split", 3, 2) == [0, 0, 1, 1, 2, 2]
    assert origins("width", 3, 4) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("operator", KEEP)
@pytest.mark.parametrize("factor", [2, 3])
def test_the_function_is_kept(kind, operator, factor):
    small = build(kind)
    before = logits(small)
    grown = grow(small, operator, factor)
    assert sum(p.numel() for p in grown.parameters()) > 1.2 * sum(p.numel() for p in small.parameters())
    torch.testing.assert_close(logits(grown), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(small), before)  # the small one stays


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_stacking_is_running_the_layers_again(kind):
    small = build(kind)
    calls = []

    def note(layer, args, out):
        calls.append(layer)

    grown = grow(small, "stack", 2)
    layers = blocks_of(grown)[1]
    for layer in layers:
        layer.register_forward_hook(note)
    logits(grown)
    assert calls == list(layers) and len(calls) == 4 == grown.config.get_text_config().num_hidden_layers
    for place, origin in enumerate((0, 1, 0, 1)):
        ours, theirs = layers[place].state_dict(), blocks_of(small)[1][origin].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # the same by hand: the small model's layers, called twice each in that order
    twice = copy.deepcopy(small)
    own = blocks_of(twice)[1]
    own.extend([own[0], own[1]])
    twice.config.num_hidden_layers = 4
    with torch.no_grad():
        expected = twice(TOKENS, **({} if kind == "bert" else {"use_cache": False})).logits
    torch.testing.assert_close(logits(grown), expected)


def test_copies_are_no_aliases():
    grown = grow(build("llama"), "stack", 2)
    pointers = [p.data_ptr() for p in grown.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_layers_find_their_own_cache():
    grown = grow(build("llama"), "split", 2)
    assert [layer.self_attn.layer_idx for layer in blocks_of(grown)[1]] == [0, 1, 2, 3]
    whole = logits(grown)
    with torch.no_grad():
        first = grown(TOKENS[:, :12], use_cache=True)
        rest = grown(TOKENS[:, 12:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 12:])


@pytest.mark.parametrize("operator", OPERATORS)
def test_saved_and_loaded_it_says_the_same(operator, tmp_path):
    grown = grow(load_model("tiny-lm"), operator, 2, noise=0.01)
    grown.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    torch.testing.assert_close(logits(again), logits(grown), atol=1e-4, rtol=1e-4)
    assert again.config.tie_word_embeddings == grown.config.tie_word_embeddings


def test_zero_grows_into_use():
    """The new layers start silent and are not dead: two steps move them."""
    torch.manual_seed(0)
    grown = grow(load_model("tiny-lm"), "zero", 2).train()
    layers = blocks_of(grown)[1]
    start = [{name: p.detach().clone() for name, p in layer.named_parameters()} for layer in layers[len(layers) // 2 :]]
    step = torch.optim.AdamW(grown.parameters(), 1e-3)
    for _ in range(2):
        step.zero_grad()
        grown(TOKENS, labels=TOKENS).loss.backward()
        step.step()
    for layer, was in zip(layers[len(layers) // 2 :], start, strict=True):
        for name, parameter in layer.named_parameters():
            assert not torch.equal(parameter, was[name]), name


def test_noise_moves_copies_apart_and_only_them():
    small = build("llama")
    exact, moved = (grow(small, "width", 2, noise=noise) for noise in (0.0, 0.1))
    first, second = (m.model.layers[0].mlp.up_proj.weight.detach() for m in (exact, moved))
    out, inside = small.model.layers[0].mlp.up_proj.weight.shape
    assert torch.equal(first[:out, :inside], second[:out, :inside])
    assert torch.equal(first[out:, :inside], first[:out, :inside])
    spread = float((second - first)[out:].std() / first.std())
    assert 0.08 < spread < 0.12
    again, other = (grow(small, "width", 2, noise=0.1, seed=seed).state_dict() for seed in (0, 1))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(second, again[name]) and not torch.equal(second, other[name])


def test_exact_copies_stay_copies_when_trained():
    """Why `noise` exists: equal units get equal gradients."""

    def after(noise):
        grown = grow(build("llama"), "mlp", 2, noise=noise).train()
        step = torch.optim.AdamW(grown.parameters(), 1e-2)
        for _ in range(5):
            step.zero_grad()
            grown(TOKENS, labels=TOKENS).loss.backward()
            step.step()
        weight = grown.model.layers[0].mlp.up_proj.weight.detach()
        return float((weight[:40] - weight[40:]).abs().max())

    assert after(0.0) < 1e-9 < 1e-3 < after(0.1)


def test_the_papers_table_of_growth_times():
    """Tokens before growth for four published runs (table in §5), from N and D alone."""
    for parameters, tokens, billions in (
        (8e9, 15e12, 6.58),
        (7e9, 2e12, 11.11),
        (13e9, 2e12, 15.84),
        (70e9, 2e12, 42.48),
    ):
        assert growth_tokens(parameters, 6 * parameters * tokens) / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize(("kind", "call", "words"), [
    ("llama", lambda m: grow(m, "stak"), "did you mean stack"),
    ("llama", lambda m: grow(m, "stack", 1), "factor is 1"),
    ("llama", lambda m: grow(m, "stack", 2.0), "factor is 2.0"),
    ("llama", lambda m: grow(m, "width", noise=2), "noise is 2"),
    ("llama", lambda m: deepen(m, [0, 2]), "layers from 0 to 1"),
    ("llama", lambda m: deepen(m, []), "layers from 0 to 1"),
    ("gpt2", lambda m: grow(m, "mlp"), "no intermediate_size"),
    ("t5", lambda m: grow(m, "stack"), "an encoder and a decoder"),
    ("gpt2", widen, "use the operator stack"),
    ("bert", lambda m: grow(m, "zero"), "New silent layers in BertForMaskedLM would change"),  # its norms come after the sum
])  # fmt: skip
def test_what_cannot_be_grown_is_said(kind, call, words):
    with pytest.raises(UserError, match=words):
        call(build(kind))


@pytest.mark.parametrize(("parameters", "flop"), [(0, 1e20), (7e9, 5)])
def test_growth_time_needs_real_numbers(parameters, flop):
    with pytest.raises(UserError, match="FLOP"):
        growth_tokens(parameters, flop)
