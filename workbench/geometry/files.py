"""Clouds and meshes in files: PLY (text and binary), OBJ, XYZ; nothing that can run code is opened.

    PLY   `vertex` with x, y, z of any number type, other properties skipped; `face` with a list of indices
    OBJ   lines `v x y z` and `f i j k …` (also i/t/n, negative indices count from the end)
    XYZ   one point per line, first three columns; blanks, commas or semicolons between; `#` begins a comment

Polygons are cut into triangles as a fan. Source: Turk, "The PLY Polygon File Format", 1994; Wavefront OBJ specification 3.0.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np

from workbench.errors import UserError
from workbench.geometry.cloud import check_cloud
from workbench.geometry.mesh import Mesh

TEXT = (".xyz", ".txt", ".pts", ".csv")
KNOWN = (".ply", ".obj", *TEXT)
BIGGEST = 500_000_000  # bytes
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4",
    "float64": "f8",
}  # fmt: skip
Element = tuple[str, int, list[tuple[str, ...]]]  # name, rows, properties: (name, type) or (name, count type, type)


def read_mesh(path: str | Path) -> Mesh:
    """Read a file; a file of points gives a mesh without faces.

    Raises:
        UserError: no such file, unknown ending, empty, larger than 500 MB, or a line that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in KNOWN:
        raise UserError(f"{path.name}: files of this kind are not read; give one of {', '.join(KNOWN)}.")
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the name.")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path.name} is empty; give a file with at least 50 points.")
    if size > BIGGEST:
        raise UserError(
            f"{path.name} has {size / 1e6:.0f} MB and at most {BIGGEST / 1e6:.0f} MB are read; thin the cloud first."
        )
    if path.suffix.lower() == ".ply":
        return _read_ply(path)
    return _read_obj(path) if path.suffix.lower() == ".obj" else Mesh(_read_rows(path), np.empty((0, 3)))


