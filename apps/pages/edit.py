"""Edit: one drawn scene, one sentence, a strip from picture to words, the noise steps trained on, what a judge reads."""

from __future__ import annotations

import os
import secrets
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from workbench.commands.edit import edit
from workbench.errors import UserError
from workbench.figures import formats, style
from workbench.papers import _fastedit_figures as figures
from workbench.progress import span
from workbench.runs import Run, Store
from workbench.vision import job
from workbench.vision.editing import ETAS

from .. import drawing, fields, html, live
from .. import edit_views as views
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Edit",
    "edit",
    "Change one drawn picture by one sentence (FastEdit), and see factor by factor what changed and what was kept.",
    "Explore",
    3,
)
NAMED, DETAILS = (views.literal("workbench.vision.scenes", name) for name in ("NAMED", "DETAILS"))
FACTORS = {**NAMED, **DETAILS}
MODES = views.literal("workbench.vision.fastedit", "MODES")
HELP = {option.name: option.help for option in edit.params}
SCENE = [
    fields.Field(
        name, "choice", job.FIRST.get(name, words[0]),
        f"The sentence can change it: {', '.join(words)}." if name in NAMED else "No word names it; an edit should keep it.",
        tuple((word, word) for word in words), more=name in DETAILS or name in ("position", "texture", "extra"),
        label=name.capitalize(),
    )
    for name, words in FACTORS.items()
]  # fmt: skip
FORM = [
    fields.Field("steps", "int", 50, HELP["steps"], label="LoRA steps"),
    fields.Field("etas", "literal", list(ETAS), HELP["eta"], label="Values of η", optional=True),
    fields.Field("timesteps", "choice", "semantic", HELP["timesteps"], tuple((m, m) for m in MODES), label="Noise steps"),
    fields.Field("rank", "int", 16, HELP["rank"], more=True, label="Rank"),
    fields.Field("guidance", "float", 1.0, HELP["guidance"], more=True, label="Guidance"),
    fields.Field("painting_steps", "int", 25, "Steps of the painter. Painting time grows alike. 10 to 50.", more=True,
                 label="Painting steps"),
    fields.Field("seed", "int", 0, HELP["seed"], more=True, label="Seed"),
]  # fmt: skip
NOTHING = "The strip of edits appears here. Press Start editing: the scene on the left is ready, it takes about 15 s."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work wb-live"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Scene")
            draw = gr.Button("Draw another scene and request")
            scene = fields.component(SCENE)
            step(2, "Sentence")
            prompt = gr.Textbox(
                job.DEFAULTS["prompt"], label="The picture you want", max_lines=2,
                info="Name the object and what should change; everything else should stay.",
            )  # fmt: skip
            box(words_known())
            step(3, "Fit and walk")
            form = fields.component(FORM)
            box(photographs())
        with gr.Column(elem_classes="wb-see"):
            given = drawing.component(name="scene")
            card = box(html.empty(NOTHING))
            with gr.Row(elem_classes="wb-row"):
                stop = gr.Button("Stop this edit", visible=False)
                resume = gr.Button("Resume this run", visible=False)
            with gr.Column(visible=False) as made:
                facts = box()
                strip = drawing.component(name="strip")
                scores = box()
                eta = gr.Dropdown([], label="Factors at η", info="The edit whose factors the judge reads below.")
                table = box()
                band = drawing.component(name="noise-steps")
    with gr.Row(elem_classes="wb-do"):
        start = gr.Button("Start editing", variant="primary")
        said = box()
    asked = [scene, prompt]
    frame.on(draw.click, another, None, asked)
    for event in (frame.blocks.load, scene.change, prompt.change):
        frame.on(event, show_given, asked, [given, said], trigger_mode="always_last")
    frame.on(start.click, begin, [*asked, form], [frame.run, said, form])
    frame.on(stop.click, live.halt, frame.run, None)
    frame.on(resume.click, live.go_on, frame.run, None)
    frame.follow(live.stamp, show_run, [frame.run], [card, stop, resume])
    frame.follow(stamp_result, show_result, [frame.run], [made, facts, strip, scores, eta, band])
    for event in (eta.change, frame.run.change):
        frame.on(event, show_factors, [frame.run, eta], table)


# ---- setting up


def words_known() -> str:
    """The words a sentence may hold."""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(', '.join(words))}</li>" for name, words in NAMED.items())
    return f"<details><summary>Words it knows</summary><ul class='wb-small'>{rows}</ul></details>"


def checkpoints() -> list[str]:
    """Names of image-variation checkpoints in the folder that WORKBENCH_MODELS names."""
    root = os.environ.get("WORKBENCH_MODELS", "")
    kind = views.literal("workbench.vision.real", "PIPELINE")
    indexes = sorted(Path(root).glob("*/model_index.json")) if root and Path(root).is_dir() else []
    return [path.parent.name for path in indexes if kind in path.read_text(encoding="utf-8", errors="replace")]


def photographs() -> str:
    """What photographs need, and whether it is here."""
    found = checkpoints()
    here = f"Here: {', '.join(found)}." if found else "None is on this machine, so this page edits drawn scenes."
    words = (
        "A photograph needs a real image-variation checkpoint in a local folder; the miniature has seen only scenes. "
        + here
    )
    command = f"workbench edit photo.jpg --prompt WORDS --model {found[0] if found else 'FOLDER'}"
    return (
        f"<details><summary>Photographs</summary><p class='wb-small'>{escape(words)}</p>{html.code(command)}</details>"
    )


def another() -> tuple[str, str]:
    """A random scene and a sentence that asks for a change of it."""
    from workbench.vision.requests import make_requests
    from workbench.vision.scenes import words_of

    request = secrets.choice(make_requests(6, secrets.randbelow(10**6)))
    return fields.payload(SCENE, words_of(request.original)), request.prompt


