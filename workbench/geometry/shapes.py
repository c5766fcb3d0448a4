"""Shapes whose surface is known exactly: open analytic sheets, two closed ones with edges, and two classic meshes.

Each fills a box of longest side 1 around 0 and gives points spread by area, normals, the exact distance from anywhere, and
points along its open edges.

Source: the analytic ones are our own; `bunny` (Stanford bunny, 1839 vertices) and `teapot` (Utah teapot, open) are the npm
packages of these names, see `assets/SOURCES.md`. They stand for the data of Hu et al., CVPR 2025, arXiv 2407.01330, §4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workbench.errors import choose
from workbench.geometry.cloud import frame_of
from workbench.geometry.mesh import Mesh, unit
from workbench.geometry.triangles import mesh_distance
from workbench.paths import assets

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """A known surface.

    Args:
        name: how it is called.
        sample: (n, rng) → points (n, 3) and normals (n, 3).
        distance: queries (m, 3) → (m,).
        rim: (k, 3), points along its open edges; empty for a closed surface.
    """

    name: str
    sample: Callable[[int, np.random.Generator], tuple[Array, Array]]
    distance: Callable[[Array], Array]
    rim: Array

    @property
    def is_open(self) -> bool:
        """Whether the surface has an edge where it ends."""
        return len(self.rim) > 0


def circle(radius: float, z: float, n: int = 400) -> Array:
    """`n` points of a circle around the z axis."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, z)], 1)


def hemisphere() -> Shape:
    """Upper half of a sphere of radius ½, open below."""
    down = np.array([0.0, 0.0, 0.25])

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        normal = unit(rng.standard_normal((n, 3)))
        normal[:, 2] = np.abs(normal[:, 2])
        return 0.5 * normal - down, normal

    def distance(q: Array) -> Array:
        q = q + down
        side = np.hypot(q[:, 0], q[:, 1])
        return np.where(q[:, 2] >= 0, np.abs(np.linalg.norm(q, axis=1) - 0.5), np.hypot(side - 0.5, q[:, 2]))

    return Shape("hemisphere", sample, distance, circle(0.5, -0.25))


def cylinder() -> Shape:
    """A tube of radius 0.3 and height 1, open at both ends."""

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        angle = rng.uniform(0, 2 * np.pi, n)
        normal = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], 1)
        return 0.3 * normal + np.stack([np.zeros(n), np.zeros(n), rng.uniform(-0.5, 0.5, n)], 1), normal

    def distance(q: Array) -> Array:
        return np.hypot(np.hypot(q[:, 0], q[:, 1]) - 0.3, np.maximum(np.abs(q[:, 2]) - 0.5, 0))

    return Shape("cylinder", sample, distance, np.concatenate([circle(0.3, -0.5), circle(0.3, 0.5)]))


def sheets() -> Shape:
    """Two parallel squares, 0.05 apart."""
    line = np.linspace(-0.5, 0.5, 100)
    edge = np.full(100, 0.5)
    square = np.concatenate([np.stack(pair, 1) for s in (1, -1) for pair in ((line, s * edge), (s * edge, line))])

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        points = np.concatenate([rng.uniform(-0.5, 0.5, (n, 2)), 0.025 * rng.choice([-1.0, 1.0], (n, 1))], 1)
        return points, np.tile([0.0, 0.0, 1.0], (n, 1))

    def distance(q: Array) -> Array:
        out = np.linalg.norm(np.maximum(np.abs(q[:, :2]) - 0.5, 0), axis=1)
        return np.hypot(out, np.abs(np.abs(q[:, 2]) - 0.025))

    rim = np.concatenate([np.column_stack([square, np.full(len(square), z)]) for z in (-0.025, 0.025)])
    return Shape("two sheets", sample, distance, rim)


def box() -> Shape:
    """A closed box with sides 1, 0.7 and 0.5."""
    half = np.array([0.5, 0.35, 0.25])
    areas = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        axis, sign = rng.choice(3, n, p=areas / areas.sum()), rng.choice([-1.0, 1.0], n)
        points, normals = rng.uniform(-half, half, (n, 3)), np.zeros((n, 3))
        points[np.arange(n), axis], normals[np.arange(n), axis] = sign * half[axis], sign
        return points, normals

    def distance(q: Array) -> Array:
        out = np.abs(q) - half
        return np.where((out < 0).all(1), -out.max(1), np.linalg.norm(np.maximum(out, 0), axis=1))

    return Shape("box", sample, distance, np.empty((0, 3)))


