import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from workbench.errors import UserError
from workbench.geometry.baselines import fit_patches, nearest_patches
from workbench.geometry.losf import LIGHT, LoSFNet
from workbench.geometry.neighbours import ball_query, band, local_radius, padded
from workbench.geometry.patches import make_patches
from workbench.geometry.udf import Field, SparseGrid, band_udf, batches, grid_of, losf_reader, predict_udf
from workbench.geometry.weights import load_losf


def sheet(n=3000, seed=0):
    """A wavy open sheet inside the unit cube."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.45, 0.45, (2, n))
    return np.stack([x, y, 0.1 * np.sin(5 * x)], 1)


def near(cloud, n=200, seed=1):
    rng = np.random.default_rng(seed)
    return cloud[rng.integers(len(cloud), size=n)] + 0.02 * rng.standard_normal((n, 3))


def wild():
    """An untrained network that reacts to everything."""
    torch.manual_seed(0)
    net = LoSFNet(**LIGHT)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return losf_reader(net.eval())


def test_ball_query_finds_what_a_plain_search_finds():
    cloud, queries = sheet(300), near(sheet(300), 40)
    radius = np.linspace(0.05, 0.3, 40)
    count, index = ball_query(cKDTree(cloud), queries, radius)
    starts = np.concatenate([[0], np.cumsum(count)])
    gaps = np.linalg.norm(queries[:, None] - cloud, axis=-1)
    for i, row in enumerate(gaps):
        assert sorted(index[starts[i] : starts[i + 1]]) == np.flatnonzero(row <= radius[i]).tolist()


def test_padded_by_hand():
    assert padded(np.array([1, 2, 3, 4]), np.array([1, 0, 3])).tolist() == [[1, 0, 0], [0, 0, 0], [2, 3, 4]]


def test_local_radius_holds_the_wanted_points_at_any_density():
    for n in (500, 20_000):
        tree = cKDTree(sheet(n))
        held = tree.query_ball_point(tree.data[:400], local_radius(tree)[:400] + 1e-12, return_length=True)
        assert np.median(held) == 48


def test_band_holds_every_node_within_reach_and_few_others():
    cloud, step, shape = sheet(200), 0.05, (23, 24, 25)
    origin, reach = np.full(3, -0.55), 0.08
    found = band(cloud, origin, step, shape, reach)
    nodes = origin + step * np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), -1)
    distance = cKDTree(cloud).query(nodes)[0]
    assert set(np.flatnonzero(distance <= reach)) <= set(found)
    assert distance[found].max() <= reach + 3**0.5 * step
    assert (np.diff(found) > 0).all()


def test_batches_cover_every_query_once_and_stay_small():
    count = np.r_[np.full(1000, 7), np.full(10, 90_000)]
    order = np.argsort(count, kind="stable")
    parts = batches(order, count)
    assert np.array_equal(np.concatenate(parts), order)
    assert max(map(len, parts)) <= 512 and all(len(p) <= 16 for p in parts if count[p].max() > 1000)


def test_a_distance_depends_neither_on_other_queries_nor_on_the_order_of_points():
    cloud, rng = sheet(), np.random.default_rng(2)
    queries, read = near(cloud), wild()
    whole = Field(cloud, read, 0.1)(queries)
    some = rng.permutation(len(queries))[:37]
    assert Field(cloud, read, 0.1)(queries[some]) == pytest.approx(whole[some], abs=1e-6)
    assert Field(rng.permutation(cloud), read, 0.1)(queries) == pytest.approx(whole, abs=1e-6)
    assert np.ptp(whole) > 1e-3


def test_size_and_place_of_the_cloud_do_not_matter():
    cloud = sheet()
    queries = near(cloud)
    torch.manual_seed(0)
    net = LoSFNet(**LIGHT).eval()
    one = predict_udf(cloud, queries, net=net)
    factor, shift = 250.0, np.array([1e3, -5.0, 7.0])
    two = predict_udf(factor * cloud + shift, factor * queries + shift, net=net)
    assert two / factor == pytest.approx(one, rel=1e-4, abs=1e-7)


def test_dense_balls_are_thinned_and_lonely_queries_are_not_answered():
    cloud = sheet(20_000)
    field = Field(cloud, nearest_patches, 0.3)  # about 1500 points a ball
    found = field(np.array([[0.0, 0, 0.05], [0.0, 0, 0.45]]))
    assert found[0] == pytest.approx(cKDTree(cloud).query([0.0, 0, 0.05])[0], abs=1e-6)  # the nearest is always kept
    assert np.isinf(found[1]) and field.asked == 2


def test_radius_that_does_not_do_is_refused_with_one_that_does():
    with pytest.raises(UserError, match=r"too small.*0\.\d+ fits this cloud"):
        Field(sheet(), nearest_patches, 0.005)
    with pytest.raises(UserError, match="not a positive length"):
        Field(sheet(), nearest_patches, -1.0)


def test_cost_grows_with_the_area_not_with_the_grid():
    """Twice the resolution: eight times the nodes, but with a dense cloud about four times the questions."""
    field = Field(sheet(30_000), nearest_patches)
    asked = []
    for resolution in (32, 64):
        step = grid_of(field.points, resolution)[1]
        grid = band_udf(field, resolution, step)
        asked.append(len(grid.index))
        assert len(grid.index) < 0.35 * np.prod(grid.shape)
    assert 2.8 < asked[1] / asked[0] < 4.5


def test_dense_grid_keeps_its_axes():
    grid = SparseGrid(np.zeros(3), 0.5, (2, 3, 4), np.array([0, 23]), np.array([0.1, np.inf]))
    dense = grid.dense(9.0)
    assert dense[0, 0, 0] == np.float32(0.1) and dense[1, 2, 3] == 9 and dense.shape == (2, 3, 4)
    assert grid.positions().tolist() == [[0, 0, 0], [0.5, 1.0, 1.5]]


def patches_of(surface, noise=0.0, n=60):
    generator = torch.Generator().manual_seed(0)
    xy = 1.6 * torch.rand(50, n, 2, generator=generator, dtype=torch.float64) - 0.8
    cloud = torch.cat([xy, surface(xy).unsqueeze(-1)], -1)
    query = torch.zeros(50, 3, dtype=torch.float64)
    query[:, 2] = torch.linspace(0.02, 0.6, 50)
    return make_patches(cloud, torch.full((50,), n), query), query[:, 2]


def test_quadratic_fit_is_exact_on_quadrics_and_nearest_point_too_large():
    patches, height = patches_of(lambda xy: 0.5 * (0.8 * xy[..., 0] ** 2 - 0.5 * xy[..., 1] ** 2))
    assert (fit_patches(patches) / patches.scale - height).abs().max() < 0.02  # the axes are those of the points
    assert ((nearest_patches(patches) / patches.scale - height) >= -1e-12).all()


def test_shipped_weights_on_a_plane_are_within_3_percent_of_the_radius():
    patches, height = patches_of(lambda xy: 0 * xy[..., 0])
    patches = type(patches)(patches.points.float(), patches.query.float(), patches.count, patches.scale.float())
    found = load_losf()(patches)[0] / patches.scale
    assert (found - height).abs().mean() < 0.03


def test_turning_the_cloud_turns_the_distances():
    cloud, read = sheet(), wild()
    queries, turn = near(cloud), np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    turn *= np.linalg.det(turn)
    one, two = Field(cloud, read, 0.1)(queries), Field(cloud @ turn, read, 0.1)(queries @ turn)
    assert two == pytest.approx(one, rel=1e-5)  # built in by the principal axes; float32 leaves 3e-6
