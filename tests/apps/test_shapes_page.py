"""The page Shapes: a cloud becomes a mesh in a run, is shown beside a peer, cut by planes, taken home; bad input says why."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import choices, clouds, fields, live  # noqa: E402
from workbench.apps.pages import shapes  # noqa: E402
from workbench.geometry import job  # noqa: E402
from workbench.geometry.files import read_mesh, write_mesh  # noqa: E402
from workbench.geometry.mesh import Mesh  # noqa: E402
from workbench.runs import RunContext, Store  # noqa: E402

SMALL = {"shape": "hemisphere", "points": 400, "resolution": 16, "peer": "nearest point"}
CUBE = Mesh(
    np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]),
    np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
              [1, 5, 7], [1, 7, 3]]),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One finished reconstruction, its folder of runs in use for the module."""
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install 'workbench[geometry]')")
    folder = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder / "runs"))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
        live.forget()
        result = Store().run_here("reconstruct", SMALL)
        yield Store().list()[0], result
    live.forget()


def test_both_methods_are_scored_against_the_known_surface(made):
    _, result = made
    ours, peer = result["rows"]
    assert (ours["method"], peer["method"]) == ("LoSF", "nearest point")
    assert ours["f1"] > peer["f1"] and ours["chamfer"] < peer["chamfer"]
    assert 0.5 < ours["rim"] <= 1 and ours["open_edge"] > 2  # the rim of the hemisphere is π long


def test_the_page_shows_meshes_in_one_cube_and_its_cell_redraws_them(made, redraw):
    run, result = made
    shown, drawn, table, ply, obj, cut, ready, seen = shapes.show_meshes(run.id)
    assert shown["visible"] and cut["visible"] and ready == run.id and not seen["visible"]
    figure = json.loads(drawn)
    kinds = [trace["type"] for trace in figure["data"]]
    assert kinds.count("mesh3d") == 2 and "LoSF" in table and "F-score" in table
    assert redraw(figure["cell"]) == figure["data"]
    assert figure["csv"].count("\n") == 3
    whole = read_mesh(run.directory / result["files"]["LoSF"])
    for update in (ply, obj):
        taken = read_mesh(update["value"])
        assert np.allclose(taken.vertices, whole.vertices, atol=1e-8) and (taken.faces == whole.faces).all()


def test_a_plane_is_cut_across_any_axis_and_its_cell_agrees(made, redraw):
    run, _ = made
    drawn = json.loads(shapes.show_plane(run.id, "nearest point", "z", 0.1))
    assert redraw(drawn["cell"]) == drawn["data"]
    assert drawn["layout"]["xaxis"]["title"]["text"].startswith("x (")
    # by hand: the distance to the nearest point of the cloud, at the middle of the plane
    points = job.views(run.directory)[f"{len(read_mesh(run.directory / 'cloud.ply').vertices)} points"]
    cut = job.slice_through(run.directory, "nearest point", "z", 0.1, side=9)
    place = np.array([cut["along"][2], cut["up"][6], 0.1])
    value = cut["values"][6, 2]
    assert np.isclose(value, np.linalg.norm(points - place, axis=1).min(), rtol=1e-4) or not np.isfinite(value)
    assert shapes.show_plane("", "LoSF", "y", 0.0) == shapes.gr.skip()


def test_a_stopped_reconstruction_keeps_what_is_done(made, tmp_path):
    run, _ = made
    copy = tmp_path / run.id
    shutil.copytree(run.directory, copy)
    rows = json.loads((copy / "scores.json").read_text())["rows"][:1]
    (copy / "scores.json").write_text(json.dumps({"rows": rows}))
    (copy / "meshes" / "nearest point.ply").unlink()
    context = RunContext(type(run)(copy), 2)
    context.asked = True
    assert job.run(context) == {
        "points": 400, "rows": rows, "files": {"LoSF": "meshes/LoSF.ply"}, "stopped": True,
    }  # fmt: skip
    context.close()


def test_a_mesh_is_thinned_for_drawing_only():
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    levels = [np.column_stack([ring, np.full(60, z)]) for z in np.linspace(0, 2, 40)]
    at = np.arange(2400).reshape(40, 60)
    a, b, c, d = at[:-1], np.roll(at, -1, 1)[:-1], np.roll(at, -1, 1)[1:], at[1:]
    tube = Mesh(
        np.concatenate(levels), np.concatenate([np.stack(f, -1).reshape(-1, 3) for f in ((a, b, c), (a, c, d))])
    )
    thin = job.light(tube, most=1000)
    assert 200 < len(thin.faces) <= 1000
    assert np.allclose(np.hypot(thin.vertices[:, 0], thin.vertices[:, 1])[thin.faces], 1, atol=0.1)
    assert abs(thin.areas.sum() / tube.areas.sum() - 1) < 0.1
    assert (job.light(tube, most=10_000).faces == tube.faces).all()


