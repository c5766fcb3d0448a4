"""Compress, Compare and Scaling on real small runs: forms, tables, and every figure redrawn by the cell under it."""

from __future__ import annotations

import json
import zipfile

import pandas as pd
import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import choices, curve, drawing, exports, fields, live, run_tables, shrinking, variants  # noqa: E402
from workbench.apps.pages import compare, compress, scaling  # noqa: E402
from workbench.runs import Store  # noqa: E402

TUNE = {"model": "tiny-lm", "data": "moby-dick", "steps": 4, "batch_size": 2, "window": 32, "eval_every": 2, "eval_rows": 2,
        "precision": "fp32"}  # fmt: skip
BITS, WEIGHTS = (fields.payload(way.form) for way in (shrinking.BITS, shrinking.WEIGHTS))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two fine-tunings, a quantized and a pruned variant of the first, and all of them compared."""
    folder = tmp_path_factory.mktemp("shrink")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder / "runs"))
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
        live.forget()
        store = Store()
        store.run_here("finetune", TUNE, name="short")
        store.run_here("finetune", {**TUNE, "steps": 6, "method": "ia3"}, name="longer")
        longer, short = store.list()
        tuned = choices.model_place(f"run:{short.id}")
        store.run_here("quantize", {"model": tuned, "method": "rtn", "bits": 3})
        store.run_here("prune", {"model": tuned, "method": "magnitude", "sparsity": 0.5})
        pruned, packed = store.list()[:2]
        places = ["tiny-lm", tuned, *(str(choices.made_by(run)[""]) for run in (packed, pruned))]
        store.run_here("compare", {"models": places, "tokens": 200, "items": 2})
        compared = store.list()[0]
        store.run_here("export", {"model": places[2], "to": "safetensors"})
        live.forget()
        found = {"short": short, "longer": longer, "packed": packed, "pruned": pruned, "compare": compared}
        found["export"] = store.list()[0]
        yield found
    live.forget()


def same(drawn: str, redraw) -> bool:
    """Whether a figure's cell draws what the figure shows, and its data can be taken home."""
    figure = json.loads(drawn)
    return bool(figure["cell"] and figure["csv"]) and redraw(figure["cell"]) == figure["data"]


# ---- Compress


def test_a_method_shows_its_own_form():
    words, bits, weights = compress.explain("wanda")
    assert "input norm" in words and weights["visible"] and not bits["visible"]
    words, bits, weights = compress.explain("gptq")
    assert bits["visible"] and not weights["visible"]
    assert "There is no method called" in compress.explain("magic")[0]


def test_every_box_starts_a_run_of_its_own(monkeypatch, runs):
    asked = []
    monkeypatch.setattr(compress.submit, "submit", lambda job, config: asked.append((job, config)) or runs["packed"])
    form = fields.payload(shrinking.WEIGHTS.form, {"retrain": "norms, masklora"})
    id, said, _, _ = compress.begin("tiny-lm", "magnitude", ["4"], ["0.5", "2:4"], BITS, form)
    assert id == runs["packed"].id and said == "" and [job for job, _ in asked] == ["prune", "prune"]
    first, second = (config for _, config in asked)
    assert first["sparsity"] == 0.5 and second["pattern"] == "2:4" and first["retrain"] == ["norms", "masklora"]
    asked.clear()
    compress.begin("tiny-lm", "nf4", [], [], BITS, WEIGHTS)
    assert [(job, config["bits"]) for job, config in asked] == [("quantize", 4)]


