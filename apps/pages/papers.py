"""Papers: every page that exists, with the badge that was computed; idea, claim, measured result, and "run it now"."""

from __future__ import annotations

import ast
import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from workbench.figures import formats
from workbench.papers import catalogue as cards
from workbench.papers import load_card, load_page, search
from workbench.papers.badge import is_current, read
from workbench.papers.reproduction import SCALES
from workbench.progress import span

from .. import catalogue, drawing, fields, html, live, submit
from ..frame import Frame, Page, box

PAGE = Page(
    "Papers", "papers", "What papers claim, re-run here with seeds. A badge is computed, never typed.", "Papers"
)
BADGES = ("holds", "partly", "fails", "not run")
CELL = """import pandas as pd
from workbench.papers import load_page
from workbench.papers.badge import read

load_page({slug!r}).figure(pd.DataFrame(read({slug!r})["rows"]))"""
KNOBS = [
    fields.Field(
        "scale", "choice", "small",
        "How much is run. smoke shows that it works in seconds; small gives the verdict; full is the paper's setting.",
        tuple((scale, scale) for scale in SCALES), label="Scale",
    ),
    fields.Field("seeds", "int", 3, "Repetitions with other random numbers. Time grows in proportion. A verdict needs 3.",
                 label="Seeds"),
]  # fmt: skip
KEPT = ("find", "family", "badge")  # parts of the address that hold the filter
ASKED = "() => ['find', 'family', 'badge', 'paper'].map((name) => workbench.parameter(name))"
REMEMBER = "(...v) => { ['find', 'family', 'badge'].forEach((name, i) => workbench.remember(name, v[i])); }"
SHOW_CHOSEN = """() => {
  const row = document.querySelector(".wb-list [aria-selected=true]"), list = row?.closest(".wb-scrolling");
  if (list) list.scrollTop += row.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 2;
}"""
NOTHING = "Choose a paper on the left: its idea, its claim, what came out here, and its figure."


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    families = sorted({page["family"] for page in search("")})
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set wb-list"):
            words = gr.Textbox(
                label="Find", info="A word of title, author, technique, lesson, or an arXiv id.", max_lines=1
            )
            with gr.Row(elem_classes="wb-row"):
                family = gr.Dropdown(
                    [("every family", ""), *((f, f) for f in families)], value="", label="Family", min_width=120,
                    info="What it is about.",
                )  # fmt: skip
                badge = gr.Dropdown(
                    [("every badge", ""), *((b, b) for b in BADGES)], value="", label="Badge", min_width=120,
                    info="What came out here.",
                )  # fmt: skip
            listing = box(elem_classes="wb-scrolling")
        with gr.Column(elem_classes="wb-see"):
            about = box(html.empty(NOTHING))
            with gr.Column(visible=False) as live_part:
                figure = drawing.component(name="paper")
                rest = box()
                box("<h2>Run it now</h2>")
                knobs = fields.component(KNOBS)
                with gr.Row(elem_classes="wb-row"):
                    start = gr.Button("Run this claim", variant="primary")
                    stop = gr.Button("Stop and keep", visible=False)
                said = box()
                card = box()
    slug = gr.Textbox(visible="hidden", label="paper")
    filters = [words, family, badge]
    frame.on(frame.blocks.load, None, None, [*filters, slug], js=ASKED)
    drawn = frame.on(frame.blocks.load, show_list, [*filters, slug], listing, js=ASKED)
    frame.on(drawn.then, None, None, None, js=SHOW_CHOSEN)
    for event in (words.change, family.change, badge.change):
        frame.on(event, show_list, [*filters, slug], listing, trigger_mode="always_last")
        frame.on(event, None, filters, None, js=REMEMBER)
    # of the address itself: a change that comes before its text box is there is told to nobody
    asked = "() => [workbench.parameter('paper')]"
    frame.on(frame.blocks.load, show_paper, [slug], [about, live_part, figure, rest], queue=True, js=asked)
    frame.on(start.click, begin, [slug, knobs], [frame.run, said, knobs])
    frame.on(stop.click, live.halt, frame.run, None)
    frame.follow(live.stamp, show_run, [frame.run], [card, stop])


def show_list(words: str, family: str, badge: str, chosen: str) -> str:
    """The papers that fit by family, each with its badge; a paper's address keeps the filter."""
    found = [page for page in search(words or "") if family in ("", page["family"]) and badge in ("", page["status"])]
    if not found:
        return html.empty("No paper fits. Use fewer words, or another family or badge.")
    found.sort(key=lambda page: (page["family"], page["title"].lower()))
    kept = {name: value for name, value in zip(KEPT, (words, family, badge), strict=True) if value}
    rows = [
        (
            html.Raw(
                f'<a href="papers?{escape(urlencode({"paper": page["slug"], **kept}))}">{escape(page["title"])}</a>'
                f"<small>{escape(page['slug'])} · {page['year']} · arXiv {escape(page['arxiv'])}</small>"
            ),
            html.Raw(html.state(page["status"])),
        )
        for page in found
    ]
    picked = next((i for i, page in enumerate(found) if page["slug"] == chosen), None)
    families = [page["family"] for page in found]
    sizes = Counter(families)
    groups = {families.index(name): f"{name} ({count})" for name, count in sizes.items()}
    tally = Counter(page["status"] for page in found)
    told = ", ".join(f"{tally[name]} {name}" for name in BADGES if tally[name])
    words = f'<p class="wb-small wb-muted">{len(found)} {"paper" if len(found) == 1 else "papers"}: {told}.</p>'
    return words + html.table(("Paper", "Badge"), rows, label="Papers", selected=picked, groups=groups)