@pytest.mark.parametrize(("change", "words"), [
    ({"points": 20}, "points is 20"), ({"resolution": 8}, "resolution is 8"), ({"radius": -1.0}, "radius is -1.0"),
    ({"peer": "magic"}, "peer"), ({"shape": "bunni"}, "did you mean bunny"), ({"colour": 1}, "no setting colour"),
    ({"seed": True}, "seed is True"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(change, words):
    with pytest.raises(UserError, match=words):
        job.check({**SMALL, **change})


def test_a_bad_value_is_marked_at_its_field_and_nothing_is_submitted(made):
    before = len(Store().list())
    scan = fields.payload(shapes.CLOUD, {"points": "few"})
    run, said, marked, _ = shapes.begin("shape:cone", scan, fields.payload(shapes.FORM), "quadratic fit")
    assert run == shapes.gr.skip() and "whole number" in said
    assert "whole number" in {f["name"]: f["error"] for f in json.loads(marked)}["points"]
    form = fields.payload(shapes.FORM, {"resolution": "7"})
    _, said, _, marked = shapes.begin("shape:cone", fields.payload(shapes.CLOUD), form, "none")
    assert "resolution is 7" in {f["name"]: f["error"] for f in json.loads(marked)}["resolution"]
    assert len(Store().list()) == before


def test_points_are_previewed_as_they_will_be_read(made, redraw):
    scan = fields.payload(shapes.CLOUD, {"points": "300", "condition": "outliers"})
    seen, _, _ = shapes.first_preview("shape:cylinder", scan, "")
    assert shapes.first_preview("shape:cylinder", scan, made[0].id)[0] == shapes.gr.skip()
    figure = json.loads(seen["value"])
    assert len(figure["data"][0]["x"]) == 300
    assert redraw(figure["cell"]) == figure["data"]


def test_uploads_become_keys_and_never_paths(made, tmp_path):
    cloud = tmp_path / "scan.csv"
    np.savetxt(cloud, np.random.default_rng(0).random((80, 3)), delimiter=",")
    update, _, told = shapes.keep(str(cloud))
    assert "80 distinct points" in told and update["value"].startswith("cloud:")
    config = job.check({**clouds.settings(update["value"]), "peer": "none"})
    assert job.cloud_of(config).shape == (80, 3)
    assert ("scan.csv · uploaded", update["value"]) in clouds.known()
    assert update["value"] not in choices.uploads()  # no list of texts shows it
    assert str(choices.shown(config["cloud"])) == "scan.csv"
    write_mesh(CUBE, tmp_path / "cube.obj")
    key, told = clouds.keep(tmp_path / "cube.obj")
    assert "12 triangles" in told
    drawn = job.cloud_of(job.check({**clouds.settings(key), "points": 500}))
    assert drawn.shape == (500, 3) and np.isclose(np.abs(drawn - 0.5).max(1), 0.5).all()
    for bad in ("/etc/passwd", "cloud:../../../etc/passwd", "cloud:0123456789ab/none.xyz", ""):
        with pytest.raises(UserError, match="no cloud the app knows"):
            clouds.settings(bad)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("words.csv", "1,2,3\none,two,three\n", "line 2"), ("few.txt", "1 2 3\n4 5 6\n", "at least 50"),
    ("points.npy", "x", "no file of points"), ("empty.csv", "", "is empty"),
])  # fmt: skip
def test_a_bad_cloud_says_what_is_wrong(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    _, cleared, told = shapes.keep(str(tmp_path / name))
    assert cleared is None and words in told


def test_only_endings_that_the_door_lets_in_are_offered(monkeypatch):
    assert {".txt", ".csv"} <= set(clouds.endings()) <= {".ply", ".obj", ".xyz", ".txt", ".pts", ".csv"}
    monkeypatch.setattr(choices, "DOOR", (".ply", ".parquet"), raising=False)
    assert clouds.endings() == [".ply"]


def test_the_page_in_a_browser(made, page, server):
    run, _ = made
    shutil.copytree(run.directory, server.runs / run.id)
    page.goto(f"{server.url}/shapes?run={run.id}")
    page.locator("[aria-label='Methods']").wait_for()
    page.locator(".wb-fig[data-drawn], [data-drawn] .wb-fig").first.wait_for()
    with page.expect_download() as got:
        page.get_by_role("button", name="Download the mesh (PLY)").click()
    assert read_mesh(got.value.path().rename(server.folder / "taken.ply")).faces.shape[0] > 100
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
