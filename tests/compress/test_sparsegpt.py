from __future__ import annotations

import pytest
import torch

from workbench.compress.gptq import Hessian, factor
from workbench.compress.masks import check_nm, keep_highest
from workbench.compress.pruners import prune_magnitude
from workbench.compress.sparsegpt import prune_sparsegpt, solve
from workbench.compress.wanda import prune_wanda
from workbench.errors import UserError


def planted(width: int, rows: int = 6, seed: int = 0):
    """Weights and a Hessian of correlated inputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(3 * width, width, generator=generator, dtype=torch.float64) @ mix
    hessian = Hessian(width)
    hessian.add(x)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), hessian


def damped(hessian: Hessian):
    matrix = hessian.matrix()
    return matrix + 0.01 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def surgeon(weight, matrix, sparsity, group, scope="matrix"):
    """Optimal brain surgeon in column order: H is inverted anew for the columns that are left, whenever one is done."""
    weight, width = weight.clone(), weight.shape[1]
    mask = torch.ones_like(weight, dtype=torch.bool)
    cost = torch.stack([torch.linalg.inv(matrix[j:, j:])[0, 0] for j in range(width)])
    if group is None:
        mask = keep_highest(weight**2 / cost, sparsity, scope)
    for j in range(width):
        if group is not None and j % group[1] == 0:
            for row in range(len(weight)):
                scores = (weight[row, j : j + group[1]] ** 2 / cost[j : j + group[1]]).tolist()
                for gone in sorted(range(group[1]), key=lambda k: scores[k])[: group[0]]:
                    mask[row, j + gone] = False
        inverse = torch.linalg.inv(matrix[j:, j:])
        for row in range(len(weight)):
            if not mask[row, j]:
                weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[0]
    return weight.masked_fill(~mask, 0), mask


def loss(weight, found, hessian):
    change = weight - found
    return float(((change @ hessian.matrix()) * change).sum())


def test_two_columns_by_hand():
    hessian = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    upper, _ = factor(hessian, 0.0)
    # the first weight goes (0.01 · ¾ against 1); its neighbour takes 0.1 · ½ of its work
    found, mask = solve(torch.tensor([[0.1, 1.0]], dtype=torch.float64), upper, sparsity=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.05]], dtype=torch.float64))
    assert mask.tolist() == [[False, True]]


@pytest.mark.parametrize(("pattern", "group"), [("unstructured", None), ("2:4", (2, 4)), ("4:8", (4, 8))])
@pytest.mark.parametrize("scope", ["matrix", "row"])
def test_equals_the_optimal_brain_surgeon_in_column_order(pattern, group, scope):
    weight, hessian = planted(24)
    found = prune_sparsegpt(weight, hessian, sparsity=0.6, pattern=pattern, scope=scope)
    wanted, mask = surgeon(weight, damped(hessian), 0.6, group, scope)
    assert torch.equal(found.mask, mask)
    torch.testing.assert_close(found.weight, wanted)


def test_one_weight_gone_leaves_the_least_squares_solution():
    weight, hessian = planted(12, rows=1)
    weight[0, 0] = 1e-6  # so that it is the one that goes, before any other column
    found = prune_sparsegpt(weight, hessian, sparsity=1 / 12).weight
    matrix = damped(hessian)
    rest = torch.linalg.solve(matrix[1:, 1:], matrix[1:] @ weight[0])  # min (w − v) H (w − v)ᵀ with v_0 = 0
    torch.testing.assert_close(found[0, 1:], rest)


def test_blocks_change_the_mask_but_not_the_update():
    weight, hessian = planted(32)
    upper, _ = factor(hessian.matrix(), 0.01)
    whole, _ = solve(weight, upper, sparsity=0.5, pattern="2:4")
    blocks, _ = solve(weight, upper, sparsity=0.5, pattern="2:4", block=8)
    torch.testing.assert_close(blocks, whole)  # a pattern decides group by group: blocks are bookkeeping
    for block in (8, 24, 32):
        _, mask = solve(weight, upper, sparsity=0.55, block=block)
        assert int((~mask).sum()) == round(0.55 * weight.numel())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_loses_less_than_magnitude_and_wanda_where_inputs_share_a_few_directions(seed, pattern):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(400, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    hessian, weight = Hessian(64), torch.randn(32, 64, generator=generator)
    hessian.add(shared + 0.5 * torch.randn(400, 64, generator=generator))
    ours = loss(weight, prune_sparsegpt(weight, hessian, pattern=pattern).weight, hessian)
    for other in (prune_magnitude, prune_wanda):
        assert ours < 0.5 * loss(weight, other(weight, hessian, pattern=pattern).weight, hessian)


def test_white_inputs_make_it_magnitude():
    weight, hessian = torch.randn(8, 32, dtype=torch.float64), Hessian(32)
    hessian.add(torch.eye(32, dtype=torch.float64) * 32**0.5)
    for pattern in ("unstructured", "4:8"):
        found, plain = (f(weight, hessian, pattern=pattern) for f in (prune_sparsegpt, prune_magnitude))
        assert torch.equal(found.mask, plain.mask)
        torch.testing.assert_close(found.weight, plain.weight)


def test_dead_inputs_lose_their_weights_with_a_note():
    weight, hessian = torch.randn(4, 8), Hessian(8)
    x = torch.randn(60, 8)
    x[:, 3] = 0
    hessian.add(x)
    found = prune_sparsegpt(weight, hessian, sparsity=0.25, name="down_proj")
    assert not bool(found.weight[:, 3].any()) and bool(found.weight.isfinite().all())
    assert found.notes == ["down_proj: 1 of 8 inputs were always zero; their weights were set to 0."]


def test_hessians_that_are_not_positive_definite():
    weight, hessian = planted(16)
    lowest = torch.linalg.eigvalsh(hessian.matrix())[0]
    mean = hessian.matrix().diagonal().mean()
    hessian.total -= hessian.tokens * (lowest + 0.05 * mean) * torch.eye(16)
    found = prune_sparsegpt(weight, hessian, name="q_proj", pattern="2:4")
    assert found.notes == ["q_proj: damping raised from 0.01 to 0.1 to make the Hessian positive definite."]
    assert check_nm(found.weight, 2, 4)
    hopeless = planted(16)[1]
    hopeless.total -= 40 * hopeless.total.diagonal().mean() * (1 - torch.eye(16))
    with pytest.raises(UserError, match=r"q_proj is not positive definite even with damping 1.*method 'wanda'"):
        prune_sparsegpt(weight, hopeless, name="q_proj")
    with pytest.raises(UserError, match="sparsegpt needs calibration inputs for q_proj"):
        prune_sparsegpt(weight, None, name="q_proj")