def show_paper(slug: str) -> tuple[str, Any, Any, str]:
    """Head and claim; whether the rest shows; the figure of what was measured; idea and code."""
    known = {card["slug"]: card for card in cards.find_pages()}
    if slug not in known:
        gone = html.note(f"There is no page for {slug!r}.", "caution") if slug else html.empty(NOTHING)
        return gone, gr.update(visible=False), None, ""
    card, record = known[slug], read(slug)
    figure = None
    if record is not None:
        catalogue.ready()
        rows = pd.DataFrame(record["rows"])
        figure = drawing.payload(load_page(slug).figure(rows), name=slug, cell=CELL.format(slug=slug), rows=rows)
    return head(card, record), gr.update(visible=True), figure or empty_figure(), idea(card)


def empty_figure() -> str:
    """A figure that says how to fill it."""
    import plotly.graph_objects as go

    from workbench.figures import style

    fig = go.Figure()
    style.empty(fig, "The paper's figure appears here once its claim has been run.")
    return drawing.payload(style.finish(fig, title="Not run yet", alt="An empty plot: not run yet."), name="paper")


def head(card: dict[str, Any], record: dict[str, Any] | None) -> str:
    """Title, claim, threshold, what came out."""
    status = cards.entry(card)["status"]
    text = (
        f'<h2>{escape(card["title"])}</h2><p class="wb-small wb-muted">{escape(card["authors"])}, {card["year"]} · '
        f"arXiv {escape(card['arxiv'])} · {escape(card['family'])}</p>"
        f'<div class="wb-card" style="margin-top: 12px"><div class="wb-run-head"><h3>The claim</h3>{html.state(status)}</div>'
        f"<p>{escape(card['claim'])}</p><p class='wb-small wb-muted'>It holds when {escape(card['threshold'])}.</p>"
    )
    if record is None:
        return text + "<p class='wb-small'>Not run here yet. The button below runs it.</p></div>"
    if not is_current(record, card):
        text += html.note("The page's claim has changed since this was measured; run it again.", "caution")
    margins = [seed["margin"] for seed in record["seeds"]]
    known = [m for m in margins if m is not None]
    if status == "fails" and known:
        mean = formats.number(sum(known) / len(known))
        text += html.note(f"The claim did not hold here ({len(margins)} seeds, mean margin {mean}).", "caution")
    rows = [
        (
            f"seed {seed['seed']}",
            formats.number(seed["margin"]),
            "yes" if seed["holds"] else "no",
            span(seed["seconds"]),
        )
        for seed in record["seeds"]
    ]
    made = f"{record['machine']} · torch {record['versions'].get('torch', '')} · {record['date']}"
    if record.get("note"):
        made = f"{record['note']} {made}"
    return (
        text + html.table(("Seed", f"Margin ({card['metric'].split(',')[0]})", "Holds", "Time"), rows, label="Seeds")
        + f"<p class='wb-small wb-muted'>{escape(made)}<br><code>{escape(record['command'])}</code></p></div>"
    )  # fmt: skip


def idea(card: dict[str, Any]) -> str:
    """The page's own text with its formulas, where the code is, and which lesson teaches it."""
    path = Path(cards.__file__).parent / f"{cards.module_name(card['slug'])}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    blocks = "".join(
        f'<pre class="wb-code" tabindex="0">{escape(block)}</pre>'
        if all(line.startswith("    ") for line in block.splitlines())
        else "<p>" + re.sub("`([^`]+)`", r"<code>\1</code>", escape(block)) + "</p>"
        for block in text.split("\n\n")
    )
    code = "".join(f"<li><code>{escape(block.replace('.', '/'))}.py</code></li>" for block in card["blocks"])
    return (
        f"<h2>Idea</h2><div class='wb-prose'>{blocks}</div>"
        f"<h2>Code and lesson</h2><ul><li><code>workbench/papers/{path.name}</code> (the experiment)</li>"
        f"{code}<li>Lesson <code>{escape(card['lesson'])}</code>: open it with <code>workbench lab</code></li></ul>"
    )


def begin(slug: str, knobs: str) -> tuple[Any, str, str]:
    """Submit the re-run; (run id, message, knobs)."""
    try:
        values = fields.read(KNOBS, knobs)
        load_card(slug)
        run = submit.submit("reproduce", {"slug": slug, **values})
    except fields.UserError as error:
        found = getattr(error, "errors", None) or fields.by_name([str(error)], KNOBS)[0]
        return gr.skip(), html.note(str(error), "bad"), fields.payload(KNOBS, fields.typed(knobs), found)
    return run.id, "", fields.payload(KNOBS, values)


def show_run(id: str) -> tuple[str, Any]:
    """The re-run that the address names, and its verdict."""
    run = live.find(id)
    if run is None or run.job != "reproduce":
        return "", gr.update(visible=False)
    text, found = live.card(run, ""), run.result() or {}
    if found.get("seeds"):
        rows = [
            (f"seed {s['seed']}", formats.number(s["margin"]), "yes" if s["holds"] else "no") for s in found["seeds"]
        ]
        verdict = found["badge"] if found["badge"] != "not run" else "no verdict (needs scale small and 3 seeds)"
        text += f"<p>Verdict: {escape(verdict)}</p>" + html.table(("Seed", "Margin", "Holds"), rows, label="This run")
    return text, gr.update(visible=run.status in ("running", "queued"))
