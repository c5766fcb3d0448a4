"""Open a double cover: decide for each of its faces whether it belongs to the layer that is kept.

A face with normal n at c has a partner when the skin at c − 2·iso·n looks the other way: then it lies on one layer and its
partner on the other. Faces without partner are the rims that wrap around the open edges of the surface.

    1. connected faces with partners form patches of one layer; partners tie two patches as opposite sides
    2. patches get one of two sides, the strongest ties first (a union–find with parity)
    3. a patch that is its own opposite is one-sided (Möbius): a face and its partner grow over it, each takes what is nearer to
       it, so exactly one layer is kept and a seam runs once across the strip
    4. rim faces: minimum cut between the two sides, capacity = length of the edge cut through
    5. of every tied group the larger side is kept; parts smaller than a speck are dropped

Closed surfaces have two separate layers and no rim: the outer one is larger.

Source: Hou et al., DCUDF, SIGGRAPH Asia 2023, §4.3 (minimum cut), as used by Hu et al., CVPR 2025, arXiv 2407.01330.
Departures: DCUDF starts from a random face and the nearest face of the other layer, and tries again when the halves differ in
size; here the sides are known from the partners and only the rim is cut. scipy's maximum flow instead of PyMaxflow.
"""

from __future__ import annotations

import numpy as np

from workbench.geometry.mesh import Mesh

UNITS = 10_000  # capacities of the flow are whole numbers; the mean edge counts this much


def partners(cover: Mesh, iso: float) -> np.ndarray:
    """Index of the face opposite to each face (F,), −1 where there is none.

    Args:
        cover: isosurface at `iso`, normals away from the surface.
        iso: its distance.
    """
    from scipy.spatial import cKDTree

    centres, normals = cover.centroids, cover.face_normals
    distance, index = cKDTree(centres).query(centres - 2 * iso * normals)
    opposite = (normals * normals[index]).sum(1) < -0.5
    return np.where(opposite & (distance < 0.9 * iso), index, -1)


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Label 0, 1, … of the connected part that each of `count` things belongs to; pairs (P, 2) are connected."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1]


