from __future__ import annotations

import pytest
import torch

from workbench.compress.masks import check_nm, sparsity_of
from workbench.compress.perp import LowRank, add_biases, attach_lora, head_name, merge_lora, select_perp_params
from workbench.compress.prune import prune_model
from workbench.compress.targets import matrix
from workbench.errors import UserError


def pruned(tiny, kind="llama", **options):
    model = tiny(kind)
    return model, prune_model(model, method="magnitude", **({"sparsity": 0.7} | options)).masks


def steps(model, parameters, ids, count=5):
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(count):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def test_the_three_changes_by_hand():
    weight, keep = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[True, False], [False, True]])
    wanted = {"mask": [[5.0, 0], [0, 16.0]], "scale": [[2.0 * 1.5, 0], [0, 4.0 * 6]], "prune": [[5.0, 4], [6, 16.0]]}
    for kind, expected in wanted.items():
        change = LowRank(weight, keep, kind, rank=1, alpha=2)  # s = 2
        change.up.data, change.down.data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5, 2.0]])
        if kind == "scale":
            change.down.data = torch.tensor([[1.5, 3.0]])
        else:
            change.down.data = torch.tensor([[1.5, 2.0]]) if kind == "prune" else torch.tensor([[1.5, 3.0]])
        got = change(weight)
        if kind == "prune":
            expected = [[5.0, 4.0], [6.0, 12.0]]
        assert torch.equal(got, torch.tensor(expected))


@pytest.mark.parametrize("model_kind", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["mask", "scale", "prune"])
def test_starts_as_it_was_then_merges_with_the_zeros_in_place(model_kind, kind, tiny, tokens, logits):
    model, masks = pruned(tiny, model_kind)
    before = logits(model, tokens)
    model.requires_grad_(False)
    added = attach_lora(model, masks, kind, rank=4)
    torch.testing.assert_close(logits(model, tokens), before, rtol=0, atol=0)
    held = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    steps(model, added, tokens)
    assert all(torch.equal(p, held[name]) for name, p in model.named_parameters() if name in held)
    unmerged = logits(model, tokens)
    assert not torch.allclose(unmerged, before, atol=1e-3)
    assert sorted(merge_lora(model)) == sorted(masks)
    merged = logits(model, tokens)
    if kind == "prune":  # the mask fell on it only now: what was trained is not what is kept
        assert not torch.allclose(merged, unmerged, atol=1e-3)
    else:
        torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-6)
    for name, mask in masks.items():
        weight = matrix(model.get_submodule(name))
        assert torch.equal(weight != 0, mask)
        assert not bool(weight[~mask].signbit().any())
    assert merge_lora(model) == [] and torch.equal(logits(model, tokens), merged)


def test_a_merged_model_saves_and_reloads(tiny, tokens, logits, tmp_path):
    model, masks = pruned(tiny, pattern="2:4")
    names = set(model.state_dict())
    steps(model, attach_lora(model, masks, "mask", rank=2), tokens)
    merge_lora(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, tokens), logits(model, tokens))
    assert all(check_nm(matrix(again.get_submodule(name)), 2, 4) for name in masks)


def test_merged_weight_equals_the_formula_in_float64():
    weight = torch.randn(6, 10, dtype=torch.float64)
    keep = torch.rand(6, 10) > 0.5
    layer = torch.nn.Linear(10, 6, bias=False, dtype=torch.float64)
    for kind in ("mask", "prune", "scale"):
        layer.weight.data = weight * keep
        holder = torch.nn.ModuleDict({"one": layer})
        up, down = attach_lora(holder, {"one": keep}, kind, rank=3, alpha=6)
        torch.nn.init.normal_(up), torch.nn.init.normal_(down)
        product = sum(torch.outer(up[:, r], down[r]) for r in range(3)).detach()
        wanted = weight * keep * product if kind == "scale" else (weight + 2 * product) * keep
        merge_lora(holder)
        torch.testing.assert_close(layer.weight.detach(), wanted)


