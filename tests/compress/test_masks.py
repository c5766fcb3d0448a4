from __future__ import annotations

import pytest
import torch

from workbench.compress.masks import (
    check_fits,
    check_nm,
    check_sparsity,
    keep,
    keep_highest,
    keep_pattern,
    masks_of,
    parse_pattern,
    sparsity_of,
)
from workbench.errors import UserError

SCORES = torch.tensor([[1.0, 8.0, 3.0, 4.0], [5.0, 6.0, 7.0, 2.0]])


def test_the_two_scopes_by_hand():
    assert keep_highest(SCORES, 0.5, "matrix").int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0]]  # 1, 2, 3, 4 go
    assert keep_highest(SCORES, 0.5, "row").int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]


def test_two_of_four_by_hand():
    assert keep_pattern(SCORES, 2, 4).int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    assert torch.equal(keep(SCORES, 0.9, "2:4"), keep_pattern(SCORES, 2, 4))  # the share has no say


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.6, 0.875, 0.99])
@pytest.mark.parametrize("ties", [False, True])
def test_counts_are_exact_also_among_equal_scores(sparsity, ties):
    scores = torch.ones(24, 40) if ties else torch.randn(24, 40).abs()
    assert int((~keep_highest(scores, sparsity, "matrix")).sum()) == round(sparsity * 960)
    assert set((~keep_highest(scores, sparsity, "row")).sum(1).tolist()) == {round(sparsity * 40)}


def test_the_kept_are_the_highest():
    scores = torch.randn(16, 32)
    mask = keep_highest(scores, 0.7, "matrix")
    assert scores[mask].min() > scores[~mask].max()
    groups, kept = scores.view(-1, 8), keep_pattern(scores, 4, 8).view(-1, 8)
    assert bool((kept.sum(1) == 4).all())
    assert bool((groups.masked_fill(~kept, 9).min(1).values > groups.masked_fill(kept, -9).max(1).values).all())


def test_pattern_check_counts_zeros_group_by_group():
    weight = torch.tensor([[0.0, 1, 0, 2, 0, 0, 0, 3]])
    assert check_nm(weight, 2, 4) and check_nm(weight, 4, 8)
    assert not check_nm(torch.tensor([[0.0, 0, 0, 0, 1, 1, 0, 1]]), 2, 4)
    assert not check_nm(weight[:, :6], 2, 4)


def test_bad_settings_are_refused_with_what_there_is():
    assert parse_pattern("unstructured") is None and parse_pattern("4:8") == (4, 8)
    for pattern, hint in (
        ("1:4", "choose one of: unstructured, 2:4, 4:8"),
        ("unstructred", "did you mean unstructured"),
    ):
        with pytest.raises(UserError, match=hint):
            parse_pattern(pattern)
    for wrong in (1.0, -0.1, float("nan"), True, "0.5"):
        with pytest.raises(UserError, match="from 0 to below 1"):
            check_sparsity(wrong)
    check_fits(64, "4:8")
    with pytest.raises(UserError, match=r"2:4 does not fit mlp.up: its 66 inputs are no multiple of 4"):
        check_fits(66, "2:4", "mlp.up")
    with pytest.raises(UserError, match="did you mean matrix"):
        keep_highest(SCORES, 0.5, "matix")


def test_masks_are_read_back_from_a_pruned_model(tiny):
    from workbench.compress.prune import prune_model

    for kind in ("llama", "gpt2"):
        model = tiny(kind)
        assert sparsity_of(model) == 0
        with pytest.raises(UserError, match="holds no zeros to keep"):
            masks_of(model)
        report = prune_model(model, method="magnitude", sparsity=0.6)
        found = masks_of(model)
        assert found.keys() == report.masks.keys()
        assert all(torch.equal(found[name], mask) for name, mask in report.masks.items())
        assert sparsity_of(model) == pytest.approx(0.6, abs=1e-4)