@pytest.mark.parametrize(("method", "bits", "shares", "form", "words"), [
    ("wanda", ["4"], [], {}, "tick at least one"), ("rtn", [], ["0.5"], {}, "tick at least one"),
    ("magic", ["4"], ["0.5"], {}, "no method called"), ("wanda", [], ["0.5"], {"steps": "few"}, "whole number"),
    ("wanda", [], ["0.5"], {"retrain": "masklora, scalelora"}, "would change the same weights"),
    ("wanda", [], ["0.5"], {"learning_rate": "20"}, "learning_rate is 20"),
])  # fmt: skip
def test_what_cannot_run_is_refused_and_nothing_starts(runs, method, bits, shares, form, words):
    before = len(Store().list())
    weights = fields.payload(shrinking.WEIGHTS.form, form)
    run, said, _, marked = compress.begin("tiny-lm", method, bits, shares, BITS, weights)
    assert run == compress.gr.skip() and words in said
    named = [field["name"] for field in json.loads(marked) if field["error"]]
    assert named == [name for name in form if name != "retrain"]
    assert len(Store().list()) == before


def test_a_forecast_counts_the_zeros(runs):
    said, _, _ = compress.estimate("tiny-lm", "magnitude", [], ["0.5", "2:4"], BITS, WEIGHTS)
    assert said.count("50% zeros") == 2 and "dense file" in said and "of memory" in said


def test_quantized_and_pruned_variants_stand_in_one_table(runs, redraw):
    listing, errors = compress.show_variants("", runs["packed"].id)
    assert "rtn-3" in listing and "magnitude 50 %" in listing and "50%" in listing
    assert listing.count("<tr>") == 4 and listing.index("as it is") < listing.index("rtn-3")
    measured = listing.split("magnitude 50 %")[1]
    assert "±" in measured or "to" in measured  # its quality, measured by the comparison
    assert same(errors, redraw)


@pytest.mark.parametrize("which", ["packed", "pruned"])
def test_weights_are_shown_before_and_after(runs, redraw, which):
    layer = runs[which].result()["layers"][0]["name"]
    drawn = variants.histogram(runs[which].id, layer)
    assert same(drawn, redraw)
    rows = pd.read_csv(pd.io.common.StringIO(json.loads(drawn)["csv"]))
    base, after = (part for _, part in rows.groupby("name", sort=False))
    if which == "packed":
        assert (after["share"] > 0).sum() < (base["share"] > 0).sum()  # few values are left
    else:
        zero = after[(after["left"] <= 0) & (after["right"] >= 0)]["share"].sum()
        assert zero >= 0.5 > base[(base["left"] <= 0) & (base["right"] >= 0)]["share"].sum()
    with pytest.raises(UserError, match="No finished compression"):
        variants.histogram("", layer)


def test_the_family_of_a_pruned_run_is_found_by_its_address(runs):
    place, found = compress.family("", runs["pruned"].id)
    assert [run.id for run in found] == [runs["packed"].id, runs["pruned"].id]
    card, stop, _, layers, _ = compress.show_run(runs["pruned"].id)
    assert "Chat with it" in card and not stop["visible"] and layers["value"] in layers["choices"]


# ---- Export


def test_a_checked_export_says_what_its_reader_found_and_can_be_taken_home(runs):
    card, _, _, _, take = compress.show_run(runs["export"].id)
    assert "Read back by" in card and "nats" in card and "Same first word" in card and "transformers, vLLM" in card
    names = zipfile.ZipFile(take["value"]).namelist()
    assert take["visible"] and {"config.json", "model.safetensors", "export_report.json"} <= set(names)
    assert str(runs["export"].directory) not in take["value"]  # a copy where the server may serve from
    assert exports.compressed(runs["export"]) == runs["packed"]
    assert [run.id for run in compress.family("", runs["export"].id)[1]] == [runs["packed"].id, runs["pruned"].id]
    assert not compress.show_run(runs["packed"].id)[4]["visible"]


def test_an_export_that_cannot_be_is_refused_before_it_starts(runs, monkeypatch):
    before = len(Store().list())
    id, said = compress.begin_export("tiny-lm", "gptq", "")
    assert id == compress.gr.skip() and "What can:" in said
    assert "not a model the app knows" in compress.begin_export("/etc", "gguf-f16", "")[1]
    for config in ({"destination": "/root/out"}, {"base": "/etc"}, {"data": "/etc/passwd"}):
        with pytest.raises(UserError):
            exports.settings({"model": "tiny-lm", "to": "safetensors", **config})
    assert len(Store().list()) == before
    asked = []
    monkeypatch.setattr(compress.submit, "submit", lambda job, config: asked.append((job, config)) or runs["export"])
    compress.begin_export("tiny-lm", "safetensors", runs["packed"].id)
    compress.begin_export("tiny-lm", "safetensors", "")
    assert [config["model"] for _, config in asked] == [f"run:{runs['packed'].id}", "tiny-lm"]


