import json

import numpy as np
import pytest
from click.testing import CliRunner

from workbench.commands.reconstruct import reconstruct
from workbench.errors import UserError
from workbench.geometry import LoSFReconstructor
from workbench.geometry.files import read_mesh
from workbench.geometry.metrics import compare, rim_kept
from workbench.geometry.shapes import scan, shape

pytest.importorskip("skimage")


def cloud(name="hemisphere", n=3000, condition="clean"):
    return scan(shape(name), n, condition, np.random.default_rng(0))


@pytest.fixture(scope="module")
def found():
    return LoSFReconstructor(40).fit(cloud())


def test_an_open_shape_comes_out_right_and_open(found):
    which, mesh = shape("hemisphere"), found.mesh_
    score = compare(mesh, *which.sample(8000, np.random.default_rng(1)), which.distance)
    assert score["f1@0.01"] > 0.95 and score["normals"] > 0.97
    assert rim_kept(mesh, which.rim) > 0.9


def test_the_mesh_comes_back_in_the_clouds_own_unit_and_place(found):
    factor, shift = 40.0, np.array([100.0, -7.0, 3.0])
    moved = LoSFReconstructor(40).fit(factor * cloud() + shift).mesh_
    assert moved.vertices.min(0) == pytest.approx(factor * found.mesh_.vertices.min(0) + shift, abs=0.2)
    assert moved.areas.sum() == pytest.approx(factor**2 * found.mesh_.areas.sum(), rel=0.01)


def test_distances_can_be_asked_after_fit(found):
    queries = np.array([[0, 0, 0.27], [0, 0, 0.25], [0.49, 0, -0.24]])
    assert found.udf(queries) == pytest.approx(shape("hemisphere").distance(queries), abs=0.008)
    assert found.n_queries_ > len(found.grid_.index)
    with pytest.raises(UserError, match="call fit"):
        LoSFReconstructor().udf(queries)


def test_a_flat_sheet_is_a_surface_too():
    rng = np.random.default_rng(0)
    mesh = LoSFReconstructor(32).fit(np.column_stack([rng.random((2000, 2)), np.zeros(2000)])).mesh_
    assert np.abs(mesh.vertices[:, 2]).max() < 0.02 and mesh.areas.sum() == pytest.approx(1, rel=0.1)
    assert len(mesh.boundary())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 8}, "from 16 to 512"), ({"resolution": 64.0}, "whole number"), ({"iso": 0.001}, "finer grid"),
        ({"iso": 9.0}, "quarter"), ({"radius": 1e-4}, "too small"), ({"net": "losf-ligth"}, "holds no model"),
    ],
)  # fmt: skip
def test_settings_that_do_not_do_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        LoSFReconstructor(**({"resolution": 32} | settings)).fit(cloud(n=500))


def run(*arguments):
    return CliRunner().invoke(reconstruct, [str(a) for a in arguments])


def test_command_reads_writes_and_reports(tmp_path):
    np.savetxt(tmp_path / "c.xyz", cloud(n=1500))
    result = run(tmp_path / "c.xyz", "-o", tmp_path / "m.ply", "--resolution", 24, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    mesh = read_mesh(tmp_path / "m.ply")
    assert told["triangles"] == len(mesh.faces) > 100 and told["open_edge"] == pytest.approx(mesh.boundary_length())
    assert told["points"] == 1500


def test_command_refuses_before_it_works(tmp_path):
    np.savetxt(tmp_path / "c.xyz", cloud(n=100))
    for arguments, words in (
        ((tmp_path / "c.xyz", "-o", tmp_path / "m.stl"), "written as"),
        ((tmp_path / "no.xyz", "-o", tmp_path / "m.ply"), "no file"),
        ((tmp_path / "c.xyz", "-o", tmp_path / "m.ply", "--sample", 100), "no faces"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, UserError) and words in str(result.exception)
