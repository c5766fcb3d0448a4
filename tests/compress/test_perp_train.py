from __future__ import annotations

import copy

import pytest
import torch

from workbench.compress.masks import check_nm
from workbench.compress.perp_train import (
    PARTS,
    apply_masks,
    check_parts,
    factor_of_rate,
    prepare,
    reconstruct_blocks,
    retrain,
)
from workbench.compress.prune import prune_model
from workbench.compress.targets import find_targets, matrix
from workbench.errors import JobError, UserError

ROWS = torch.randint(0, 128, (12, 24), generator=torch.Generator().manual_seed(3))


def pruned(tiny, kind="llama", untie=False, **options):
    model = tiny(kind)
    if untie:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model, prune_model(model, method="magnitude", **({"sparsity": 0.6} | options)).masks


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "train", [("biases", "norms"), ("norms", "masklora"), ("loraprune",), ("scalelora",), ("full",)]
)
def test_learns_and_keeps_every_zero(kind, train, tiny):
    model, masks = pruned(tiny, kind, pattern="2:4")
    names = set(model.state_dict())
    report = retrain(model, masks, ROWS, train=train, steps=12, batch_size=6, learning_rate=0.01)
    assert sum(report.losses[-3:]) < sum(report.losses[:3])
    assert set(model.state_dict()) == names and not model.training
    assert all(p.requires_grad for p in model.parameters())
    for name, mask in masks.items():
        weight = matrix(model.get_submodule(name))
        assert not bool(weight[~mask].any()) and not bool(weight[~mask].signbit().any()) and check_nm(weight, 2, 4)
    assert 0 < report.trainable <= report.total


def test_only_what_was_asked_for_moves(tiny):
    for train, words in (
        (("biases",), ("bias",)),
        (("norms",), ("ln_",)),
        (("masklora",), ("c_attn", "c_proj", "c_fc")),
    ):
        model, masks = pruned(tiny, "gpt2")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        retrain(model, masks, ROWS, train=train, steps=2, learning_rate=0.01)
        moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
        assert moved and all(any(word in name for word in words) for name in moved)
    assert not any(name.endswith("bias") for name in moved)  # MaskLoRA changes matrices alone


def test_head_trains_by_plain_lora_and_a_tied_one_is_refused(tiny):
    model, masks = pruned(tiny, untie=True)
    embedding, head = model.model.embed_tokens.weight.detach().clone(), model.lm_head.weight.detach().clone()
    retrain(model, masks, ROWS, train=("head",), steps=3, learning_rate=0.01)
    assert torch.equal(model.model.embed_tokens.weight, embedding) and not torch.equal(model.lm_head.weight, head)
    tied, masks = pruned(tiny)
    with pytest.raises(UserError, match="tied to its embedding"):
        retrain(tied, masks, ROWS, train=("head", "norms"), steps=1)


def test_full_retraining_would_regrow_zeros_without_the_mask(tiny):
    model, masks = pruned(tiny)
    ids = ROWS[:4]
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0).step()
    name = next(iter(masks))
    assert bool(matrix(model.get_submodule(name))[~masks[name]].any())
    apply_masks(model, masks)
    assert not bool(matrix(model.get_submodule(name))[~masks[name]].any())


