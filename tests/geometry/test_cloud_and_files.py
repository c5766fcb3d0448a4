import numpy as np
import pytest

from workbench.errors import UserError
from workbench.geometry.cloud import check_cloud, frame_of
from workbench.geometry.files import read_cloud, read_mesh, write_mesh
from workbench.geometry.mesh import Mesh

TETRAHEDRON = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def points(n=60, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3))


def test_duplicates_are_dropped_and_order_stays():
    cloud = points()
    assert np.array_equal(check_cloud(np.concatenate([cloud, cloud[::-1]])), cloud)


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        (points(49), "49 points; at least 50"),
        (np.zeros((200, 3)), "200 points, 1 of them distinct"),
        (np.where(np.arange(60)[:, None] == 7, np.nan, points()), "1 of 60 points are not finite .* row 8"),
        (np.where(np.arange(60)[:, None] == 3, np.inf, points()), "not finite"),
        (points()[:, :2], r"shape \(60, 2\)"), (points()[0], r"shape \(3,\)"), (np.empty((0, 3)), "0 points"),
        ([["a", "b", "c"]] * 60, "not numbers"), (np.outer(np.arange(60), [1, 2, 3]), "on one line"),
        (np.concatenate([points(100), [[1e6, 0, 0]]]), "1 of 101 lie more than ten times"),
        (np.zeros((2_000_001, 3)), "at most 2,000,000"),
    ],
)  # fmt: skip
def test_clouds_that_do_not_do_are_refused(cloud, words):
    with pytest.raises(UserError, match=words):
        check_cloud(cloud)


def test_flat_and_offset_clouds_are_fine():
    flat = points() * [1, 1, 0]
    assert len(check_cloud(flat)) == 60 and len(check_cloud(1e-6 * points() + 1e3)) == 60


def test_frame_uses_one_factor_and_comes_back():
    cloud = points() * [1, 2, 5] + [10, -3, 0.5]
    frame = frame_of(cloud)
    inside = frame.inside(cloud)
    assert np.ptp(inside, axis=0).max() == pytest.approx(1)
    assert (inside.max(0) + inside.min(0)) == pytest.approx(np.zeros(3), abs=1e-12)
    assert np.ptp(inside, axis=0) / np.ptp(cloud, axis=0) == pytest.approx(np.full(3, frame.scale))
    assert frame.outside(inside) == pytest.approx(cloud)


@pytest.mark.parametrize("ending", ["ply", "obj"])
def test_meshes_come_back_as_they_went(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    write_mesh(TETRAHEDRON, path)
    again = read_mesh(path)
    assert np.array_equal(again.vertices, TETRAHEDRON.vertices) and np.array_equal(again.faces, TETRAHEDRON.faces)


def ply(kind, body, elements):
    return f"ply\nformat {kind} 1.0\ncomment made by hand\n{elements}end_header\n".encode() + body


SQUARE = "element vertex 4\nproperty float x\nproperty uchar red\nproperty float y\nproperty float z\n"
QUADS = "element face {}\nproperty list uchar int vertex_index\n"


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_with_other_properties_quads_and_mixed_faces(tmp_path, kind):
    rows = [(0, 9, 0, 0), (1, 9, 0, 0), (1, 9, 1, 0), (0, 9, 1, 0)]
    rings = [(0, 1, 2, 3), (0, 1, 2)]
    if kind == "ascii":
        lines = [" ".join(map(str, row)) for row in rows] + [" ".join(map(str, (len(r), *r))) for r in rings]
        body = "\n".join(lines).encode()
    else:
        end = "<" if "little" in kind else ">"
        body = np.array(rows, [("x", end + "f4"), ("r", "u1"), ("y", end + "f4"), ("z", end + "f4")]).tobytes()
        for ring in rings:
            body += np.array([len(ring)], "u1").tobytes() + np.array(ring, end + "i4").tobytes()
    path = tmp_path / "s.ply"
    path.write_bytes(ply(kind, body, SQUARE + QUADS.format(2)))
    mesh = read_mesh(path)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("ending", ["xyz", "txt", "csv", "obj", "ply"])
def test_clouds_are_read_from_every_kind_of_file(tmp_path, ending):
    cloud, path = points(), tmp_path / f"c.{ending}"
    if ending == "ply":
        path.write_bytes(
            ply("binary_little_endian", cloud.astype("<f8").tobytes(),
                "element vertex 60\nproperty double x\nproperty double y\nproperty double z\n")
        )  # fmt: skip
    elif ending == "csv":
        path.write_text("x,y,z,intensity\n" + "\n".join(",".join(map(repr, map(float, (*row, 5)))) for row in cloud))
    else:
        lead = "v " if ending == "obj" else ""
        path.write_text("# scan\n" + "\n".join(lead + " ".join(map(repr, map(float, row))) for row in cloud) + "\n\n")
    assert np.array_equal(read_cloud(path), cloud)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"x", "not read; give one of .ply"), ("a.xyz", b"", "is empty"), ("a.xyz", b"# nothing\n", "holds no points"),
        ("a.xyz", b"1 2 3\n4 five 6\n", r"line 2: '4 five 6'"), ("a.xyz", b"1 2 3\n4 5\n", "line 2"),
        ("a.obj", b"v 1 2\n", "line 1"), ("a.obj", b"f 1 2 3\n", "holds no points"),
        ("a.obj", b"v 0 0 0\nf 1 2 9\n", "damaged"), ("a.ply", b"solid\n", "does not begin with"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "header"),
        ("a.ply", ply("binary_little_endian", b"\0" * 20, SQUARE), "ends before"),
        ("a.ply", ply("ascii", b"1 2 3 4", SQUARE), "ends before"), ("a.ply", ply("utf8", b"", SQUARE), "format 'utf8'"),
        ("a.ply", ply("ascii", b"1", "element vertex 1\nproperty float x\n"), "no property 'y'"),
        ("a.ply", ply("ascii", b"", "element vertex 0\nproperty float x\nproperty float y\nproperty float z\n"), "no points"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_say_why(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_cloud(tmp_path / name)


def test_a_mesh_where_points_are_asked_is_refused_and_can_be_sampled(tmp_path):
    write_mesh(TETRAHEDRON, tmp_path / "t.ply")
    with pytest.raises(UserError, match=r"is a mesh \(4 faces\).*--sample 10000"):
        read_cloud(tmp_path / "t.ply")
    cloud = read_cloud(tmp_path / "t.ply", sample=200)
    assert cloud.shape == (200, 3) and (cloud >= 0).all() and (cloud.sum(1) <= 1 + 1e-9).all()
    np.savetxt(tmp_path / "c.xyz", points())
    with pytest.raises(UserError, match="no faces to draw from"):
        read_cloud(tmp_path / "c.xyz", sample=100)


def test_missing_huge_and_unwritable(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="There is no file"):
        read_cloud(tmp_path / "nothing.ply")
    np.savetxt(tmp_path / "c.xyz", points())
    monkeypatch.setattr("workbench.geometry.files.BIGGEST", 1000)
    with pytest.raises(UserError, match="thin the cloud"):
        read_cloud(tmp_path / "c.xyz")
    with pytest.raises(UserError, match=r"written as \.ply or \.obj"):
        write_mesh(TETRAHEDRON, tmp_path / "t.stl")
    with pytest.raises(UserError, match="does not exist"):
        write_mesh(TETRAHEDRON, tmp_path / "no" / "t.ply")
