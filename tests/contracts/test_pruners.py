"""Every pruner, found by name: one that is added to PRUNERS is held to all of this without a new line."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from workbench.compress.gptq import Hessian
from workbench.compress.masks import PATTERNS, SCOPES, check_nm, masks_of, parse_pattern
from workbench.compress.prune import PRUNERS, prune_model
from workbench.compress.pruners import Pruned
from workbench.compress.targets import find_targets, matrix

pruners = pytest.mark.parametrize("method", list(PRUNERS))


def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=64,
            tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def windows():
    return [torch.randint(0, 64, (1, 64), generator=torch.Generator().manual_seed(i)) for i in range(4)]


def layer(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hessian = Hessian(32)
    hessian.add(torch.randn(96, 32, generator=generator) @ torch.randn(32, 32, generator=generator))
    return torch.randn(12, 32, generator=generator), hessian


@pruners
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_zeros_are_exact_in_number_and_place(method, pattern, scope):
    weight, hessian = layer()
    before = weight.clone()
    found = PRUNERS[method][0](weight, hessian, sparsity=0.6, pattern=pattern, scope=scope)
    assert isinstance(found, Pruned) and torch.equal(weight, before)
    assert found.mask.dtype == torch.bool and found.weight.dtype == weight.dtype
    assert not bool(found.weight[~found.mask].any()) and not bool(found.weight[~found.mask].signbit().any())
    assert bool(found.weight.isfinite().all())
    gone = (~found.mask).sum(1)
    if group := parse_pattern(pattern):
        assert bool(((~found.mask).view(-1, group[1]).sum(1) == group[0]).all())
        assert check_nm(found.weight, *group)
    elif scope == "row":
        assert set(gone.tolist()) == {round(0.6 * 32)}
    else:
        assert int(gone.sum()) == round(0.6 * 12 * 32)


@pruners
@pytest.mark.parametrize("sparsity", [0.0, 0.99])
def test_ends_of_the_range(method, sparsity):
    weight, hessian = layer()
    found = PRUNERS[method][0](weight, hessian, sparsity=sparsity, scope="matrix")
    assert int((~found.mask).sum()) == round(sparsity * weight.numel())
    if not sparsity:
        torch.testing.assert_close(found.weight, weight)


@pruners
def test_beats_chance_on_the_output_or_is_chance(method):
    losses = []
    for seed in range(4):
        weight, hessian = layer(seed)
        moments, pair = hessian.matrix(), []
        for name in (method, "random"):
            change = weight - PRUNERS[name][0](weight, hessian, sparsity=0.5, seed=seed).weight
            pair.append(float(((change @ moments) * change).sum()))
        losses.append(pair[0] / pair[1])
    assert sum(losses) / 4 == 1 if method == "random" else max(losses) < 0.9


@pruners
def test_a_model_is_pruned_saved_and_reloaded(method, tmp_path):
    dense, pruned = model(), model()
    report = prune_model(pruned, method=method, sparsity=0.75, pattern="unstructured", calibration=windows())
    names = list(find_targets(dense))
    assert sorted(row["name"] for row in report.layers) == sorted(names) == sorted(report.masks)
    assert report.sparsity == pytest.approx(0.75)
    pruned.save_pretrained(tmp_path)
    again = type(pruned).from_pretrained(tmp_path)
    assert all(torch.equal(mask, masks_of(again)[name]) for name, mask in report.masks.items())
    with torch.no_grad():
        assert torch.equal(again(windows()[0]).logits, pruned(windows()[0]).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert all(0 < row["error"] < 1.1 and row["of"] == "output" for row in report.layers)
    json.dumps(report.to_dict())


@pruners
def test_the_same_seed_prunes_the_same(method):
    found = []
    for _ in range(2):
        pruned = model()
        prune_model(pruned, method=method, pattern="2:4", calibration=windows(), seed=5)
        found.append([matrix(module) for module in find_targets(pruned).values()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pruners
def test_pruner_is_described(method):
    target, text = PRUNERS[method]
    assert text.endswith(".") and len(text) > 20
    assert inspect.getdoc(target).count("Args:") == 1 and "Source:" in inspect.getmodule(target).__doc__
    parameters = inspect.signature(target).parameters
    assert list(parameters) == ["weight", "hessian", "sparsity", "pattern", "scope", "seed", "name"]
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values())