def read_cloud(path: str | Path, *, sample: int | None = None, seed: int = 0) -> np.ndarray:
    """Read the points of a cloud.

    Args:
        path: a file of points; a mesh only together with `sample`.
        sample: draw so many points from the faces of a mesh.
        seed: of that draw.

    Returns:
        (n, 3) float64, checked by `check_cloud`.

    Raises:
        UserError: as `read_mesh` and `check_cloud`; a mesh without `sample`; `sample` without a mesh.
    """
    path = Path(path)
    mesh = read_mesh(path)
    if len(mesh.faces) and not sample:
        raise UserError(
            f"{path.name} is a mesh ({len(mesh.faces):,} faces), and points are asked; draw some from it: --sample 10000"
        )
    if sample and not len(mesh.faces):
        raise UserError(f"{path.name} holds points and no faces to draw from; leave --sample out.")
    if sample:
        return check_cloud(mesh.sample(sample, np.random.default_rng(seed))[0], path.name)
    return check_cloud(mesh.vertices, path.name)


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh as PLY (binary, double precision) or OBJ, by the ending of `path`.

    Raises:
        UserError: another ending, or the folder does not exist.
    """
    path = Path(path)
    check_output(path)
    if path.suffix.lower() == ".obj":
        with path.open("w", encoding="ascii") as file:
            file.writelines("v {:.9g} {:.9g} {:.9g}\n".format(*row) for row in mesh.vertices)
            file.writelines("f {} {} {}\n".format(*row) for row in mesh.faces + 1)
        return
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\nproperty double x\nproperty double y\n"
        f"property double z\nelement face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(mesh.faces), [("n", "u1"), ("i", "<i4", 3)])
    rows["n"], rows["i"] = 3, mesh.faces
    path.write_bytes(header.encode() + mesh.vertices.astype("<f8").tobytes() + rows.tobytes())


def check_output(path: Path) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if path.suffix.lower() not in (".ply", ".obj"):
        raise UserError(f"Meshes are written as .ply or .obj, not {path.name!r}; change the ending.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist; create it or write elsewhere.")


def _read_rows(path: Path) -> np.ndarray:
    rows = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = re.split(r"[\s,;]+", line.partition("#")[0].strip())
            if words == [""]:
                continue
            try:
                rows.append([float(word) for word in words[:3]])
                if len(words) < 3:
                    raise ValueError
            except ValueError as error:
                if not rows and number == 1:
                    continue  # a line of column names, or how many points follow
                raise UserError(
                    f"{path.name}, line {number}: {line.strip()[:40]!r} is not three numbers; correct or remove it."
                ) from error
    if not rows:
        raise UserError(f"{path.name} holds no points; give one point x y z per line.")
    return np.array([row for row in rows if len(row) == 3], np.float64)


def _read_obj(path: Path) -> Mesh:
    vertices, faces = [], []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.partition("#")[0].split()
            try:
                if words[:1] == ["v"]:
                    vertices.append([float(word) for word in words[1:4]])
                    if len(words) < 4:
                        raise ValueError
                elif words[:1] == ["f"]:
                    ring = [int(word.split("/")[0]) for word in words[1:]]
                    ring = [i - 1 if i > 0 else len(vertices) + i for i in ring]
                    faces += [(ring[0], b, c) for b, c in itertools.pairwise(ring[1:])]
            except ValueError as error:
                raise UserError(
                    f"{path.name}, line {number}: {line.strip()[:40]!r} cannot be read; correct it."
                ) from error
    if not vertices:
        raise UserError(f"{path.name} holds no points: no line begins with v.")
    return _checked(path, np.array(vertices), np.array(faces or np.empty((0, 3)), np.int64))


def _header(path: Path, file) -> tuple[str, list[Element]]:
    """Format and elements of a PLY header; the file stands behind it afterwards."""
    if file.readline().strip() != b"ply":
        raise UserError(f"{path.name} does not begin with the word ply; it is no PLY file, or cut off at the start.")
    kind, elements = "", []
    for _ in range(1000):
        words = file.readline().decode("ascii", "replace").split()
        if words == ["end_header"]:
            return kind, elements
        try:
            if words[0] == "format":
                kind = words[1]
            elif words[0] == "element":
                elements.append((words[1], int(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                elements[-1][2].append((words[4], TYPES[words[2]], TYPES[words[3]]))
            elif words[0] == "property":
                elements[-1][2].append((words[2], TYPES[words[1]]))
        except (IndexError, KeyError, ValueError) as error:
            raise UserError(f"{path.name}: its header line {' '.join(words)[:60]!r} cannot be read.") from error
    raise UserError(f"{path.name}: its header has no end_header; the file is cut off or no PLY.")


def _read_ply(path: Path) -> Mesh:
    with path.open("rb") as file:
        kind, elements = _header(path, file)
        data = file.read()
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise UserError(
            f"{path.name}: format {kind!r} is not known; PLY is ascii, binary_little_endian or binary_big_endian."
        )
    vertices, faces = None, np.empty((0, 3), np.int64)
    words, at = (data.split() if kind == "ascii" else []), 0
    try:
        for name, rows, properties in elements:
            if kind == "ascii":
                table, at = _text_element(words, at, rows, properties)
            else:
                table, at = _binary_element(data, at, rows, properties, "<" if kind.startswith("binary_l") else ">")
            if name == "vertex":
                vertices = np.stack([np.asarray(table[axis], np.float64) for axis in "xyz"], 1)
            elif name == "face":
                faces = _fan(table.get("vertex_indices", table.get("vertex_index", [])))
    except KeyError as error:
        raise UserError(f"{path.name}: its vertices have no property {error}; x, y and z are needed.") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{path.name} ends before all its elements, or holds something that is no number.") from error
    if vertices is None or not len(vertices):
        raise UserError(f"{path.name} holds no points: its header names no vertices.")
    return _checked(path, vertices, faces)


def _text_element(words: list[bytes], at: int, rows: int, properties: list) -> tuple[dict, int]:
    if all(len(p) == 2 for p in properties):
        stop = at + rows * len(properties)
        block = np.array(words[at:stop], np.float64).reshape(rows, len(properties))
        return {p[0]: block[:, i] for i, p in enumerate(properties)}, stop
    table: dict[str, list] = {p[0]: [] for p in properties}
    for _ in range(rows):
        for p in properties:
            length = int(words[at]) if len(p) == 3 else 1
            at += len(p) == 3
            values = [float(word) for word in words[at : at + length]]
            if len(values) < length:
                raise IndexError
            table[p[0]].append(values if len(p) == 3 else values[0])
            at += length
    return table, at


def _binary_element(data: bytes, at: int, rows: int, properties: list, order: str) -> tuple[dict, int]:
    fields = []
    for p in properties:
        if len(p) == 2:
            fields.append((p[0], order + p[1]))
        else:  # all lists as long as the first one: what nearly every file has; checked below
            offset = at + sum(np.dtype(f[1:]).itemsize if len(f) == 2 else np.dtype(f).itemsize for f in fields)
            length = int(np.frombuffer(data, order + p[1], 1, offset)[0]) if rows else 0
            fields += [(f"{p[0]} n", order + p[1]), (p[0], order + p[2], (length,))]
    kind = np.dtype(fields)
    if all(len(p) == 2 for p in properties) or rows == 0:
        table = np.frombuffer(data, kind, rows, at)
        return {name: table[name] for name in kind.names or ()}, at + rows * kind.itemsize
    if len(data) - at >= rows * kind.itemsize:
        table = np.frombuffer(data, kind, rows, at)
        lists = [p for p in properties if len(p) == 3]
        if all((table[f"{p[0]} n"] == table[p[0]].shape[1]).all() for p in lists):
            return {name: table[name] for name in kind.names}, at + rows * kind.itemsize
    found: dict[str, list] = {p[0]: [] for p in properties}
    for _ in range(rows):
        for p in properties:
            length = 1
            if len(p) == 3:
                length = int(np.frombuffer(data, order + p[1], 1, at)[0])
                at += np.dtype(p[1]).itemsize
            found[p[0]].append(np.frombuffer(data, order + p[-1], length, at))
            at += length * np.dtype(p[-1]).itemsize
    return found, at


def _fan(rings) -> np.ndarray:
    if isinstance(rings, np.ndarray) and rings.ndim == 2:
        parts = [rings[:, [0, i, i + 1]] for i in range(1, rings.shape[1] - 1)]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty((0, 3), np.int64)
    faces = [(ring[0], ring[i], ring[i + 1]) for ring in rings for i in range(1, len(ring) - 1)]
    return np.array(faces or np.empty((0, 3)), np.int64)


def _checked(path: Path, vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise UserError(f"{path.name}: a face names point {faces.max() + 1} of {len(vertices)}; the file is damaged.")
    return Mesh(vertices, faces)
