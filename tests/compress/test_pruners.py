from __future__ import annotations

import pytest
import torch

from workbench.compress.pruners import prune_magnitude, prune_random


def test_magnitude_by_hand():
    weight = torch.tensor([[0.3, -0.1, 2.0, -0.5], [-0.2, 0.4, 1.0, -3.0]])
    found = prune_magnitude(weight, sparsity=0.5)
    assert torch.equal(found.weight, torch.tensor([[0, 0, 2.0, -0.5], [0, 0, 1.0, -3.0]]))
    found = prune_magnitude(weight, sparsity=0.25, scope="row")
    assert torch.equal(found.weight, torch.tensor([[0.3, 0, 2.0, -0.5], [0, 0.4, 1.0, -3.0]]))


def test_pruned_weights_are_positive_zero_and_the_rest_is_untouched():
    weight = -torch.rand(8, 16)
    found = prune_magnitude(weight, pattern="2:4")
    assert not bool(found.weight[~found.mask].signbit().any())
    assert torch.equal(found.weight[found.mask], weight[found.mask])


def test_chance_depends_on_seed_and_layer_alone():
    weight = torch.randn(32, 32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same = (prune_random(weight, seed=3, name="a").mask for _ in range(2))
    assert torch.equal(one, same) and torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, prune_random(weight, seed=4, name="a").mask)
    assert not torch.equal(one, prune_random(weight, seed=3, name="b").mask)
    kept = weight.abs()[one].mean() / weight.abs()[~one].mean()
    assert float(kept) == pytest.approx(1, abs=0.15)  # large and small weights go alike
