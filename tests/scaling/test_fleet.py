"""The stacked decoder against transformers' Llama and torch's AdamW in float64, and what stacking must not change."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.scaling.fleet import FINAL_RATE, Fleet, non_embedding, schedule

V, T = 32, 12


def windows(rows=3, seed=0):
    return torch.randint(0, V, (rows, T + 1), generator=torch.Generator().manual_seed(seed))


def llama(fleet, copy):
    """transformers' decoder with the weights of one copy."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=V, max_position_embeddings=T, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double()
    own = {name: value[copy].detach() for name, value in fleet.weights().items()}
    names = {"model.embed_tokens.weight": own["embedding"], "model.norm.weight": own["norm"]}
    for i in range(2):
        q, k, v = own[f"{i}.qkv"].T.chunk(3)
        gate, up = own[f"{i}.gate_up"].T.chunk(2)
        parts = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v, "self_attn.o_proj": own[f"{i}.out"].T,
                 "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": own[f"{i}.down"].T,
                 "input_layernorm": own[f"{i}.norm1"], "post_attention_layernorm": own[f"{i}.norm2"]}  # fmt: skip
        names |= {f"model.layers.{i}.{part}.weight": value for part, value in parts.items()}
    left = model.load_state_dict(names, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}
    return model.eval()


def test_logits_are_those_of_the_transformers_llama():
    fleet = Fleet(2, 32, 2, V, seed=1, dtype=torch.float64)
    with torch.no_grad():
        fleet.flat.add_(0.1 * torch.randn(fleet.flat.shape, generator=torch.Generator().manual_seed(2)))
        ids = windows()[:, :-1]
        got = fleet.logits(ids)
        for copy in range(2):
            torch.testing.assert_close(got[copy], llama(fleet, copy)(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


def test_n_counts_everything_but_the_embedding():
    fleet = Fleet(1, 32, 2, V)
    assert non_embedding(32, 2) == fleet.flat.shape[1] - 32 * V == 2 * (4 * 32 * 32 + 3 * 32 * 80 + 64) + 32


def test_steps_are_those_of_adamw_with_its_own_rate_for_each_copy():
    rates = torch.tensor([[1e-3], [2e-2]], dtype=torch.float64)
    fleet = Fleet(2, 32, 2, V, seed=3, dtype=torch.float64)
    references = [llama(fleet, copy) for copy in range(2)]
    for step in range(4):
        fleet.step(windows(seed=step), rates)
    for copy, model in enumerate(references):
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=float(rates[copy, 0]), betas=(0.9, 0.95), eps=1e-8)
        for step in range(4):
            batch = windows(seed=step)
            optimizer.zero_grad()
            cross_entropy(model(input_ids=batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        after = fleet.weights()
        torch.testing.assert_close(model.model.embed_tokens.weight, after["embedding"][copy], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            model.model.layers[1].mlp.down_proj.weight, after["1.down"][copy].T, rtol=1e-5, atol=1e-7
        )


def test_a_copy_does_not_feel_its_neighbours():
    alone, crowd = Fleet(1, 32, 2, V), Fleet(3, 32, 2, V)
    for step in range(3):
        alone.step(windows(seed=step), torch.tensor([[3e-3]]))
        crowd.step(windows(seed=step), torch.tensor([[1.0], [3e-3], [1e-4]]))
    torch.testing.assert_close(crowd.flat[1], alone.flat[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(crowd.flat[0], crowd.flat[2], atol=1e-2)


def test_loss_starts_at_guessing_and_falls():
    fleet = Fleet(1, 32, 2, V)
    batch = windows(rows=4)
    assert fleet.losses(batch).item() == pytest.approx(math.log(V), abs=0.7)
    for _ in range(30):
        fleet.step(batch, torch.tensor([[1e-2]]))
    assert fleet.losses(batch).item() < 1.0


def test_rates_warm_up_together_and_end_at_one_fixed_floor():
    peaks = torch.tensor([[1e-3], [1e-1]], dtype=torch.float64)
    rates = torch.cat([schedule(step, 100, peaks) for step in range(100)], dim=1)  # (2, 100)
    assert rates[:, 0].tolist() == pytest.approx([2e-4, 2e-2])
    assert rates[:, 4].tolist() == pytest.approx([1e-3, 1e-1])
    assert (rates[:, 4:].diff() <= 0).all()
    assert rates[0, -1].item() == pytest.approx(FINAL_RATE, rel=0.3)
    assert (rates[:, -1] < 2e-2 * peaks[:, 0]).all()
