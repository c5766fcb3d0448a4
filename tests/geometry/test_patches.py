import numpy as np
import pytest
import torch

from workbench.errors import UserError
from workbench.geometry.patches import SLOTS, farthest_points, make_patches, principal_axes, slots


def random_patch(n, size=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(size, n, 3, generator=generator, dtype=dtype)
    return points, torch.full((size,), n), torch.randn(size, 3, generator=generator, dtype=dtype)


def test_worked_example_by_hand():
    points = torch.tensor([[[0.0, 0.0, 3.0], [0.0, 0.0, 1.0], [9.0, 9.0, 9.0]]])
    patch = make_patches(points, torch.tensor([2]), torch.tensor([[0.0, 0.0, -1.0]]), turn=False)
    # the points stand 2 and 4 above the query: sorted by that distance, and the farthest at 1
    assert patch.scale.item() == 0.25
    assert patch.points[0].tolist() == [[0, 0, 0.5], [0, 0, 1]]
    assert patch.query[0].tolist() == [0, 0, 0]


def test_the_released_origin_by_hand():
    points = torch.tensor([[[0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]])
    patch = make_patches(points, torch.tensor([2]), torch.tensor([[0.0, 0.0, -1.0]]), turn=False, origin="mean")
    # the mean of −1, 1 and 3 is 1, and the farthest stands 2 away from it
    assert patch.scale.item() == 0.5
    assert patch.points[0].tolist() == [[0, 0, 0], [0, 0, 1]] and patch.query[0].tolist() == [0, 0, -1]
    with pytest.raises(UserError, match="did you mean"):
        make_patches(points, torch.tensor([2]), torch.zeros(1, 3), origin="means")


def test_slots_repeat_every_point_nearly_equally_often():
    found = slots(torch.tensor([3, 128, 50]))
    assert found[0].bincount().tolist() == [43, 43, 42]
    assert found[1].tolist() == list(range(SLOTS))
    assert set(found[2].bincount().tolist()) == {2, 3}


def test_farthest_points_by_hand():
    line = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [4.0, 0, 0], [10.0, 0, 0], [99.0, 0, 0]]])
    # the fifth is beyond the count; from 0: the farthest is 10, then 4 (4 away from 0, 6 from 10), then 1
    assert farthest_points(line, torch.tensor([4]), 4, torch.tensor([0])).tolist() == [[0, 3, 2, 1]]


def test_farthest_points_equal_the_plain_loop():
    points, count, _ = random_patch(60, size=2)
    for row, found in zip(
        points.numpy(), farthest_points(points, count, 20, torch.tensor([5, 7])).numpy(), strict=True
    ):
        chosen = [found[0]]
        for _ in range(19):
            gaps = np.linalg.norm(row[:, None] - row[chosen], axis=-1).min(1)
            chosen.append(int(gaps.argmax()))
        assert found.tolist() == chosen


@pytest.mark.parametrize("n", [7, 128, 200])
def test_any_order_of_points_gives_bitwise_the_same_patch(n):
    points, count, query = random_patch(n)
    mixed = points[:, torch.randperm(n, generator=torch.Generator().manual_seed(1))]
    one, two = make_patches(points, count, query), make_patches(mixed, count, query)
    assert torch.equal(one.points, two.points) and torch.equal(one.scale, two.scale)
    assert len(one.points[0]) == min(n, SLOTS)


def test_principal_axes_by_hand():
    flat = torch.tensor([[[0.0, 4, 0], [0.0, -1, 0], [0.0, -1, 0], [1.0, -1, 0], [-1.0, -1, 0]]])
    axes = principal_axes(flat, torch.tensor([[0.0, 0, -2]]), torch.ones(1, 5, 1))[0]
    # long and skewed towards +y, wide in x, flat in z, query below: y → x, z → −z, and right-handed
    torch.testing.assert_close(axes, torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]]))


def test_a_turned_cloud_has_the_same_patches():
    points, count, query = random_patch(40)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    turn *= torch.linalg.det(turn)
    one, two = make_patches(points, count, query), make_patches(points @ turn, count, query @ turn)
    torch.testing.assert_close(one.points, two.points)
    assert (one.query - one.points.mean(1))[:, 2].min() >= 0  # the query is above
    plain = make_patches(points @ turn, count, query @ turn, turn=False)
    torch.testing.assert_close(plain.points, make_patches(points, count, query, turn=False).points @ turn)


@pytest.mark.parametrize("factor", [0.001, 1000.0])
def test_size_and_place_change_the_scale_only(factor):
    points, count, query = random_patch(40)
    shift = torch.tensor([3.0, -5.0, 0.5], dtype=torch.float64)
    one, two = make_patches(points, count, query), make_patches(factor * points + shift, count, factor * query + shift)
    torch.testing.assert_close(one.points, two.points, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.scale, two.scale * factor)


def test_rows_of_one_batch_do_not_touch_each_other():
    points, _, query = random_patch(150, size=2)
    batch = make_patches(points, torch.tensor([150, 9]), query)
    alone = make_patches(points[1:, :9], torch.tensor([9]), query[1:])
    assert torch.equal(batch.points[1, :9], alone.points[0])
    assert torch.equal(batch.points[1, 9:], alone.points[0, 8:].expand(119, 3))
    assert batch.count.tolist() == [128, 9] and batch.mask.sum(1).tolist() == [128, 9]


def test_everything_lies_in_the_unit_ball_around_the_query():
    patch = make_patches(*random_patch(30))
    torch.testing.assert_close(patch.points.norm(dim=-1).amax(1), torch.ones(3, dtype=torch.float64))
    assert not patch.query.any()
