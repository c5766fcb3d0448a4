"""Training in a random flat: the toy problem that must hold exactly, counts, state, files, refusals."""

import copy

import pytest
import torch
from torch import nn

from workbench.adapters._subspace import KINDS
from workbench.adapters._subspace_module import RandomSubspace
from workbench.errors import UserError


class Groups(nn.Module):
    """1000 parameters in 10 groups; loss Σ_j (sum of group j − j)²: ten independent conditions."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 100, dtype=torch.float64))

    def forward(self):
        return (self.weight.sum(1) - torch.arange(1.0, 11.0, dtype=torch.float64)).square().sum()


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's, a batch norm, and a free head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.norm, self.out, self.head = (
            nn.Embedding(6, 4),
            nn.BatchNorm1d(4),
            nn.Linear(4, 6, bias=False),
            nn.Linear(6, 2),
        )
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.out(self.norm(self.embed(ids))))


@pytest.mark.parametrize("kind", KINDS)
def test_toy_problem_is_solved_from_ten_dimensions_on_and_never_in_nine(kind):
    for d, solved in ((9, False), (10, True), (14, True)):
        small = RandomSubspace(Groups(), d, kind, seed=3)
        conditions = small.projection.matrix().view(10, 100, d).sum(1)  # the sums move by this times z
        target = torch.arange(1.0, 11.0, dtype=torch.float64)
        with torch.no_grad():
            small.z.copy_(torch.linalg.lstsq(conditions, target[:, None], driver="gelsd").solution[:, 0])
        assert (small().item() < 1e-6) == solved


def test_toy_problem_is_learned_by_an_optimizer():
    small = RandomSubspace(Groups(), 20, "dense", seed=0)
    optimizer = torch.optim.LBFGS(small.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = small()
        value.backward()
        return value

    optimizer.step(loss)
    assert small().item() < 1e-6


@pytest.mark.parametrize("structure", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_the_network_trains_exactly_d_numbers_and_leaves_the_network_alone(kind, structure):
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), torch.randn(9, 5)
    expected, before = model(x).detach(), copy.deepcopy(model.state_dict())
    small = RandomSubspace(model, 11, kind, structure=structure)
    assert torch.equal(small(x), expected)
    assert sum(p.numel() for p in small.parameters()) == 11
    assert small.z.numel() == (7 if structure else 11)
    optimizer = torch.optim.Adam(small.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        small(x).square().sum().backward()
        optimizer.step()
    assert all(p.abs().min() > 0 for p in (small.z,))
    assert not torch.allclose(small(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if structure:
        assert (small.scales != 1).all()


def test_structure_with_untouched_scales_is_the_same_network():
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), torch.randn(9, 5)
    did, said = (
        RandomSubspace(model, 6, "layerwise_fastfood"),
        RandomSubspace(model, 10, "layerwise_fastfood", structure=True),
    )
    with torch.no_grad():
        did.z.copy_(torch.randn(6))
        said.z.copy_(did.z)
    assert torch.equal(did(x), said(x))


def test_materialized_state_is_an_ordinary_network_with_ties_and_buffers():
    model, ids = Tied(), torch.tensor([0, 3, 5, 1])
    small = RandomSubspace(model, 12, seed=2, free="^head").train()
    with torch.no_grad():
        small.z.copy_(torch.randn(12))
        small.free[0].add_(1)
    small(ids)  # batch norm counts it
    small.eval()
    plain = Tied().eval()
    plain.load_state_dict(small.materialize())
    torch.testing.assert_close(plain(ids), small(ids))
    assert torch.equal(plain.embed.weight, plain.out.weight)
    assert plain.norm.num_batches_tracked == 1
    assert len(small.projection.sizes) == 3  # the tied weight once, norm weight and bias; the head is free


def test_bytes_bring_the_solution_back_and_only_on_the_same_start():
    small = RandomSubspace(Tied(), 9, free="^head", seed=5)
    with torch.no_grad():
        small.z.copy_(torch.randn(9))
    data = small.to_bytes()
    assert len(data) < 1000
    again = RandomSubspace(Tied(), 9, free="^head", seed=5)
    again.load_bytes(data)
    ids = torch.tensor([0, 3])
    assert torch.equal(again.eval()(ids), small.eval()(ids))
    with pytest.raises(UserError, match="saved with seed=5, here it is 6"):
        RandomSubspace(Tied(), 9, free="^head", seed=6).load_bytes(data)
    moved = Tied()
    with torch.no_grad():
        moved.embed.weight.add_(1)
    with pytest.raises(UserError, match="saved with start="):
        RandomSubspace(moved, 9, free="^head", seed=5).load_bytes(data)


def test_moving_to_another_dtype_moves_the_network_too():
    model = nn.Linear(3, 2)
    small = RandomSubspace(model, 4).double()
    assert model.weight.dtype == small.z.dtype == torch.float64
    assert small(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"d": 0}, "above 0 .* at most 8"),
        ({"d": 9}, "at most 8, the number of parameters"),
        ({"d": 2, "structure": True}, "above 2 "),
        ({"d": 4, "include": "wieght"}, "called like 'wieght'"),
        ({"d": 4, "projection": "fastfod"}, "did you mean fastfood"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        RandomSubspace(nn.Linear(3, 2), **settings)


def test_gradient_checkpointing_is_refused():
    model = nn.Linear(3, 2)
    model.is_gradient_checkpointing = True
    with pytest.raises(UserError, match="gradient checkpointing"):
        RandomSubspace(model, 2)(torch.zeros(1, 3))
