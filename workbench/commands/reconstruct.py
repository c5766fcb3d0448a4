"""`workbench reconstruct`: a mesh from a point cloud, open where the surface is open."""

from __future__ import annotations

import click


@click.command()
@click.argument("cloud", metavar="CLOUD")
@click.option("-o", "--out", required=True, metavar="MESH.ply", help="Where the mesh goes: .ply or .obj.")
@click.option(
    "--resolution",
    default=128,
    show_default=True,
    type=click.IntRange(16, 512),
    help="Grid nodes along the longest side. Doubling it takes four times as long. 64 to 256.",
)
@click.option(
    "--radius",
    default=None,
    type=float,
    help="Size of the neighbourhood, in the cloud's unit. Larger ones smooth noise away. Default: follows the density.",
)
@click.option(
    "--iso",
    default=None,
    type=float,
    help="Half the thickness of the skin, in the cloud's unit. Sheets nearer than twice that merge. Default: one grid step.",
)
@click.option(
    "--sample", default=None, type=click.IntRange(50), help="CLOUD is a mesh: draw so many points from its faces."
)
@click.option(
    "--weights", default="losf-light", show_default=True, help="losf-light, or a folder of your own training."
)
@click.option("--seed", default=0, show_default=True, help="Seed of --sample.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def reconstruct(cloud, out, resolution, radius, iso, sample, weights, seed, as_json) -> None:
    """Reconstruct the surface behind the points of CLOUD (.ply, .obj, .xyz, .txt, .csv) and write it as a mesh.

    \b
    workbench reconstruct scan.ply -o surface.ply
    workbench reconstruct sparse.xyz -o surface.obj --resolution 64
    """
    import json
    import time
    from pathlib import Path

    from workbench.geometry.files import check_output, read_cloud, write_mesh
    from workbench.geometry.reconstructor import LoSFReconstructor
    from workbench.progress import ProgressLine, span

    check_output(Path(out))
    points = read_cloud(cloud, sample=sample, seed=seed)
    begun = time.monotonic()
    found = LoSFReconstructor(resolution, radius=radius, iso=iso, net=weights).fit(points, progress=ProgressLine())
    write_mesh(found.mesh_, out)
    mesh, open_edge = found.mesh_, found.mesh_.boundary_length()
    told = {
        "out": out,
        "points": len(points),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "open_edge": open_edge,
        "queries": found.n_queries_,
        "seconds": round(time.monotonic() - begun, 2),
    }
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    edge = f"open edges of length {open_edge:.3g}" if open_edge else "closed"
    click.echo(
        f"{out}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} triangles, {edge}; "
        f"{len(points):,} points, {span(told['seconds'])}."
    )
