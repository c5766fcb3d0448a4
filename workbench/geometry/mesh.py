"""Triangle meshes as two arrays, with the few things asked of them: normals, areas, edges, parts, random points.

Source: none of its own; a plain container for Hu et al., CVPR 2025, arXiv 2407.01330.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Args:
        vertices: (V, 3) float64.
        faces: (F, 3) int64, indices of vertices, counter-clockwise seen from outside.
    """

    vertices: np.ndarray
    faces: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", np.asarray(self.vertices, np.float64).reshape(-1, 3))
        object.__setattr__(self, "faces", np.asarray(self.faces, np.int64).reshape(-1, 3))

    @property
    def crosses(self) -> np.ndarray:
        """(F, 3), normal of each face with twice its area as length."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        return np.cross(b - a, c - a)

    @property
    def areas(self) -> np.ndarray:
        """(F,)."""
        return 0.5 * np.linalg.norm(self.crosses, axis=1)

    @property
    def face_normals(self) -> np.ndarray:
        """(F, 3) of length 1 (0 for a face without area)."""
        return unit(self.crosses)

    @property
    def vertex_normals(self) -> np.ndarray:
        """(V, 3) of length 1: the area-weighted mean of the faces around."""
        return unit(spread_to_vertices(self.crosses, self.faces, len(self.vertices)))

    @property
    def centroids(self) -> np.ndarray:
        """(F, 3)."""
        return self.vertices[self.faces].mean(1)

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct edges (E, 2), how many faces use each (E,), and the edge of each face side (F, 3)."""
        sides = np.sort(self.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        key = sides[:, 0] * len(self.vertices) + sides[:, 1]
        _, first, inverse, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        return sides[first], count, inverse.reshape(-1, 3)

    def face_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of faces that share an edge of exactly two faces (P, 2), and those edges (P, 2)."""
        edges, count, of_face = self.edges()
        order = np.argsort(of_face.ravel(), kind="stable")
        starts = np.concatenate([[0], np.cumsum(count)[:-1]])[count == 2]
        owner = order // 3
        return np.stack([owner[starts], owner[starts + 1]], 1), edges[count == 2]

    def boundary(self) -> np.ndarray:
        """(B, 2), edges that belong to one face only."""
        edges, count, _ = self.edges()
        return edges[count == 1]

    def boundary_length(self) -> float:
        """Total length of the open edges."""
        ends = self.vertices[self.boundary()]
        return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())

    def keep_faces(self, chosen: np.ndarray) -> Mesh:
        """The mesh of some faces (mask or indices), without unused vertices and faces that repeat a vertex."""
        faces = self.faces[chosen]
        whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        used, inverse = np.unique(faces[whole], return_inverse=True)
        return Mesh(self.vertices[used], inverse.reshape(-1, 3))

    def sample(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`n` points spread evenly by area (n, 3), and the normals of their faces (n, 3)."""
        areas = self.areas
        face = rng.choice(len(areas), n, p=areas / areas.sum())
        u, v = rng.random((2, n))
        over = u + v > 1
        u, v = np.where(over, 1 - u, u)[:, None], np.where(over, 1 - v, v)[:, None]
        a, b, c = (self.vertices[self.faces[face, i]] for i in range(3))
        return a + u * (b - a) + v * (c - a), self.face_normals[face]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; vectors without length stay 0."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def spread_to_vertices(values: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """Sum of a face quantity (F, d) over the faces around each vertex (count, d)."""
    where = faces.ravel()
    return np.stack([np.bincount(where, np.repeat(column, 3), count) for column in values.T], 1)
