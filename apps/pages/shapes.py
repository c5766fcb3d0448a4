"""Shapes: points in, a surface out that stays open where it is open, beside a peer; distances on any plane; the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from workbench.commands.reconstruct import reconstruct
from workbench.errors import UserError
from workbench.figures import formats, style
from workbench.figures import shapes as figures
from workbench.geometry import job
from workbench.geometry.shapes import CONDITIONS
from workbench.runs import Run, Store

from .. import clouds, drawing, fields, html, live, meshes
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Shapes",
    "shapes",
    "Turn a cloud of points into a surface, beside a method without learning, and see where distances come from.",
    "Explore",
    2,
)
HELP = {option.name: option.help for option in reconstruct.params}
CLOUD = [
    fields.Field("points", "int", 6000, "Points drawn from a generated shape, or from an uploaded mesh. More show finer detail "
                 "and take longer. 2 000 to 20 000.", label="Points"),
    fields.Field("condition", "choice", "clean", "How a generated shape is scanned: noise in sides of the box, outliers are "
                 "10 % of the points, uneven is four times as dense at one end.", tuple((c, c) for c in CONDITIONS),
                 label="Scan"),
    fields.Field("seed", "int", 0, "Of the drawn points. Another seed is another scan.", more=True, label="Seed"),
]  # fmt: skip
FORM = [
    fields.Field("resolution", "int", 64, HELP["resolution"], label="Resolution"),
    fields.Field("radius", "float", None, HELP["radius"], more=True, label="Radius", optional=True),
    fields.Field("iso", "float", None, HELP["iso"], more=True, label="Skin", optional=True),
]
PEERS = {
    "nearest point": "nearest point · no learning",
    "quadratic fit": "quadratic fit · no learning",
    "screened Poisson": "screened Poisson · open3d",
    "ball pivoting": "ball pivoting · open3d",
    "none": "none · LoSF alone",
}
NOTHING = "The surface appears here. Press Start reconstructing: the bunny on the left is ready."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Points")
            cloud = gr.Dropdown(
                clouds.known(), value="shape:bunny", label="Cloud",
                info="A shape whose surface is known exactly, or a file you uploaded.",
            )  # fmt: skip
            upload = gr.File(label="Upload points", file_types=clouds.endings(), height=110)
            told = box(
                f'<p class="wb-help">Points or a mesh in {", ".join(clouds.endings())}; three numbers a line in text.</p>'
            )
            scan = fields.component(CLOUD)
            look = gr.Button("Show these points")
            step(2, "Surface")
            form = fields.component(FORM)
            step(3, "Beside it")
            peer = gr.Dropdown(
                [(PEERS[name], name) for name in job.peers()], value="quadratic fit", label="Peer",
                info="Reconstructed from the same points. Costs about a fifth of the time again.",
            )  # fmt: skip
        with gr.Column(elem_classes="wb-see"):
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop and keep", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            seen = drawing.component(name="cloud", visible=False)
            with gr.Column(visible=False) as made:
                pair = drawing.component(name="meshes")
                table = box()
                with gr.Row(elem_classes="wb-row"):
                    ply = gr.DownloadButton("Download the mesh (PLY)")
                    obj = gr.DownloadButton("Download the mesh (OBJ)")
            with gr.Column(visible=False) as cut:
                box("<h2>Distances on a plane</h2>")
                with gr.Row(elem_classes="wb-row"):
                    method = gr.Dropdown(
                        [job.OURS, *job.ALWAYS],
                        value=job.OURS,
                        label="Read by",
                        info="How a distance is read.",
                        min_width=140,
                    )
                    axis = gr.Dropdown(
                        ["x", "y", "z"],
                        value="y",
                        label="Across",
                        info="The plane stands across this axis.",
                        min_width=120,
                    )
                    at = gr.Slider(
                        -0.5,
                        0.5,
                        value=0.0,
                        step=0.05,
                        label="At",
                        info="In sides of the box, 0 is the middle.",
                        min_width=180,
                    )
                plane = drawing.component(name="distances")
            ready = gr.Textbox(visible="hidden", label="run whose points are there")
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start reconstructing", variant="primary")
        said = box()
    frame.on(frame.blocks.load, lambda: gr.update(choices=clouds.known()), None, cloud)
    frame.on(upload.upload, keep, upload, [cloud, upload, told])
    shown = [seen, scan, told]
    frame.on(look.click, preview, [cloud, scan], shown, progress="minimal")
    first = "(...v) => [v[0], v[1], workbench.parameter('run')]"
    frame.on(frame.blocks.load, first_preview, [cloud, scan, frame.run], shown, js=first)
    frame.on(start.click, begin, [cloud, scan, form, peer], [frame.run, said, scan, form])
    frame.on(stop.click, live.halt, frame.run, None)
    frame.on(resume.click, live.go_on, frame.run, None)
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume])
    frame.follow(stamp_meshes, show_meshes, [frame.run], [made, pair, table, ply, obj, cut, ready, seen])
    for event in (ready.change, method.change, axis.change, at.release):
        frame.on(event, show_plane, [frame.run, method, axis, at], plane, gate=True, progress="minimal")


# ---- setting up


def keep(path: str | None) -> tuple[Any, Any, str]:
    """Take an uploaded cloud in and choose it."""
    if path is None:
        return gr.skip(), gr.skip(), ""
    try:
        key, words = clouds.keep(path)
    except UserError as error:
        return gr.skip(), None, html.note(str(error), "bad")
    return gr.update(choices=clouds.known(), value=key), None, html.note(words, "good")


def settings_of(cloud: str, scan: str) -> dict[str, Any]:
    """Settings of the points.

    Raises:
        UserError: a key that names nothing, or values that cannot be read.
    """
    return {**clouds.settings(cloud), **fields.read(CLOUD, scan)}


def first_preview(cloud: str, scan: str, id: str) -> tuple[Any, Any, Any]:
    """The points on the left, unless the address names a run."""
    return (gr.skip(),) * 3 if own(id) else preview(cloud, scan)


def preview(cloud: str, scan: str) -> tuple[Any, str, str]:
    """The points as they will be read."""
    from workbench.geometry.cloud import frame_of

    try:
        settings = settings_of(cloud, scan)
        points = job.cloud_of(job.check(settings))
    except UserError as error:
        return gr.skip(), marked(error, CLOUD, scan), html.note(str(error), "bad")
    title = f"{formats.count(len(points))} points"
    fig = figures.surfaces({"points": frame_of(points).inside(points)}, title=title, columns=1)
    style.caption(fig, "Drag to turn. At most 2 000 of the points are drawn.")
    source = "None" if settings["cloud"] is None else f'str(runs_root().absolute() / ".uploads/clouds" / {cloud[6:]!r})'
    cell = meshes.PREVIEW.format(settings={**settings, "cloud": None}, source=source, title=title)
    drawn = drawing.payload(fig, name="cloud", cell=cell)
    return gr.update(visible=True, value=drawn), fields.payload(CLOUD, fields.typed(scan)), gr.skip()


def marked(error: UserError, form: list[fields.Field], typed: str) -> str:
    """A form with the complaint at its field."""
    found = getattr(error, "errors", None) or fields.by_name([str(error)], form)[0]
    return fields.payload(form, fields.typed(typed), found)


def begin(cloud: str, scan: str, form: str, peer: str) -> tuple[Any, str, str, str]:
    """Submit a reconstruction; (run id, message, both forms)."""
    try:
        config = job.check({**settings_of(cloud, scan), **fields.read(FORM, form), "peer": peer})
        if config["cloud"] is not None:
            job.cloud_of(config)
    except UserError as error:
        return gr.skip(), html.note(str(error), "bad"), marked(error, CLOUD, scan), marked(error, FORM, form)
    name = Path(config["cloud"]).name if config["cloud"] else f"{config['shape']}, {config['condition']}"
    run = Store().submit("reconstruct", config, name=f"{name} · {config['resolution']}")
    live.forget()
    return run.id, "", fields.payload(CLOUD, fields.typed(scan)), fields.payload(FORM, fields.typed(form))


# ---- watching


def own(id: str) -> Run | None:
    """The reconstruction that the address names."""
    run = live.find(id)
    return run if run is not None and run.job == "reconstruct" else None


def show_run(id: str) -> tuple[str, Any, Any]:
    """Card and buttons."""
    run = own(id)
    return live.card(run, NOTHING), *live.buttons(run)


def stamp_meshes(id: str) -> str:
    """Changes when the points or a mesh are there."""
    run = own(id)
    return repr(sorted(p.name for p in run.directory.rglob("[!.]*.ply"))) + run.status if run else ""


def show_meshes(id: str) -> tuple[Any, ...]:
    """Meshes beside each other, their numbers, the files to take, the run whose points can be cut by planes, the preview."""
    run = own(id)
    found = job.views(run.directory) if run and (run.directory / "cloud.ply").is_file() else {}
    rest = (
        gr.update(visible=bool(found)),
        run.id if found else "",
        gr.update(visible=False) if len(found) > 1 else gr.skip(),
    )
    if len(found) < 2:
        return gr.update(visible=False), gr.skip(), "", gr.skip(), gr.skip(), *rest
    fig = figures.surfaces(found)
    fig.update_layout(
        scene_camera_eye={axis: 1.3 * fig.layout.scene.camera.eye[axis] for axis in "xyz"}
    )  # room for a phone
    drawn = drawing.payload(
        fig, name="meshes", cell=meshes.MESHES.format(id=run.id), rows=pd.DataFrame(meshes.rows_of(run))
    )
    files = [gr.update(value=meshes.download(run, ending)) for ending in (".ply", ".obj")]
    return gr.update(visible=True), drawn, meshes.table_of(run), *files, *rest


def show_plane(id: str, method: str, axis: str, at: float) -> Any:
    """Distances on a plane through the run's cloud."""
    run = own(id)
    if run is None or not (run.directory / "cloud.ply").is_file():
        return gr.skip()
    at = float(np.clip(at, -0.5, 0.5))
    found = job.slice_through(run.directory, method, axis, at)
    fig = figures.udf_slice(**found)
    free = [name for name in "xyz" if name != axis]
    fig.update_xaxes(title_text=f"{free[0]} (sides of the box)")
    fig.update_yaxes(title_text=f"{free[1]} (sides of the box)")
    return drawing.payload(fig, name="distances", cell=meshes.PLANE.format(id=run.id, method=method, axis=axis, at=at))