def test_the_same_seed_gives_the_same_model(tiny):
    found = []
    for seed in (0, 0, 1):
        model, masks = pruned(tiny)
        retrain(model, masks, ROWS, train=("masklora",), steps=3, learning_rate=0.01, seed=seed)
        found.append(model.state_dict()["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_rate_goes_up_and_down():
    shares = [factor_of_rate(step, 20) for step in range(20)]
    assert shares[:3] == [0.5, 1.0, 1.0] and shares[-1] == pytest.approx(1 / 18)
    assert factor_of_rate(0, 1) == 1


@pytest.mark.parametrize("kind", ["mask", "scale"])
@pytest.mark.parametrize("model_kind", ["llama", "gpt2"])
def test_reconstruction_brings_every_block_nearer_to_the_dense_one(kind, model_kind, tiny, windows):
    dense = tiny(model_kind)
    model = copy.deepcopy(dense)
    masks = prune_model(model, method="magnitude", sparsity=0.6).masks
    before = copy.deepcopy(model)
    same = [window for window in windows if window.shape[1] == 64]
    report = reconstruct_blocks(model, dense, masks, same, kind=kind, steps=20, batch_size=3, learning_rate=0.01)
    assert len(report.losses) == 2 and all(row["after"] < row["before"] for row in report.losses)
    with torch.no_grad():
        logits = [m(same[0]).logits for m in (dense, before, model)]
    assert (logits[2] - logits[0]).norm() < (logits[1] - logits[0]).norm()
    for name, mask in masks.items():
        assert not bool(matrix(model.get_submodule(name))[~mask].any())
    untouched = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before.state_dict()[name])}
    assert untouched == set(model.state_dict()) - {f"{name}.weight" for name in masks}


def test_targets_are_the_dense_block_on_the_pruned_prefix(tiny, windows):
    """`before` of the second block, by hand: both blocks on what the reconstructed first block gives."""
    dense = tiny("llama")
    model = copy.deepcopy(dense)
    masks = prune_model(model, method="magnitude", sparsity=0.6).masks
    report = reconstruct_blocks(model, dense, masks, windows[:2], steps=3)
    mixed, first = copy.deepcopy(dense), copy.deepcopy(model)
    mixed.model.layers[0] = model.model.layers[0]
    first.model.layers[1].load_state_dict(prune_again(dense).model.layers[1].state_dict())
    seen = []
    for one in (mixed, first):
        handle = one.model.layers[1].register_forward_hook(lambda *call: seen.append(call[2]))
        with torch.no_grad():
            one(torch.cat(windows[:2]))
        handle.remove()
    hidden = [out[0] if isinstance(out, tuple) else out for out in seen]
    assert report.losses[1]["before"] == pytest.approx(float((hidden[0] - hidden[1]).square().mean()), rel=1e-4)


def prune_again(dense):
    model = copy.deepcopy(dense)
    prune_model(model, method="magnitude", sparsity=0.6)
    return model


@pytest.mark.parametrize(
    ("train", "match"),
    [
        ((), "name some of: biases, norms"),
        (("masklorra",), "did you mean masklora"),
        (("masklora", "scalelora"), "choose one of them"),
        (("full", "norms"), "name it alone"),
    ],
)
def test_contradictory_choices_are_refused(train, match):
    with pytest.raises(UserError, match=match):
        check_parts(train)


def test_every_part_is_accepted_alone():
    assert [check_parts((part,)) for part in PARTS] == [[part] for part in PARTS]


def test_what_does_not_fit_the_model_is_refused(tiny, windows):
    model, masks = pruned(tiny)
    with pytest.raises(UserError, match="LlamaForCausalLM has no biases to retrain; add norms or masklora"):
        prepare(model, masks, ("biases",), 4, 8, 0)
    with pytest.raises(UserError, match="belong to another model"):
        retrain(tiny("gpt2"), masks, ROWS, steps=1)
    with pytest.raises(UserError, match="rows of 1 or more, not 1, 4, 0"):
        retrain(model, masks, ROWS[:0], steps=1)
    with pytest.raises(UserError, match=r"one length, not \[49, 64\]"):
        reconstruct_blocks(model, tiny("llama"), masks, windows)


def test_a_diverging_run_stops_with_its_zeros_in_place(tiny):
    model, masks = pruned(tiny)
    with pytest.raises(JobError, match="lower learning rate"):
        retrain(model, masks, ROWS, train=("norms", "masklora"), steps=6, learning_rate=1e30)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    name = next(iter(find_targets(model)))
    assert not bool(matrix(model.get_submodule(name))[~masks[name]].any())
