"""Fastfood and projections: by hand, against the formula written out, exact adjoints, refusals."""

import math

import pytest
import scipy.linalg
import torch

from workbench.adapters._fastfood import fastfood, hadamard, make_fastfood
from workbench.adapters._random import derive, random_numbers
from workbench.adapters._subspace import KINDS, Projection
from workbench.errors import UserError


def test_transform_by_hand():
    assert hadamard(torch.tensor([1.0, 2.0, 3.0, 5.0])).tolist() == [11.0, -3.0, -5.0, 1.0]


@pytest.mark.parametrize("n", [1, 2, 32, 64, 128, 4096, 8192])
def test_transform_equals_the_matrix_and_undoes_itself(n):
    x = torch.randn(3, n, dtype=torch.float64)
    matrix = torch.tensor(scipy.linalg.hadamard(n), dtype=torch.float64)
    torch.testing.assert_close(hadamard(x), x @ matrix)
    torch.testing.assert_close(hadamard(hadamard(x)), n * x)


def test_transform_wants_a_power_of_two_and_its_gradient_is_right():
    with pytest.raises(UserError, match="power of two, not 12"):
        hadamard(torch.zeros(12))
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hadamard, x) and torch.autograd.gradgradcheck(hadamard, x)


@pytest.mark.parametrize(("d", "size"), [(3, 8), (5, 11), (8, 8), (20, 7), (1, 1), (100, 1000)])
def test_map_is_the_formula_of_the_paper(d, size):
    """H G Π H B z over the full padded length, with every factor as a matrix."""
    seed, length = 9, 2 ** math.ceil(math.log2(size))
    used = min(d, length)
    h = torch.tensor(scipy.linalg.hadamard(length), dtype=torch.float64)
    signs = torch.ones(length, dtype=torch.float64)
    reached = 2 ** math.ceil(math.log2(used))
    signs[:reached] = random_numbers(derive(seed, "signs"), 0, reached, dtype=torch.float64).sign()
    order = torch.argsort(random_numbers(derive(seed, "order"), 0, length), stable=True)
    g = random_numbers(derive(seed, "weights"), 0, length, "normal", dtype=torch.float64) * math.sqrt(3)
    z = torch.randn(d, dtype=torch.float64)
    padded = torch.zeros(length, dtype=torch.float64)
    padded[:used] = z[:used]
    full = h @ (g * (h @ (signs * padded))[order])
    expected = full[:size] / (math.sqrt(length * g.square().sum()) * math.sqrt(size / length))
    torch.testing.assert_close(
        fastfood(z, make_fastfood(d, size, seed, torch.float64)), expected, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("size", [11, 64, 300])
def test_gradient_is_the_adjoint_and_the_reference_divides_it_by_the_padded_length(size):
    parts = make_fastfood(6, size, 1, torch.float64)
    z, theta = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.randn(size, dtype=torch.float64)
    (exact,) = torch.autograd.grad(fastfood(z, parts) @ theta, z)
    assert (exact @ z).item() == pytest.approx((fastfood(z, parts) @ theta).item(), rel=1e-9)
    (reference,) = torch.autograd.grad(fastfood(z, parts, reference_grad=True) @ theta, z)
    torch.testing.assert_close(reference * parts.length, exact)


def test_columns_have_length_one_in_the_mean_and_are_nearly_orthogonal():
    parts = make_fastfood(64, 3000, 4, torch.float64)
    matrix = torch.stack([fastfood(column, parts) for column in torch.eye(64, dtype=torch.float64)], 1)
    assert matrix.norm(dim=0).mean().item() == pytest.approx(1, abs=0.03)
    gram = matrix.T @ matrix
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 0.12  # about 5/√3000


def test_a_map_of_other_length_or_of_nothing_is_refused():
    with pytest.raises(UserError, match="takes 6 numbers"):
        fastfood(torch.zeros(5), make_fastfood(6, 10, 0))
    with pytest.raises(UserError, match="nothing to do"):
        make_fastfood(0, 10, 0)


SIZES = (70, 3, 200)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_is_linear_with_the_exact_adjoint_and_follows_its_seed(kind):
    one, again, other = (Projection(kind, SIZES, 12, seed) for seed in (0, 0, 1))
    matrix = one.matrix()
    assert matrix.shape == (273, 12)
    assert torch.equal(matrix, again.matrix()) and not torch.equal(matrix, other.matrix())
    z, g = torch.randn(12, dtype=torch.float64, requires_grad=True), torch.randn(273, dtype=torch.float64)
    torch.testing.assert_close(one(z), matrix @ z)
    torch.testing.assert_close(torch.autograd.grad(one(z) @ g, z)[0], matrix.T @ g)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_dense_and_sparse_directions_have_length_exactly_one_over_the_whole_network(kind):
    torch.testing.assert_close(
        Projection(kind, SIZES, 9, 0).matrix().norm(dim=0), torch.ones(9, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_sparse_direction_has_few_equal_entries_and_never_none():
    matrix = Projection("sparse", (10_000,), 20, 0).matrix()
    filled = (matrix != 0).sum(0)
    assert filled.float().mean().item() == pytest.approx(100, rel=0.1)  # √D of D
    for column in matrix.T:
        assert len(column[column != 0].abs().unique()) == 1
    assert (Projection("sparse", (1,), 50, 0).matrix() != 0).all()


def test_layerwise_directions_have_length_one_in_every_tensor():
    blocks = Projection("layerwise_fastfood", (1024, 64, 4096), 16, 0).matrix().split((1024, 64, 4096))
    for block in blocks:
        assert block.norm(dim=0).mean().item() == pytest.approx(1, abs=0.05)


def test_a_tensor_smaller_than_d_sees_the_first_numbers_only():
    small = Projection("layerwise_fastfood", (4, 64), 16, 0).matrix()[:4]
    assert (small[:, :4] != 0).any() and not small[:, 4:].any()


def test_refusals_name_the_way_out():
    with pytest.raises(UserError, match='GiB; use projection="fastfood"'):
        Projection("dense", (10_000_000,), 1000, 0)
    with pytest.raises(UserError, match="did you mean sparse"):
        Projection("sparce", (10,), 2, 0)
    with pytest.raises(UserError, match="d=0"):
        Projection("fastfood", (10,), 0, 0)