def cone() -> Shape:
    """A closed cone of height 1 and base radius 0.4."""
    radius, slant = 0.4, np.hypot(1, 0.4)

    def sample(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        side = rng.random(n) < slant / (slant + radius)
        share, angle = np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
        around = np.stack([np.cos(angle), np.sin(angle)], 1)
        points = np.column_stack([radius * share[:, None] * around, np.where(side, 0.5 - share, -0.5)])
        slope = np.column_stack([around, np.full(n, radius)]) / slant
        return points, np.where(side[:, None], slope, [0.0, 0.0, -1.0])

    def distance(q: Array) -> Array:
        flat = np.stack([np.hypot(q[:, 0], q[:, 1]), q[:, 2]], 1)
        found = [np.hypot(np.maximum(flat[:, 0] - radius, 0), flat[:, 1] + 0.5)]
        start, along = np.array([0.0, 0.5]), np.array([radius, -1.0])
        t = ((flat - start) @ along / (along @ along)).clip(0, 1)
        found.append(np.linalg.norm(flat - start - t[:, None] * along, axis=1))
        return np.minimum(*found)

    return Shape("cone", sample, distance, np.empty((0, 3)))


def sheet_of(name: str, place: Callable[[Array, Array], Array], rim: Callable[[], Array], n: int = 300) -> Shape:
    """A shape from a map of the unit square, as a mesh of 2·n² triangles: fine enough to stand for the surface itself."""
    u, v = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1), indexing="ij")
    frame = frame_of(place(u.ravel(), v.ravel()))
    at = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (at[i : n + i, j : n + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    mesh = Mesh(
        frame.inside(place(u.ravel(), v.ravel())), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    )
    return Shape(name, lambda k, rng: mesh.sample(k, rng), mesh_distance(mesh, samples=0), frame.inside(rim()))


def mobius() -> Shape:
    """A Möbius strip: one side, one edge."""

    def place(u: Array, v: Array) -> Array:
        angle, across = 2 * np.pi * u, 0.32 * (2 * v - 1)
        side = 1 + across * np.cos(angle / 2)
        return np.stack([side * np.cos(angle), side * np.sin(angle), across * np.sin(angle / 2)], 1)

    t = np.linspace(0, 1, 400, endpoint=False)
    return sheet_of("möbius strip", place, lambda: np.concatenate([place(t, np.zeros(400)), place(t, np.ones(400))]))


def cloth() -> Shape:
    """A square cloth in folds."""

    def place(u: Array, v: Array) -> Array:
        height = 0.10 * np.sin(4 * np.pi * u) * (0.5 + v) + 0.05 * np.cos(2 * np.pi * v)
        return np.stack([u, v, height], 1)

    t, zero, one = np.linspace(0, 1, 200), np.zeros(200), np.ones(200)
    return sheet_of(
        "folded cloth", place,
        lambda: np.concatenate([place(t, zero), place(t, one), place(zero, t), place(one, t)]),
    )  # fmt: skip


def scanned(name: str) -> Shape:
    """One of the shipped meshes, `bunny` or `teapot`."""
    from workbench.geometry.files import read_mesh

    mesh = read_mesh(assets() / "shapes" / f"{name}.ply")
    mesh = Mesh(frame_of(mesh.vertices).inside(mesh.vertices), mesh.faces)
    ends = mesh.vertices[mesh.boundary()]
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    rim = (ends[:, 0] + steps * (ends[:, 1] - ends[:, 0])).reshape(-1, 3)
    return Shape(name, lambda n, rng: mesh.sample(n, rng), mesh_distance(mesh), rim)


SHAPES: dict[str, Callable[[], Shape]] = {
    "hemisphere": hemisphere,
    "cylinder": cylinder,
    "möbius strip": mobius,
    "folded cloth": cloth,
    "two sheets": sheets,
    "teapot": functools.partial(scanned, "teapot"),
    "bunny": functools.partial(scanned, "bunny"),
    "box": box,
    "cone": cone,
}


@functools.cache
def shape(name: str) -> Shape:
    """A known shape by name; the same object every time."""
    return SHAPES[choose("shape", name, SHAPES)]()


CONDITIONS = ("clean", "noise 0.0025", "noise 0.005", "outliers", "noise and outliers", "uneven")


def scan(which: Shape, n: int, condition: str, rng: np.random.Generator) -> Array:
    """A cloud as a scanner would give it.

    Args:
        which: the shape.
        n: points.
        condition: one of CONDITIONS; noise is a standard deviation in sides of the box, outliers are 10 % of the points thrown
            anywhere into the box, uneven leaves one end four times as dense as the other.
        rng: decides everything.

    Returns:
        (n, 3).
    """
    choose("condition", condition, CONDITIONS)
    if condition == "uneven":
        points = which.sample(4 * n, rng)[0]
        chance = 4.0 ** (points[:, 0] - points[:, 0].max())
        return points[rng.choice(4 * n, n, replace=False, p=chance / chance.sum())]
    points = which.sample(n, rng)[0]
    sigma = {"noise 0.0025": 0.0025, "noise 0.005": 0.005, "noise and outliers": 0.005}.get(condition, 0.0)
    points = points + sigma * rng.standard_normal(points.shape)
    if "outliers" in condition:
        lost = rng.choice(n, n // 10, replace=False)
        points[lost] = rng.uniform(-0.5, 0.5, (len(lost), 3))
    return points
