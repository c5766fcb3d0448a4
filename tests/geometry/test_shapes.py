import numpy as np
import pytest
from scipy.spatial import cKDTree

from workbench.errors import UserError
from workbench.geometry.mesh import unit
from workbench.geometry.shapes import CONDITIONS, SHAPES, scan, shape
from workbench.geometry.triangles import triangle_distance


@pytest.mark.parametrize("name", SHAPES)
def test_distance_agrees_with_a_dense_sample_and_points_lie_on_the_surface(name):
    which, rng = shape(name), np.random.default_rng(0)
    points, normals = which.sample(40_000, rng)
    assert which.distance(points[:500]).max() < 1e-3
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(len(points)))
    queries = rng.uniform(-0.6, 0.6, (300, 3))
    nearest, true = cKDTree(points).query(queries)[0], which.distance(queries)
    assert (nearest - true).min() > -1e-3 and (nearest - true).max() < 0.03
    low, high = points.min(0), points.max(0)
    assert (high - low).max() == pytest.approx(1, abs=0.03) and np.abs(low + high).max() < 0.03


@pytest.mark.parametrize("name", ["hemisphere", "cylinder", "cone", "box", "two sheets"])
def test_normals_point_where_the_distance_grows(name):
    which = shape(name)
    points, normals = which.sample(400, np.random.default_rng(1))
    inside = np.median(np.abs(which.distance(points + 0.004 * normals) - 0.004))
    assert inside < 1e-6


def test_open_shapes_have_an_edge_on_the_surface_and_closed_ones_none():
    for name in SHAPES:
        which = shape(name)
        assert which.is_open == (name not in ("bunny", "box", "cone"))
        if which.is_open:
            assert which.distance(which.rim).max() < 2e-3


def test_triangle_distance_by_hand():
    corners = np.tile([[[0.0, 0, 0]], [[1.0, 0, 0]], [[0.0, 1, 0]]], (1, 5, 1))
    queries = np.array([[0.2, 0.2, 0.3], [-1, 0, 0], [0.5, -2, 0], [1, 1, 0], [2, 0, 1.0]])
    found = triangle_distance(queries, *corners)
    assert found == pytest.approx([0.3, 1, 2, 0.5**0.5, 2**0.5])


def test_scans_are_what_their_condition_says():
    which = shape("hemisphere")
    clouds = {name: scan(which, 4000, name, np.random.default_rng(0)) for name in CONDITIONS}
    off = {name: which.distance(cloud) for name, cloud in clouds.items()}
    assert all(cloud.shape == (4000, 3) for cloud in clouds.values())
    assert off["clean"].max() < 1e-9 and off["uneven"].max() < 1e-9
    assert np.abs(off["noise 0.005"]).mean() == pytest.approx(0.005 * (2 / np.pi) ** 0.5, rel=0.1)
    assert (off["outliers"] > 0.02).mean() == pytest.approx(0.095, abs=0.02)
    right = clouds["uneven"][:, 0] > 0
    assert right.mean() > 0.6


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="did you mean hemisphere"):
        shape("hemisphär")
    with pytest.raises(UserError, match="noise"):
        scan(shape("box"), 100, "noise", np.random.default_rng(0))


def test_unit_leaves_zero_alone():
    assert unit(np.array([[3.0, 0, 4], [0, 0, 0]])).tolist() == [[0.6, 0, 0.8], [0, 0, 0]]
