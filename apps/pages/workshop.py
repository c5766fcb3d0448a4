"""Workshop: people in one room on one machine, the board of who has run what, and recorded runs played at any speed."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr
import pandas as pd

from workbench.errors import UserError
from workbench.figures import curve_rows, curves, formats, style
from workbench.progress import span
from workbench.runs import Run

from .. import catalogue, curve, drawing, fields, html, live, people, recordings, submit
from ..frame import Frame, Page, box, step

PAGE = Page(
    "Workshop",
    "workshop",
    "Work side by side on one machine: who runs what, who is ahead, and recorded runs for machines without time.",
    "Workshop",
)
EXERCISE = [
    fields.Field("steps", "int", 60, "Optimizer steps. Time grows in proportion; 60 take about half a minute.", label="Steps"),
    fields.Field("learning_rate", "float", 3e-3, "Size of a step. Too large makes the loss jump, too small leaves it. "
                 "1e-4 to 1e-2.", label="Learning rate"),
    fields.Field("seed", "int", 0, "Another seed is another order of the same text.", more=True, label="Seed"),
]  # fmt: skip
NOBODY = "A line for everybody in the room appears here. Enter with a name on the left."
SHOWN = 8  # best runs laid over each other
SLOWEST, FASTEST = 0.1, 1000.0
WHO = "() => workbench.parameter('who') || localStorage.getItem('workbench-who') || ''"
REMEMBER = "(who) => { workbench.remember('who', who); localStorage.setItem('workbench-who', who); }"
CELL = """import json
from workbench.figures import curve_rows, curves
from workbench.paths import assets

recording = json.loads((assets() / "recordings" / "{key}.json").read_text(encoding="utf-8"))
rows = [row for row in recording["rows"] if row["at"] <= {at}]
curves(curve_rows(rows, recording["name"], recording["config"]["method"]), log=False, switch=False, unit="nats per token")"""


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    recorded = recordings.known()
    first = recorded[0][1] if recorded else None
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Who you are")
            name = gr.Textbox(
                label="Name", info="Others in the room see it. The same name enters the same folder.", max_lines=1
            )
            enter = gr.Button("Enter the room")
            mine = box()
            step(2, "Beat the board")
            method = gr.Dropdown(
                [("lora", "lora")], value="lora", label="Method",
                info="Fine-tunes tiny-lm on Moby-Dick. The lowest held-out loss leads.",
            )  # fmt: skip
            form = fields.component(EXERCISE)
            start = gr.Button("Start this exercise", variant="primary")
            said = box()
            take = gr.DownloadButton("Download my folder (ZIP)", visible=False)
        with gr.Column(elem_classes="wb-see"):
            box("<h2>The board</h2>")
            board = box(html.empty(NOBODY))
            best = drawing.component(name="best-runs")
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(3, "Replay a recorded run")
            recording = gr.Dropdown(
                recorded, value=first, label="Recording", info="What a real run logged, with its times. Costs nothing."
            )
            speed = gr.Number(
                value=10, minimum=SLOWEST, maximum=FASTEST, label="Speed (times)",
                info="1 is as it was; 10 takes a tenth of the time. May change while it plays.",
            )  # fmt: skip
            with gr.Row(elem_classes="wb-row"):
                play = gr.Button("Play")
                pause = gr.Button("Pause")
                again = gr.Button("Back to the start")
            at = box()
        with gr.Column(elem_classes="wb-see"):
            film = drawing.component(name="replay")
    me = gr.Textbox(visible="hidden", label="participant")
    state = gr.State(stopped(first))
    frame.on(frame.blocks.load, None, None, me, js=WHO)
    frame.on(frame.blocks.load, methods, None, method, queue=True)
    frame.on(me.change, None, me, None, js=REMEMBER)
    frame.on(enter.click, come_in, name, [me, mine])
    frame.on(name.submit, come_in, name, [me, mine])
    frame.on(start.click, begin, [me, method, form], [said, form])
    frame.follow(stamp_room, show_room, [me], [board, best, mine, take])
    frame.on(play.click, playing, [state, recording, speed], state)
    frame.on(speed.change, faster, [state, speed], state)
    frame.on(pause.click, paused, state, state)
    frame.on(again.click, stopped, recording, state)
    frame.on(recording.change, stopped, recording, state)
    frame.follow(stamp_film, show_film, [state], [film, at])


# ---- the room


def methods() -> Any:
    """Every registered method."""
    return gr.update(choices=[(name, name) for name in catalogue.methods("adapter")])


def come_in(name: str) -> tuple[Any, str]:
    """Enter with a name; (key, message)."""
    try:
        return people.join(name).key, ""
    except UserError as error:
        return gr.skip(), html.note(str(error), "bad")


def begin(me: str, method: str, form: str) -> tuple[str, str]:
    """Submit the exercise under the person's name; (message, form)."""
    person = people.find(me)
    try:
        if person is None:
            raise UserError("Enter the room with a name first; the run then counts as yours.")
        people.check_quota(person, everyone())
        config = {**recordings.SETTINGS, **fields.read(EXERCISE, form), "method": method, "eval_every": 10}
        run = submit.submit("finetune", config, people.title(person, f"{method}, rate {config['learning_rate']:g}"))
    except UserError as error:
        found = getattr(error, "errors", None) or fields.by_name([str(error)], EXERCISE)[0]
        return html.note(str(error), "bad"), fields.payload(EXERCISE, fields.typed(form), found)
    words = f"<p class='wb-small'><a href='{live.link(run)}'>{escape(live.title(run))}</a> is {run.status}.</p>"
    return words, fields.payload(EXERCISE, fields.typed(form))


