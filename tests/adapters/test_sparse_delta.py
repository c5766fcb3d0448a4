"""Sparse deltas as a function: by hand, gradients in float64 in any block size, budgets and positions."""

import pytest
import torch

from workbench.adapters._sparse_delta import budget, dense, gathered, largest, random_positions, sparse_linear
from workbench.errors import UserError

SHAPE, PLACES = (5, 4), torch.tensor([1, 4, 7, 13, 19], dtype=torch.int32)


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((3, 2, 4), SHAPE))
    values, bias = (torch.randn(n, generator=generator, dtype=dtype) for n in (5, 5))
    return x, w, values, bias


def test_scatter_by_hand():
    got = dense(torch.ones(2, 3), torch.tensor([10.0, -1.0]), torch.tensor([2, 3], dtype=torch.int32), (2, 3))
    assert got.tolist() == [[1, 1, 11], [0, 1, 1]]
    assert dense(None, torch.tensor([5.0]), torch.tensor([4], dtype=torch.int32), (2, 3)).tolist() == [
        [0, 0, 0],
        [0, 5, 0],
    ]


def test_the_weight_itself_is_never_written():
    x, w, values, bias = problem()
    before = w.clone()
    sparse_linear(x.requires_grad_(), w, values.requires_grad_(), PLACES, SHAPE, bias).sum().backward()
    assert torch.equal(w, before)


@pytest.mark.parametrize("block", [4, 8, 100])  # one row, two rows, all
@pytest.mark.parametrize("with_weight", [True, False])
def test_gradients_are_right_whatever_the_block(block, with_weight):
    x, w, values, bias = problem()
    inputs = [part.requires_grad_() for part in (x, values, bias)]

    def function(x, values, bias):
        return sparse_linear(x, w if with_weight else None, values, PLACES, SHAPE, bias, block=block)

    assert torch.autograd.gradcheck(function, inputs)
    torch.testing.assert_close(
        function(*inputs), torch.nn.functional.linear(x, dense(w if with_weight else None, values, PLACES, SHAPE), bias)
    )


def test_gradient_of_the_values_is_the_dense_gradient_at_their_places():
    x, w, values, bias = problem()
    full = dense(w, values, PLACES, SHAPE).requires_grad_()
    torch.nn.functional.linear(x, full, bias).pow(3).sum().backward()
    sparse_linear(x, w, values.requires_grad_(), PLACES, SHAPE, bias).pow(3).sum().backward()
    torch.testing.assert_close(values.grad, full.grad.view(-1)[PLACES.long()])


def test_whoever_watches_sees_the_dense_gradient_in_order_and_never_more_than_a_block():
    x, w, values, _ = problem()
    seen = []
    out = sparse_linear(
        x, w, values.requires_grad_(), PLACES, SHAPE, watch=lambda start, piece: seen.append((start, piece)), block=8
    )
    out.sum().backward()
    assert [start for start, _ in seen] == [0, 8, 16] and max(len(piece) for _, piece in seen) == 8
    dense_gradient = torch.ones(6, 5, dtype=torch.float64).T @ x.reshape(6, 4)
    torch.testing.assert_close(torch.cat([piece for _, piece in seen]), dense_gradient.view(-1))


def test_no_block_at_all_is_made_where_nobody_trains():
    x, w, values, _ = problem()
    seen = []
    sparse_linear(x.requires_grad_(), w, values, PLACES, SHAPE, watch=lambda *a: seen.append(a)).sum().backward()
    assert not seen and x.grad is not None


def test_places_at_the_edges_of_blocks_are_found():
    grad, x = torch.eye(4, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).view(4, 2)
    everywhere = torch.arange(8, dtype=torch.int32)
    assert gathered(grad, x, everywhere, (4, 2), block=2).tolist() == list(range(8))
    assert gathered(grad, x, torch.tensor([2, 3], dtype=torch.int32), (4, 2), block=2).tolist() == [2, 3]


def test_dense_gradient_never_exists_as_a_whole():
    from workbench.papers._memory import peak_bytes

    side, rows = 512, 4
    x, w = torch.randn(rows, side, requires_grad=True), torch.randn(side, side)
    values = torch.zeros(32, requires_grad=True)
    out = sparse_linear(x.detach(), w, values, random_positions(side * side, 32, 0), (side, side), block=side * 16)
    peak = peak_bytes(lambda: out.backward(torch.ones_like(out)), ignore=[w, x])
    assert peak < side * side * 4 / 4


def test_budget_by_hand():
    assert budget([100, 300], 8) == [2, 6]
    assert budget([100, 100, 100], 4) in ([2, 1, 1], [1, 2, 1], [1, 1, 2])
    assert budget([1000, 2], 10) == [9, 1]  # at least one each
    assert budget([3, 3], 6) == [3, 3]  # never more than there are
    assert budget([5, 1, 1, 1], 8) == [5, 1, 1, 1]


@pytest.mark.parametrize("total", [2, 13])
def test_a_budget_that_no_matrix_can_hold_is_refused(total):
    with pytest.raises(UserError, match=f"{total} deltas cannot be spread over 3 matrices of 12 entries"):
        budget([4, 4, 4], total)


def test_random_positions_are_distinct_sorted_and_follow_the_seed():
    one = random_positions(1000, 300, 4)
    assert one.dtype == torch.int32 and torch.equal(one, one.unique()) and len(one) == 300 and one.max() < 1000
    assert torch.equal(one, random_positions(1000, 300, 4)) and not torch.equal(one, random_positions(1000, 300, 5))
    assert random_positions(7, 7, 0).tolist() == list(range(7))
    with pytest.raises(UserError, match="beyond 32-bit positions"):
        random_positions(1 << 31, 1, 0)


def test_largest_takes_the_lower_place_where_scores_are_equal():
    assert largest(torch.tensor([[1.0, 3.0], [3.0, 0.0]]), 1).tolist() == [1]
    assert largest(torch.tensor([1.0, 3.0, 2.0]), 2).tolist() == [1, 2]