# ---- Compare


def test_the_figures_of_a_comparison_are_redrawn_by_their_cells(runs, redraw):
    for cost, good in (("disk_bytes", "perplexity"), ("ram_bytes", "accuracy")):
        front, spread = compare.show_figures(runs["compare"].id, cost, good)
        assert same(front, redraw) and same(spread, redraw)
    table = compare.show_run(runs["compare"].id)[3]
    assert "magnitude 50 %" in table and "rtn-3" in table and "short" in table


def test_runs_are_told_apart_by_their_settings(runs, redraw):
    table, shown, drawn = compare.differences([runs["short"].id, runs["longer"].id])
    assert "steps" in table and "batch_size" not in table and shown["visible"]
    assert same(drawn, redraw) and same(curve.payload([runs["longer"]], log=True), redraw)


# ---- Scaling


def test_a_table_is_made_of_chosen_runs(runs):
    labels = dict(scaling.own_runs())
    assert set(labels) == {"short", "longer"}
    update, said = scaling.make_table([labels["short"], labels["longer"]])
    assert "2 runs with 5 evaluations" in said and update["value"].startswith("upload:")
    table = pd.read_csv(run_tables.place(update["value"]))
    last = table.groupby("run").tail(1).set_index("run")
    assert last["D"].to_dict() == {"short": 4 * 64, "longer": 6 * 64} and (table["N"] > table["trainable"]).all()
    measured = {row["step"]: row["eval_loss"] for row in runs["short"].metrics() if row.get("eval_loss") is not None}
    assert dict(table[table["run"] == "short"][["step", "loss"]].values) == pytest.approx(
        {s: measured[s] for s in (2, 4)}
    )
    assert "choose at least two" in scaling.make_table([labels["short"]])[1]


def test_all_three_figures_of_a_fit_are_redrawn_by_their_cells(runs, tmp_path):
    shipped = pd.read_csv(run_tables.place("chinchilla"))
    (tmp_path / "mine.csv").write_text(shipped.iloc[::6].to_csv(index=False))
    key = choices.keep_upload(tmp_path / "mine.csv")
    _, _, *drawn = scaling.run(key, "chinchilla", "[]", fields.payload(scaling.shown_form(), {"samples": 10}))
    shown = [json.loads(figure) for figure in drawn[:3]]
    heads = {figure["cell"].rpartition("\n")[0] for figure in shown}
    assert len(heads) == 1 and all(figure["csv"] for figure in shown)
    scope = {}
    exec(heads.pop(), scope)  # the lines that all three cells begin with, run once
    for figure in shown:
        again = eval(figure["cell"].rpartition("\n")[2], scope)
        assert json.loads(drawing.payload(again, name="x"))["data"] == figure["data"]
    with pytest.raises(UserError, match="is no table of runs"):
        run_tables.place("/etc/passwd")


# ---- data of any figure


def test_a_figure_without_rows_gives_what_its_traces_hold():
    import plotly.graph_objects as go

    fig = go.Figure()
    fig.add_heatmap(z=[[1.0, 2.0], [3.0, 4.0]], x=[10, 20], name="grid")
    fig.add_scatter(x=[1, 2], y=[5, 6], name="line")
    table = drawing.drawn(fig)
    assert table[table["trace"] == "grid"][["x", "y", "value"]].values.tolist() == [
        [10, 0, 1],
        [20, 0, 2],
        [10, 1, 3],
        [20, 1, 4],
    ]
    assert table[table["trace"] == "line"][["x", "y"]].values.tolist() == [[1, 5], [2, 6]]
    assert drawing.drawn(go.Figure()).empty
