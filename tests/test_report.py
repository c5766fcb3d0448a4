from __future__ import annotations

import html.parser
import importlib.util
import io
import json
import re
import urllib.parse
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.figures import _digits, curves, intervals, layers, pareto, style
from workbench.figures.palette import DARK_OF
from workbench.report import Section, build_report

_SPEC = importlib.util.spec_from_file_location("demo_rows", Path(__file__).parent / "figures" / "demo_rows.py")
demo_rows = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(demo_rows)


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of scripts by id; refuses tags that close in the wrong order."""

    VOID = {"meta", "link", "img", "br", "circle", "polygon"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.scripts: dict[str, str] = {}
        self.script = None
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.script = dict(attrs).get("id", f"script-{len(self.scripts)}")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes in the wrong place"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.script] = data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _sections():
    rows = demo_rows.rows()
    small = rows.assign(within_budget=rows["disk_bytes"] < 200e6)
    return [
        Section("What it cost", "First.\n\nSecond with `code` & <b>.", table=rows),
        Section(
            "Quality against size",
            figure=[pareto(rows, "disk_bytes", "perplexity"), intervals(small, "accuracy")],
            data=rows,
        ),
        Section("Training", figure=curves(_digits.curve_rows(), unit="nats per image"), data=_digits.curve_rows()),
        Section("Where compression hurts", figure=layers(demo_rows.layer_rows())),
        Section("What the models write", samples=demo_rows.samples(), note="Greedy."),
    ]


@pytest.fixture(scope="module")
def text() -> str:
    return build_report(
        "Tuned & compressed <model>",
        _sections(),
        lead="Perplexity falls from 31.4 to 24.1.",
        facts={"Perplexity": "31.4 → 24.1"},
        footer={"machine": "2 cores", "seed": 0, "command": "workbench demo --seed 0"},
    )


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def own(text) -> str:
    """The page without plotly.js."""
    start = text.index("<script>/**")
    return text[:start] + text[text.index("</script>", start) :]


def test_plotly_is_inside_exactly_once_and_the_rest_is_small(text, own):
    assert text.count("plotly.js v4") == 1
    assert 4e6 < len(text) < 6.5e6
    assert len(own) < 400_000


def test_nothing_is_fetched(page, own):
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "poster", "srcset", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"https?://|url\(|@import", own)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_the_browser_never_offers_an_upload(page):
    config = json.loads(page.scripts["style"])["config"]
    assert config["showSendToCloud"] is False and config["plotlyServerURL"] == ""


def test_every_plot_has_its_figure_its_size_and_a_description(page):
    plots = [a for a in page.all("div") if a.get("class") == "plot"]
    assert len(plots) == 4
    for place in plots:
        figure = json.loads(page.scripts[place["data-figure"]])
        style.check(go.Figure(figure))
        assert place["style"] == f"height:{figure['layout']['height']}px"
        assert place["role"] == "img" and place["aria-label"] == figure["layout"]["meta"]["alt"]
        assert not figure["layout"]["title"].get("text")  # the title is a heading, which wraps on a phone


def test_the_dark_colours_are_those_of_the_figures(page):
    assert json.loads(page.scripts["style"])["pairs"] == DARK_OF


def test_headings_are_in_order_and_ids_unique(page):
    levels = [int(t[1]) for t, _ in page.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    labelled = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert labelled <= set(ids)


def test_table_headings_have_a_scope_and_tied_cells_are_shaded(page):
    scopes = [a.get("scope") for a in page.all("th")]
    assert scopes.count("row") == 9 and scopes.count("col") == 9
    assert sum(a.get("class") == "tied" for a in page.all("td")) == 3 + 5


def test_rows_can_be_downloaded_as_they_were(page):
    links = [a for a in page.all("a") if "download" in a]
    assert len(links) == 3
    table = next(a for a in links if a["download"] == "1-what-it-cost-table.csv")
    csv = urllib.parse.unquote(table["href"].removeprefix("data:text/csv;charset=utf-8,"))
    back = pd.read_csv(io.StringIO(csv))
    pd.testing.assert_frame_equal(back, demo_rows.rows(), check_dtype=False, rtol=1e-7)


def test_text_is_escaped_and_kept(own):
    assert "<title>Tuned &amp; compressed &lt;model&gt;</title>" in own
    assert "<p>First.</p><p>Second with <code>code</code> &amp; &lt;b&gt;.</p>" in own
    assert "&lt;the&gt; is &amp; is" in own
    assert "<code>workbench demo --seed 0</code>" in own


def test_hostile_names_cannot_leave_their_place():
    bad = "</script><script>alert(1)</script>"
    rows = demo_rows.rows().head(2).assign(name=[bad, '"><img src=x onerror=1>'])
    section = Section(
        bad,
        figure=pareto(rows, "disk_bytes", "perplexity"),
        data=rows,
        table=rows,
        samples=[{"prompt": bad, "texts": {bad: bad}}],
    )
    page = Page(build_report(bad, [section], footer={bad: bad}))
    assert not page.all("img") and "alert(1)" not in page.scripts
    assert all(not s.startswith("alert") for s in page.scripts.values())


def test_a_report_without_figures_carries_no_plotly():
    text = build_report("Only words", [Section("One", "Text.")])
    assert len(text) < 20_000 and "Plotly" not in text
    Page(text)


def test_an_empty_table_says_what_is_missing():
    assert "No rows yet" in build_report("T", [Section("One", table=[])])


def test_a_figure_that_not_every_reader_can_draw_is_refused():
    with pytest.raises(ValueError, match="uirevision"):
        build_report("T", [Section("One", figure=go.Figure())])


def test_phone_print_and_dark_have_their_rules(own):
    for rule in (
        "prefers-color-scheme: dark",
        "@media print",
        "size: A4",
        "break-inside: avoid",
        "max-width: 600px",
        "tabular-nums",
    ):
        assert rule in own
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in own
    assert "beforeprint" in own and "/*" not in own.split("<style>")[1].split("</style>")[0]
