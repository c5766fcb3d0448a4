from __future__ import annotations

import pytest
import torch

from workbench.compress.gptq import Hessian
from workbench.compress.wanda import prune_wanda, wanda_scores
from workbench.errors import UserError


def collected(x):
    hessian = Hessian(x.shape[1])
    hessian.add(x)
    return hessian


def test_a_small_weight_on_a_loud_input_stays():
    weight = torch.tensor([[1.0, 0.2], [0.9, 0.3]])
    x = torch.tensor([[0.1, 3.0], [-0.1, 4.0]])  # norms 0.1 √2 and 5
    assert prune_wanda(weight, collected(x)).mask.tolist() == [[False, True], [False, True]]


def test_scores_equal_the_papers_formula_up_to_the_token_count():
    weight, x = torch.randn(6, 20, dtype=torch.float64), torch.randn(50, 20, dtype=torch.float64) * torch.arange(1, 21)
    wanted = torch.stack([row.abs() * torch.linalg.vector_norm(x, dim=0) for row in weight])
    scores = wanda_scores(weight, collected(x).matrix().diagonal())
    torch.testing.assert_close(scores * 50**0.5, wanted)
    for scope in ("row", "matrix"):
        mask = prune_wanda(weight, collected(x), sparsity=0.45, scope=scope).mask
        if scope == "row":
            order = wanted.argsort(1)
            assert not bool(mask.gather(1, order[:, :9]).any()) and bool(mask.gather(1, order[:, 9:]).all())
        else:
            assert wanted[mask].min() > wanted[~mask].max()


def test_equal_inputs_make_it_magnitude():
    weight = torch.randn(8, 16)
    mask = prune_wanda(weight, collected(torch.eye(16)), scope="matrix", sparsity=0.3).mask
    assert weight.abs()[mask].min() > weight.abs()[~mask].max()


def test_weights_that_stay_do_not_change():
    weight, hessian = torch.randn(8, 16), collected(torch.randn(40, 16))
    found = prune_wanda(weight, hessian, pattern="2:4")
    assert torch.equal(found.weight[found.mask], weight[found.mask])


def test_missing_or_damaged_inputs_are_refused():
    with pytest.raises(UserError, match="wanda needs calibration inputs for q_proj"):
        prune_wanda(torch.randn(2, 4), None, name="q_proj")
    with pytest.raises(UserError, match="inputs of q_proj hold NaN"):
        prune_wanda(torch.randn(2, 4), collected(torch.full((3, 4), float("inf"))), name="q_proj")