def two_sides(ties: np.ndarray, votes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Group (count,) and side 0 or 1 (count,) of each patch, from ties (T, 2) between opposite ones, strongest first."""
    parent, parity = list(range(count)), [0] * count

    def find(i: int) -> tuple[int, int]:
        side = 0
        while parent[i] != i:
            side ^= parity[i]
            i = parent[i]
        return i, side

    for a, b in ties[np.argsort(-votes, kind="stable")]:
        (root_a, side_a), (root_b, side_b) = find(a), find(b)
        if root_a != root_b:
            parent[root_b], parity[root_b] = root_a, side_a ^ side_b ^ 1
    found = np.array([find(i) for i in range(count)]).reshape(count, 2)
    return found[:, 0], found[:, 1]


def split_one_sided(cover: Mesh, inside: np.ndarray, partner: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Side of each face of a patch that is its own opposite: nearer to a face of it, or to that face's partner.

    Args:
        cover: the double cover.
        inside: (F,) mask of the patch.
        partner: as `partners` gives it.
        pairs: (P, 2) neighbouring faces.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    members = np.flatnonzero(inside)
    place = np.full(len(inside), -1)
    place[members] = np.arange(len(members))
    own = pairs[inside[pairs].all(1)]
    centres = cover.centroids
    length = np.linalg.norm(centres[own[:, 0]] - centres[own[:, 1]], axis=1) + 1e-12
    graph = coo_matrix((length, (place[own[:, 0]], place[own[:, 1]])), (len(members),) * 2).tocsr()
    mates = members[inside[partner[members]]]
    start = mates[np.argmin(np.linalg.norm(centres[mates] - centres[mates].mean(0), axis=1))]
    reached = dijkstra(graph, directed=False, indices=[place[start], place[partner[start]]])
    side = np.zeros(len(inside), int)
    side[members] = reached[1] < reached[0]
    return side


def cut_rim(cover: Mesh, side: np.ndarray, pairs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Give the faces without a side (−1) one of the two, along the shortest line.

    Args:
        cover: the double cover.
        side: (F,) 0, 1 or −1.
        pairs: (P, 2) neighbouring faces.
        edges: (P, 2) the edges they share.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    open_faces = np.flatnonzero(side < 0)
    if not len(open_faces):
        return side
    source, sink = len(open_faces), len(open_faces) + 1
    node = np.full(len(side), -1)
    node[open_faces] = np.arange(len(open_faces))
    node[side == 0], node[side == 1] = source, sink
    a, b = node[pairs[:, 0]], node[pairs[:, 1]]
    ends = cover.vertices[edges]
    length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    capacity = np.maximum(1, (UNITS * length / length.mean()).astype(np.int64))
    used = (a != b) & ((a < source) | (b < source))
    a, b, capacity = a[used], b[used], capacity[used]
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    graph = coo_matrix((np.tile(capacity, 2), (rows, columns)), (sink + 1, sink + 1)).tocsr()
    graph.data = graph.data.clip(max=np.iinfo(np.int32).max // 4).astype(np.int32)
    flow = maximum_flow(graph, source, sink).flow
    left = (graph - flow).tocsr()
    left.data = left.data.clip(min=0)
    left.eliminate_zeros()
    reached = np.zeros(sink + 1, bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    side = side.copy()
    side[open_faces] = np.where(reached[: len(open_faces)], 0, 1)
    return side


def cut_double_cover(cover: Mesh, iso: float) -> np.ndarray:
    """Which faces to keep (F,), so that the surface is covered once.

    Args:
        cover: isosurface at `iso`, not yet refined, normals away from the surface.
        iso: its distance.
    """
    partner = partners(cover, iso)
    pairs, edges = cover.face_pairs()
    paired = partner >= 0
    patch = components(len(paired), pairs[paired[pairs].all(1)])
    area, whole = cover.areas, components(len(paired), pairs)
    size = np.bincount(patch, area * paired)
    strong = paired & (size[patch] > 4 * iso * iso)  # a few faces that happen to look opposite are rim
    side, group = np.full(len(paired), -1), np.full(len(paired), -1)
    both = strong & strong[partner]
    own = patch[both] == patch[partner[both]]
    mirrored = np.array([p for p in np.unique(patch[both]) if own[patch[both] == p].mean() > 0.5], int)
    one_sided = mirrored[size[mirrored] > 100 * iso * iso]  # smaller ones are tips of cones: rim as well
    strong &= ~np.isin(patch, np.setdiff1d(mirrored, one_sided))
    both = strong & strong[partner]
    for p in one_sided:
        inside = strong & (patch == p)
        side[inside] = split_one_sided(cover, inside, partner, pairs)[inside]
        group[inside] = p
    rest = both & ~np.isin(patch, one_sided)
    rest &= rest[partner]
    tied, votes = np.unique(np.sort(np.stack([patch[rest], patch[partner[rest]]], 1), 1), axis=0, return_counts=True)
    different = tied[:, 0] != tied[:, 1]
    groups, sides = two_sides(tied[different], votes[different], int(patch.max(initial=-1)) + 1)
    plain = strong & ~np.isin(patch, one_sided)
    side[plain], group[plain] = sides[patch[plain]], groups[patch[plain]]
    return _keep(cover, side, group, whole, pairs, edges, iso)


def _keep(
    cover: Mesh,
    side: np.ndarray,
    group: np.ndarray,
    whole: np.ndarray,
    pairs: np.ndarray,
    edges: np.ndarray,
    iso: float,
) -> np.ndarray:
    """Swap sides so that 0 is the larger one in every group, cut the rims, drop specks."""
    area = cover.areas
    known = side >= 0
    balance = np.bincount(group[known], (area * (1 - 2 * side))[known], int(group.max(initial=-1)) + 1)
    side[known] = np.where(balance[group[known]] < 0, 1 - side[known], side[known])
    bare = ~np.isin(whole, np.unique(whole[known]))  # thinner than the skin: one layer around something solid
    side[bare] = 0
    keep = cut_rim(cover, side, pairs, edges) == 0
    inner = pairs[keep[pairs].all(1)]
    part = components(len(keep), inner)
    large = np.bincount(part, area * keep) > np.where(np.bincount(part, bare) > 0, 60, 15) * iso * iso
    return keep & large[part]
