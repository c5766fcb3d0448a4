"""Every quantization method, found by name: one that is added to METHODS is held to all of this without a new line."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from workbench.compress import METHODS, quantize_model
from workbench.compress.linear import PackedLinear
from workbench.compress.quantizers import usual_bits, widths
from workbench.compress.targets import find_targets


def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=64,
            tie_word_embeddings=True,
        )
    ).eval()


def hidden(network, ids):
    """What the blocks put out, without the embedding that passes by them: weights alone say nothing where scales move
    from one layer to the one before."""
    states = network(ids, output_hidden_states=True).hidden_states
    return states[-2] - states[0]


def windows():
    return [torch.randint(0, 64, (1, 64), generator=torch.Generator().manual_seed(i)) for i in range(4)]


CASES = [(name, bits) for name in METHODS for bits in widths(name)]


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_method_packs_saves_and_reloads(method, bits, tmp_path):
    dense, packed = model(), model()
    ids = windows()[0]
    with torch.no_grad():
        wanted = hidden(dense, ids)
    report = quantize_model(packed, method=method, bits=bits, group_size=32, calibration=windows())
    names = list(find_targets(dense))
    assert sorted(layer["name"] for layer in report.layers) == sorted(names)
    assert all(isinstance(packed.get_submodule(name), PackedLinear) for name in names)
    with torch.no_grad():
        error = float((hidden(packed, ids) - wanted).norm() / wanted.norm())
        answer = packed(ids).logits
        packed.save_pretrained(tmp_path)
        assert torch.equal(type(packed).from_pretrained(tmp_path)(ids).logits, answer)
    assert report.bytes < 0.6 * sum(p.numel() * 4 for p in dense.parameters())
    json.dumps(report.to_dict())
    assert 0 < error < {2: 1.0, 3: 0.5, 4: 0.25, 8: 0.02}[bits]


@pytest.mark.parametrize("method", list(METHODS))
def test_method_is_deterministic(method):
    found = []
    for _ in range(2):
        packed = model()
        quantize_model(packed, method=method, bits=usual_bits(method), group_size=32, calibration=windows())
        found.append(packed.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("method", list(METHODS))
def test_method_is_described(method):
    target, text = METHODS[method]
    assert text.endswith(".") and len(text) > 20
    assert inspect.getdoc(target).count("Args:") == 1
    assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(target).parameters.values())
