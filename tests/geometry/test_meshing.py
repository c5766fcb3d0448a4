import numpy as np
import pytest
from scipy.spatial import cKDTree

from workbench.errors import UserError
from workbench.geometry.cutting import cut_double_cover, partners, two_sides
from workbench.geometry.mesh import Mesh, unit
from workbench.geometry.meshing import double_cover, mesh_from_grid, neighbour_mean, refine
from workbench.geometry.metrics import compare, rim_kept
from workbench.geometry.shapes import shape
from workbench.geometry.udf import SparseGrid, band_udf, grid_of

pytest.importorskip("skimage")
SQUARE = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])


class Exact:
    """The true distance in the place of a field."""

    def __init__(self, which, n=6000):
        self.points = which.sample(n, np.random.default_rng(0))[0]
        self.tree, self.spacing, self.distance = cKDTree(self.points), 0.01, which.distance

    def __call__(self, queries, progress=None):
        return self.distance(queries)


def ball_grid(radius=0.3, n=40):
    line = np.linspace(-0.5, 0.5, n)
    nodes = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    distance = np.abs(np.linalg.norm(nodes, axis=1) - radius)
    return SparseGrid(np.full(3, -0.5), line[1] - line[0], (n, n, n), np.arange(n**3), distance)


def test_mesh_basics_by_hand():
    assert SQUARE.areas.tolist() == [0.5, 0.5] and SQUARE.face_normals.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert sorted(map(tuple, SQUARE.boundary())) == [(0, 1), (0, 3), (1, 2), (2, 3)] and SQUARE.boundary_length() == 4
    pairs, edges = SQUARE.face_pairs()
    assert pairs.tolist() == [[0, 1]] and edges.tolist() == [[0, 2]]
    assert SQUARE.keep_faces(np.array([False, True])).vertices.tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]
    points, normals = SQUARE.sample(4000, np.random.default_rng(0))
    assert points.mean(0) == pytest.approx([0.5, 0.5, 0], abs=0.02) and (normals == [0, 0, 1]).all()
    assert neighbour_mean(np.array([0.0, 1, 2, 3]), SQUARE.edges()[0]) == pytest.approx([2, 1, 4 / 3, 1])


def test_a_sphere_gets_two_shells_at_plus_and_minus_iso():
    iso = 0.04
    grid = ball_grid()
    cover = double_cover(grid, iso)
    radius = np.linalg.norm(cover.vertices, axis=1)
    outer = radius > 0.3
    assert np.abs(radius[outer] - 0.34).max() < 1e-3 and np.abs(radius[~outer] - 0.26).max() < 1e-3
    out = (cover.vertex_normals * unit(cover.vertices)).sum(1)
    assert (out[outer] > 0.9).all() and (out[~outer] < -0.9).all()
    assert not len(cover.boundary())


def test_the_outer_shell_is_kept_and_drawn_onto_the_sphere():
    iso, grid = 0.04, ball_grid()
    cover = double_cover(grid, iso)
    keep = cut_double_cover(cover, iso)
    assert np.array_equal(keep, np.linalg.norm(cover.centroids, axis=1) > 0.3)
    mesh = mesh_from_grid(grid, iso, lambda q, progress=None: np.abs(np.linalg.norm(q, axis=1) - 0.3))
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.3).max() < 2e-3
    assert not len(mesh.boundary()) and (mesh.face_normals * mesh.centroids).sum(1).min() > 0


@pytest.mark.parametrize("name", ["hemisphere", "two sheets", "möbius strip", "teapot"])
def test_open_surfaces_are_covered_once_and_stay_open(name):
    which = shape(name)
    field = Exact(which)
    step = grid_of(field.points, 48)[1]
    mesh = mesh_from_grid(band_udf(field, 48, step), step, field)
    points, normals = which.sample(8000, np.random.default_rng(1))
    score = compare(mesh, points, normals, which.distance)
    assert score["f1@0.01"] > (0.9 if name == "teapot" else 0.97)
    if name != "teapot":
        assert rim_kept(mesh, which.rim) > 0.95
        whole = {"hemisphere": np.pi / 2, "two sheets": 2.0}.get(name)
        assert whole is None or mesh.areas.sum() == pytest.approx(whole, rel=0.06)
        used = np.bincount(mesh.edges()[2].ravel())
        assert used.max() <= 2


def test_closed_shapes_stay_closed():
    field = Exact(shape("box"))
    step = grid_of(field.points, 40)[1]
    mesh = mesh_from_grid(band_udf(field, 40, step), step, field)
    assert not len(mesh.boundary())
    assert mesh.areas.sum() == pytest.approx(2 * (0.7 + 0.5 + 0.35), rel=0.04)


def test_partners_of_parallel_squares():
    low = Mesh(SQUARE.vertices - [0, 0, 0.1], SQUARE.faces[:, ::-1])
    both = Mesh(
        np.concatenate([np.add(SQUARE.vertices, [0, 0, 0.1]), low.vertices]),
        np.concatenate([SQUARE.faces, low.faces + 4]),
    )
    assert partners(both, 0.1).tolist() == [2, 3, 0, 1]
    assert partners(both, 0.02).tolist() == [-1, -1, -1, -1]


def test_sides_follow_the_strongest_ties():
    ties, votes = np.array([[0, 1], [1, 2], [0, 2], [3, 4]]), np.array([9, 8, 1, 5])
    group, side = two_sides(ties, votes, 5)
    assert side[0] != side[1] and side[1] != side[2] and side[3] != side[4]
    assert group[0] == group[1] == group[2] != group[3] == group[4]


def test_refining_without_a_field_moves_by_iso():
    flat = Mesh(np.add(SQUARE.vertices, [0, 0, 0.1]), SQUARE.faces)
    assert refine(flat, 0.1, slide=0).vertices == pytest.approx(SQUARE.vertices)


def test_skins_that_cannot_be_are_refused():
    grid = ball_grid()
    with pytest.raises(UserError, match="resolution"):
        double_cover(grid, 0.5 * grid.step)
    with pytest.raises(UserError, match="No surface within"):
        double_cover(SparseGrid(grid.origin, grid.step, grid.shape, grid.index, grid.value + 1), 0.05)
    with pytest.raises(UserError, match="no ball holds 6"):
        double_cover(SparseGrid(grid.origin, grid.step, grid.shape, grid.index[:0], grid.value[:0]), 0.05)


def test_scores_by_hand():
    points = np.array([[0.25, 0.5, 0.02], [0.75, 0.5, 0.02]])
    score = compare(
        SQUARE, points, np.tile([0.0, 0, 1], (2, 1)), lambda q: np.full(len(q), 0.02), thresholds=(0.01, 0.05)
    )
    assert score["f1@0.01"] == 0 and score["f1@0.05"] == 1 and score["normals"] == pytest.approx(1)
    assert score["chamfer"] == pytest.approx(0.02, abs=1e-3)
    assert rim_kept(SQUARE, np.array([[0.5, 0.01, 0], [0.5, 0.5, 0]])) == 0.5
    assert compare(Mesh([], []), points, points)["f1@0.01"] == 0 and rim_kept(Mesh([], []), points) == 0
