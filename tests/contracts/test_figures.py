"""Every public figure function of `workbench.figures`, found by itself: allowed, themed, described, small, never silent."""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import json
import pkgutil
import sys

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

import workbench.figures
from workbench.figures import _allow, style
from workbench.figures._thin import MAX_POINTS
from workbench.figures.palette import DARK, DARK_OF, LIGHT, contrast

PHONE = 390


def _modules():
    for found in pkgutil.iter_modules(workbench.figures.__path__):
        if not found.name.startswith("_"):
            importlib.import_module(f"workbench.figures.{found.name}")
            # A module and its function share a name; the package attribute is the function, so ask for the module itself.
            yield sys.modules[f"workbench.figures.{found.name}"]


def _figures():
    for module in _modules():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ != module.__name__ or name.startswith("_"):
                continue
            first = next(iter(inspect.signature(function).parameters), "")
            if first == "rows" and function.__annotations__.get("return") == "go.Figure":
                yield pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}.{name}")


FIGURES = list(_figures())
cases = pytest.mark.parametrize(("module", "name"), FIGURES)


def _draw(module, name, *, empty=False):
    arguments = module.EXAMPLE[name]()
    if empty:
        arguments["rows"] = arguments["rows"].iloc[:0]
    return getattr(module, name)(**arguments)


def _points(fig: go.Figure) -> int:
    return sum(len(trace.x) for trace in fig.data if getattr(trace, "x", None) is not None)


def _colors(node):
    if isinstance(node, dict):
        for value in node.values():
            yield from _colors(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _colors(value)
    elif isinstance(node, str) and node.startswith("#") and len(node) == 7:
        yield node.upper()


def test_the_known_figures_are_found():
    assert {p.id for p in FIGURES} >= {
        "curves.curves",
        "intervals.intervals",
        "pareto.pareto",
        "layers.layers",
        "weights.weights",
    }


@cases
def test_every_figure_brings_real_rows(module, name):
    rows = module.EXAMPLE[name]()["rows"]
    numbers = rows.select_dtypes("number")
    assert len(rows) >= 2 and len(numbers.columns) >= 1
    assert np.isfinite(numbers.to_numpy()).all()


@cases
def test_it_holds_only_what_both_plotly_versions_draw_alike(module, name):
    for fig in (_draw(module, name), _draw(module, name, empty=True)):
        style.check(fig)
        style.check(style.theme(fig, dark=True, present=True))


@cases
def test_docstring_names_its_columns(module, name):
    function = getattr(module, name)
    assert "rows: columns " in function.__doc__ and "Returns:" in function.__doc__


@cases
def test_it_does_not_change_its_rows_and_gives_the_same_figure_twice(module, name):
    arguments = module.EXAMPLE[name]()
    before = arguments["rows"].copy(deep=True)
    first = getattr(module, name)(**arguments).to_json()
    assert arguments["rows"].equals(before)
    assert getattr(module, name)(**arguments).to_json() == first


@cases
def test_alt_text_is_one_sentence_with_a_finding(module, name):
    full, empty = _draw(module, name), _draw(module, name, empty=True)
    for text in (style.alt(full), style.alt(empty)):
        assert text.endswith(".") and 20 < len(text) < 400
    assert style.alt(full) != style.alt(empty)


@cases
def test_axes_carry_words_and_a_unit(module, name):
    layout = _draw(module, name).layout
    for axis in (layout.xaxis, layout.yaxis):
        named = axis.type == "category" or (
            axis.tickmode == "array" and axis.ticktext and not _is_number(axis.ticktext[0])
        )
        if not named:
            assert axis.title.text[0].isupper()
            assert "(" in axis.title.text and axis.title.text.endswith(")")
    assert layout.xaxis.title.text or layout.yaxis.title.text


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("\u2009", "").replace("\u2212", "").isdigit()


@cases
def test_it_is_described_for_people_too(module, name):
    meta = _draw(module, name).layout.meta
    assert meta["title"] and meta["caption"].endswith(".")


@cases
def test_zoom_survives_and_size_stays_small(module, name):
    fig = _draw(module, name)
    assert fig.layout.uirevision == "workbench"
    assert len(fig.to_json()) < 200_000
    assert _points(fig) <= MAX_POINTS


@cases
def test_half_a_phone_is_left_for_the_data(module, name):
    margin = _draw(module, name).layout.margin
    assert PHONE - margin.l - margin.r >= PHONE / 2
    assert margin.autoexpand is False


@cases
def test_the_empty_figure_says_what_will_appear(module, name):
    fig = _draw(module, name, empty=True)
    assert not fig.data
    (note,) = [a for a in fig.layout.annotations if a.name == "empty"]
    text = note.text.replace("<br>", " ")
    assert "appear" in text and text.count(".") >= 2


@cases
def test_dark_changes_colours_and_nothing_else(module, name):
    light = _draw(module, name)
    dark = style.theme(light, dark=True)
    assert dark.layout.template.layout.paper_bgcolor == DARK["ground"]
    exchanged = set(DARK_OF) - set(DARK_OF.values())
    assert not exchanged & set(_colors(dark.to_plotly_json()))

    def bones(node):
        if isinstance(node, dict):
            return {k: bones(v) for k, v in node.items() if not k.endswith("color") and k not in ("meta", "colorway")}
        if isinstance(node, list | tuple):
            return [bones(v) for v in node]
        return node

    assert bones(json.loads(light.to_json())) == bones(json.loads(dark.to_json()))


@cases
def test_letters_and_lines_stand_out_from_both_grounds(module, name):
    light = _draw(module, name)
    for fig, ground in ((light, LIGHT["ground"]), (style.theme(light, dark=True), DARK["ground"])):
        for a in fig.layout.annotations:
            assert contrast(a.font.color, ground) >= 4.5, (a.text, a.font.color)
        for trace in fig.data:
            color = getattr(getattr(trace, "line", None), "color", None)
            if color and color.startswith("#"):
                assert contrast(color, ground) >= 3.0, (trace.name, color)


@cases
def test_app_and_notebook_get_the_same_figure(module, name):
    gradio = pytest.importorskip("gradio")
    fig = _draw(module, name)
    plain = json.loads(fig.to_json())
    app = json.loads(gradio.Plot().postprocess(fig).plot)
    notebook = json.loads(
        json.dumps(pio.renderers["plotly_mimetype"].to_mimebundle(fig.to_plotly_json()), default=list)
    )
    bundle = notebook["application/vnd.plotly.v1+json"]
    for key in ("data", "layout"):
        assert app[key] == plain[key]
        assert json.loads(json.dumps(bundle[key])) == plain[key]


def test_the_allowlist_was_made_from_the_versions_in_use():
    import gradio
    from plotly.offline import get_plotlyjs_version

    folder = importlib.resources.files(gradio) / "templates/frontend/assets"
    page = next(f for f in folder.iterdir() if f.name.startswith("PlotlyPlot-") and f.name.endswith(".js"))
    text = page.read_text(encoding="utf-8")
    again = "another plotly.js arrived: run tests/figures/make_allowed_options.py"
    assert f"version=`{_allow.VERSIONS[0]}`" in text, again
    assert get_plotlyjs_version() == _allow.VERSIONS[1], again
    for kind in _allow.TRACES:
        assert f"name:`{kind}`" in text, f"{kind} is not drawn by the app's plotly.js"