def everyone() -> list[Run]:
    """All runs, newest first."""
    return [run for run, _ in live.snapshot().runs]


def stamp_room(me: str) -> str:
    """Changes when a run or the list of people does."""
    return live.snapshot().stamp + repr([person.key for person in people.everybody()])


_boards: dict[str, tuple[str, str]] = {}


def show_room(me: str) -> tuple[str, Any, str, Any]:
    """Board, the best runs over each other, what is mine, and my folder."""
    mark = f"{people.root()} {stamp_room(me)}"
    if mark not in _boards:  # drawn once for all who look
        drawn = draw_board(people.board(everyone()))
        _boards.clear()
        _boards[mark] = drawn
    board, best = _boards[mark]
    person = people.find(me)
    if person is None:
        return board, best, "", gr.update(visible=False)
    packed = people.take_home(person, everyone())
    return board, best, mine_of(person), gr.update(visible=packed is not None, value=str(packed) if packed else None)


def draw_board(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The table of people, the leader first, and the curves of their best runs."""
    order = sorted(rows, key=lambda row: (row["loss"] is None, row["loss"] or 0.0, row["person"].name.lower()))
    leaders = [row["best"] for row in order if row["best"] is not None][:SHOWN]
    if not order:
        return html.empty(NOBODY), curve.payload([])
    table = []
    for row in order:
        told = " ".join(f"{html.state(state)} {count}" for state, count in row["states"].items())
        now = row["now"]
        work = ""
        if now is not None:
            work = f'<a href="{live.link(now)}">{escape(words_of(now))}</a> {live.share(now):.0%}'
        best = ""
        if row["best"] is not None:
            best = f'<a href="{live.link(row["best"])}">{escape(words_of(row["best"]))}</a>'
        table.append(
            (row["person"].name, html.Raw(told or "nothing yet"), html.Raw(work or formats.ABSENT), row["loss"],
             html.Raw(best or formats.ABSENT), formats.size(row["bytes"]))
        )  # fmt: skip
    head = ("Who", "Runs", "Now", "Best held-out loss", "With", "On disk")
    words = "Nats per token on held-out rows; one seed each, no interval: close numbers are no ranking."
    text = html.table(head, table, label="The board")
    return f'{text}<p class="wb-small wb-muted" style="margin-top: 8px">{words}</p>', curve.payload(leaders)


def words_of(run: Run) -> str:
    """A run's name without its owner."""
    return live.title(run).partition(": ")[2] or live.title(run)


def mine_of(person: people.Person) -> str:
    """My folder and what of the quota is used."""
    own, most = people.runs_of(person, everyone()), people.quota()
    used, busy = people.weigh(own), sum(run.status in people.BUSY for run in own)
    pairs = {
        "Folder": person.key,
        "On disk": f"{formats.size(used)} of {formats.size(most.bytes)}",
        "Waiting or working": f"{busy} of {most.runs}",
    }
    words = f"Name a run “{person.name}: …” on any page, and it counts as yours."
    return html.facts(pairs) + html.bar(used / most.bytes) + f'<p class="wb-help">{escape(words)}</p>'


# ---- the replay


def stopped(key: str | None) -> dict[str, Any]:
    """The state of a recording before it plays. `offset` seconds have been shown at server time `since`."""
    return {"key": key, "playing": False, "offset": 0.0, "since": 0.0, "speed": 1.0}


def position(state: dict[str, Any], now: float | None = None) -> float:
    """Seconds of the recording that have been shown."""
    if not state["key"]:
        return 0.0
    run = (time.monotonic() if now is None else now) - state["since"] if state["playing"] else 0.0
    return min(recordings.load(state["key"])["seconds"], state["offset"] + run * state["speed"])


def checked(speed: float | None) -> float:
    """A speed that can be played.

    Raises:
        UserError: nothing, or outside its limits.
    """
    if speed is None or not SLOWEST <= float(speed) <= FASTEST:
        raise UserError(f"The speed is {speed}; it takes a number from {SLOWEST:g} to {FASTEST:g}.")
    return float(speed)


def playing(state: dict[str, Any], key: str | None, speed: float | None) -> dict[str, Any]:
    """Play on from where it stands; from the start when it has ended."""
    if not key:
        raise UserError("No recording is here; make one with: python -m apps.recordings assets/recordings/NAME.json")
    whole = recordings.load(key)["seconds"]
    offset = position(state) if state["key"] == key else 0.0
    offset = 0.0 if offset >= whole else offset
    return {"key": key, "playing": True, "offset": offset, "since": time.monotonic(), "speed": checked(speed)}


def faster(state: dict[str, Any], speed: float | None) -> dict[str, Any]:
    """Another speed from here on."""
    return {**state, "offset": position(state), "since": time.monotonic(), "speed": checked(speed)}


def paused(state: dict[str, Any]) -> dict[str, Any]:
    """Stand still."""
    return {**state, "playing": False, "offset": position(state)}


def stamp_film(state: dict[str, Any]) -> str:
    """Changes with every row that comes."""
    at = position(state)
    return f"{state['key']} {len(recordings.until(recordings.load(state['key']), at))}" if state["key"] else ""


def show_film(state: dict[str, Any]) -> tuple[str, str]:
    """The curve so far, on the axes of the whole, and where the replay stands."""
    if not state["key"]:
        return drawing.payload(curves(curve_rows([], "")), name="replay"), ""
    whole = recordings.load(state["key"])
    at = position(state)
    rows = recordings.until(whole, at) if state["playing"] or state["offset"] else []
    method = whole["config"]["method"]
    fig = curves(curve_rows(rows, whole["name"], method), log=False, switch=False, unit="nats per token")
    made = whole["made"]
    if rows:
        every = curve_rows(whole["rows"], whole["name"], method)
        low, high = every["value"].min(), every["value"].max()
        fig.update_xaxes(range=[0, int(every["step"].max())])
        fig.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
        style.caption(fig, f"A recorded run on {made['machine']}, {made['date']}. One seed, no interval.")
    cell = CELL.format(key=state["key"], at=round(at, 2)) if rows else ""
    last = max((row["step"] for row in rows), default=0)
    steps = int(max(row["step"] for row in whole["rows"]))
    ended = at >= whole["seconds"]
    status = "done" if ended else "running" if state["playing"] else "queued"
    words = f"step {formats.count(last)} of {formats.count(steps)} · {span(at)} of {span(whole['seconds'])}"
    sign = html.state(status) if rows else ""
    told = (
        f"{html.bar(at / whole['seconds'])}<p class='wb-small wb-number'>{sign} {escape(words)}</p>"
        f"<p class='wb-help'>Recorded on {escape(made['machine'])}; {span(whole['loading'])} of loading are left out.</p>"
    )
    return drawing.payload(fig, name="replay", cell=cell, rows=pd.DataFrame(rows)), told