def show_given(scene: str, prompt: str) -> tuple[str, str]:
    """The scene and the ideal edit; what is wrong with the sentence."""
    words = fields.read(SCENE, scene)
    made, names = job.scene_pictures(words, prompt)
    fig = figures.strip(made, names, title="The scene, and the edit that is wanted")
    fig.update_layout(height=views.HEIGHT)
    style.caption(fig, "The ideal edit is drawn from the words; the editor never sees it, the judge compares with it.")
    drawn = drawing.payload(fig, name="scene", cell=views.GIVEN.format(scene=words, prompt=prompt))
    try:
        _, _, changed = job.changes(words, prompt)
    except UserError as error:
        return drawn, html.note(str(error), "caution")
    return drawn, f'<p class="wb-forecast">Changes {escape(", ".join(changed))}; about 15 s on two cores.</p>'


def begin(scene: str, prompt: str, form: str) -> tuple[Any, str, str]:
    """Submit an edit; (run id, message, form)."""
    try:
        values = fields.read(FORM, form)
        values["etas"] = numbers(values["etas"])
        config = job.check({"scene": fields.read(SCENE, scene), "prompt": prompt, **values})
    except UserError as error:
        found = getattr(error, "errors", None) or fields.by_name([str(error)], FORM)[0]
        return gr.skip(), html.note(str(error), "bad"), fields.payload(FORM, fields.typed(form), found)
    run = Store().submit("edit", config, name=prompt.strip()[:60])
    live.forget()
    return run.id, "", fields.payload(FORM, fields.typed(form))


def numbers(value: Any) -> list[float]:
    """Values of η from what stands in the field: a list, `0, 0.5, 1`, or nothing for the usual ones.

    Raises:
        UserError: something that is no number.
    """
    if value is None:
        return list(ETAS)
    parts = value if isinstance(value, (list, tuple)) else [value]
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError) as error:
        raise UserError(f"etas is {value!r}; give numbers with commas between, such as 0, 0.5, 1.") from error


# ---- watching


def own(id: str) -> Run | None:
    """The edit that the address names."""
    run = live.find(id)
    return run if run is not None and run.job == "edit" else None


def show_run(id: str) -> tuple[str, Any, Any]:
    """Card and buttons."""
    run = own(id)
    return live.card(run, NOTHING), *live.buttons(run)


def stamp_result(id: str) -> str:
    """Changes when the edit is there."""
    run = own(id)
    return f"{run.id} {run.status == 'done'}" if run else ""


def result_of(id: str) -> tuple[Run | None, dict[str, Any]]:
    """The run and what it returned; empty while there is nothing to show."""
    run = own(id)
    found = (run.result() or {}) if run else {}
    return run, found if "etas" in found else {}


def show_result(id: str) -> tuple[Any, ...]:
    """Numbers, strip, scores, the values of η, and the noise steps."""
    run, found = result_of(id)
    if not found:
        return (gr.update(visible=False), *(gr.skip(),) * 5)
    rows = found["etas"]
    best = max(range(len(rows)), key=lambda i: rows[i]["harmonic"])
    made, names = job.pictures(run.directory)
    marked = [i == best + 1 for i in range(len(names))]
    prompt = {**job.DEFAULTS, **live.config(run)}["prompt"]
    fig = figures.strip(made, names, title=f"From the picture to “{prompt}”", marked=marked)
    fig.update_layout(height=views.HEIGHT)
    style.caption(
        fig, "Framed: the best mean of changed and kept. The ideal is drawn, not painted. One seed, no interval."
    )
    data = pd.DataFrame([{key: value for key, value in row.items() if key != "reads"} | row["reads"] for row in rows])
    noise = views.band_figure(run, found)
    seconds = found["seconds"]
    pairs = {
        "Fitting": span(seconds["fitting"]),
        f"Painting {len(rows)} edits": span(seconds["painting"]),
        "Trained": formats.parameters(found["trainable"]),
        "Noise steps": f"{found['band'][0]} to {found['band'][1]} of 1000",
        "Distance picture–words": f"{found['delta']:.2f}",
    }
    return (
        gr.update(visible=True),
        html.facts(pairs),
        drawing.payload(fig, name="strip", cell=views.STRIP.format(id=run.id, marked=marked), rows=data),
        views.score_table(found, best),
        gr.update(choices=[(f"η {row['eta']:g}", i) for i, row in enumerate(rows)], value=best),
        drawing.payload(noise, name="noise-steps", cell=views.BAND.format(id=run.id)),
    )


def show_factors(id: str, index: int | None) -> str:
    """What the judge reads in one edit, factor by factor."""
    _, found = result_of(id)
    if not found or index is None or not 0 <= int(index) < len(found["etas"]):
        return ""
    row = found["etas"][int(index)]
    table = []
    for name, wanted in found["wanted"].items():
        right = row["reads"][name] == wanted
        sign = html.Raw(
            f'<span class="wb-state wb-{"done" if right else "failed"}">{"right" if right else "wrong"}</span>'
        )
        role = "to change" if name in found["changed"] else "to keep"
        table.append((name, role, found["was"][name], wanted, row["reads"][name], sign))
    wrong = sum(row["reads"][name] != wanted for name, wanted in found["wanted"].items())
    words = f"{len(table) - wrong} of {len(table)} factors right at η {row['eta']:g}, as a trained judge reads them."
    head = ("Factor", "Task", "Was", "Wanted", "The judge reads", "")
    return (
        html.table(head, table, label="Factors")
        + f'<p class="wb-small wb-muted" style="margin-top: 8px">{escape(words)}</p>'
    )