def test_scales_start_at_exactly_one_and_leave_rank_one_in_training():
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 8, bias=False)
    added = attach_lora(
        torch.nn.ModuleDict({"one": layer}), {"one": torch.ones(8, 12, dtype=torch.bool)}, "scale", rank=4
    )
    assert torch.equal(added[0] @ added[1], torch.ones(8, 12))
    wanted, x = torch.randn(8, 12), torch.eye(12)
    optimizer = torch.optim.Adam(added, lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        (layer(x).t() - wanted).square().sum().backward()
        optimizer.step()
    values = torch.linalg.svdvals((added[0] @ added[1]).detach())
    assert values[2] > 1e-2 * values[0]


def test_an_infinite_product_does_not_reach_a_pruned_weight():
    change = LowRank(torch.zeros(2, 2), torch.tensor([[True, False], [False, True]]), rank=1)
    change.up.data.fill_(1e30), change.down.data.fill_(1e30)
    assert change(torch.zeros(2, 2))[0, 1] == 0


def test_a_survivor_that_is_zero_still_trains():
    keep = torch.tensor([[True, False]])
    change = LowRank(torch.zeros(1, 2), keep, rank=1, alpha=1)
    change.up.data.fill_(1), change.down.data.fill_(3)
    assert torch.equal(change(torch.zeros(1, 2)), torch.tensor([[3.0, 0.0]]))


def test_selection_trains_vectors_only(tiny):
    model = tiny("gpt2")
    found = select_perp_params(model)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(names) == len(found) == 2 * 4 + 2 * (2 + 2) + 2  # four biases and two norms a block, a last norm
    assert all("ln_" in name or name.endswith(".bias") for name in names)
    assert len(select_perp_params(model, biases=False)) == 2 * 4 + 2
    assert len(select_perp_params(model, norms=False)) == 8
    llama = tiny("llama")
    assert select_perp_params(llama, norms=False) == [] and len(select_perp_params(llama)) == 2 * 2 + 1


def test_added_biases_change_nothing_until_trained_and_survive_a_reload(tiny, tokens, logits, tmp_path):
    model = tiny("llama")
    before = logits(model, tokens)
    assert add_biases(model) == 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64) and add_biases(model) == 0
    assert torch.equal(logits(model, tokens), before)
    steps(model, select_perp_params(model, norms=False), tokens)
    model.save_pretrained(tmp_path)
    after = logits(model, tokens)
    assert not torch.equal(after, before) and torch.equal(logits(type(model).from_pretrained(tmp_path), tokens), after)
    with pytest.raises(UserError, match="GPT2LMHeadModel has no biases to switch on"):
        add_biases(tiny("gpt2"))


def test_plain_lora_on_the_head_merges_and_a_tied_head_is_refused(tiny, tokens, logits):
    model = tiny("llama")
    with pytest.raises(UserError, match="tied to its embedding"):
        head_name(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    steps(model, attach_lora(model, {head_name(model): None}, rank=2), tokens)
    unmerged = logits(model, tokens)
    assert merge_lora(model) == ["lm_head"]
    torch.testing.assert_close(logits(model, tokens), unmerged, rtol=0, atol=1e-6)


def test_what_does_not_fit_is_refused(tiny):
    model, masks = pruned(tiny)
    with pytest.raises(UserError, match="did you mean mask"):
        attach_lora(model, masks, "masks")
    with pytest.raises(UserError, match="rank is 0"):
        attach_lora(model, masks, rank=0)
    name = next(iter(masks))
    with pytest.raises(UserError, match=r"is \(2, 2\), its weight \(64, 64\)"):
        attach_lora(model, {name: torch.ones(2, 2, dtype=torch.bool)})
    attach_lora(model, {name: masks[name]})
    with pytest.raises(UserError, match="carries a low-rank change already"):
        attach_lora(model, {name: masks[name]})
    from workbench.compress import quantize_model

    packed = tiny("llama")
    quantize_model(packed, method="rtn", bits=4, group_size=32)
    with pytest.raises(UserError, match="already quantized"):
        attach_lora(packed, masks)
    assert sparsity_of(model) == pytest.approx(0.7, abs=1e-3)
