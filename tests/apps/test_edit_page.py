"""The page Edit: a scene and a sentence become a strip, a band of noise steps, a table of factors; unknown words are named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import fields, live  # noqa: E402
from workbench.apps.pages import edit  # noqa: E402
from workbench.runs import RunContext, Store  # noqa: E402
from workbench.vision import job  # noqa: E402
from workbench.vision.scenes import render, scene  # noqa: E402

SMALL = {"steps": 3, "painting_steps": 2, "etas": [0.0, 1.0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One finished edit of three steps, its folder of runs in use for the module."""
    pytest.importorskip("diffusers", reason="diffusers is not installed (pip install 'workbench[vision]')")
    folder = tmp_path_factory.mktemp("edit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder / "runs"))
        live.forget()
        result = Store().run_here("edit", SMALL, name="a red star on grass")
        yield Store().list()[0], result
    live.forget()


def test_the_wanted_scene_is_the_original_with_the_words_put_in():
    original, wanted, changed = job.changes({"shape": "star", "colour": "red"}, "a blue star with a moon")
    assert changed == ("colour", "extra")
    assert torch.equal(original, scene(shape="star", colour="red")[0])
    assert torch.equal(wanted, scene(shape="star", colour="blue", extra="moon")[0])
    pictures, names = job.scene_pictures({"shape": "star", "colour": "red"}, "a blue star")
    assert names == ["the scene", "the ideal edit"]
    assert torch.equal(pictures[1:], render(scene(shape="star", colour="blue")))


def test_an_edit_leaves_pictures_scores_and_losses(made):
    run, result = made
    pictures, names = job.pictures(run.directory)
    assert names == ["original", "η 0", "η 1", "ideal"] and pictures.shape == (4, 3, 32, 32)
    assert torch.equal(pictures[:1], render(scene(job.FIRST)))
    assert result["changed"] == ["background"] and result["wanted"]["background"] == "grass"
    for row in result["etas"]:
        right = [row["reads"][name] == word for name, word in result["was"].items() if name != "background"]
        assert row["kept"] == pytest.approx(sum(right) / 9, abs=1e-6)
        assert row["target"] == float(row["reads"]["background"] == "grass")
        ideal = (pictures[names.index(f"η {row['eta']:g}")] - pictures[3]).square().mean().sqrt()
        assert row["distance"] == pytest.approx(float(ideal), abs=1e-6)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]


def test_the_page_shows_strip_band_and_factors(made, same):
    run, result = made
    shown, facts, strip, scores, eta, band = edit.show_result(run.id)
    assert shown["visible"] and same(strip) and same(band)
    first, last = result["band"]
    assert f"{first} to {last} of 1000" in facts and "Fitting" in facts and "Kept as it was" in scores
    assert [value for _, value in eta["choices"]] == [0, 1]
    table = edit.show_factors(run.id, 1)
    reads = result["etas"][1]["reads"]
    assert table.count(">right<") == sum(reads[name] == word for name, word in result["wanted"].items())
    assert table.count(">wrong<") == 10 - table.count(">right<") and table.count("to change") == 1
    assert edit.show_factors(run.id, 7) == edit.show_factors("", 0) == ""


def test_a_stopped_edit_says_so(made, tmp_path):
    run, _ = made
    shutil.copytree(run.directory, tmp_path / run.id)
    context = RunContext(type(run)(tmp_path / run.id), 2)
    context.asked = True
    assert job.run(context) == {"stopped": True}
    context.close()


@pytest.mark.parametrize(("change", "words"), [
    ({"prompt": "a dog on sand"}, "does not know 'dog'"), ({"prompt": "a red star on sand"}, "changes nothing"),
    ({"prompt": ""}, "empty"), ({"etas": [2.0]}, "etas holds 2.0"), ({"etas": []}, "etas is"), ({"steps": 0}, "steps is 0"),
    ({"guidance": 0.5}, "guidance is 0.5"), ({"timesteps": "early"}, "time steps"), ({"hue": 1}, "no setting hue"),
    ({"scene": {"shape": "dog"}}, "dog"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_a_model_loads(change, words):
    with pytest.raises(UserError, match=words):
        job.check(change)


def test_a_sentence_is_answered_while_it_is_written(same):
    form = fields.payload(edit.SCENE)
    drawn, said = edit.show_given(form, "a red star on grass")
    assert same(drawn) and "background" in said and "wb-bad" not in said
    drawn, said = edit.show_given(form, "a zebra on grass")
    assert "&#x27;zebra&#x27;" in said and "background: " in said
    assert "the ideal edit" not in drawn


def test_a_bad_value_is_marked_and_nothing_is_submitted(made):
    before = len(Store().list())
    form = fields.payload(edit.FORM, {"etas": "0, much"})
    run, said, marked = edit.begin(fields.payload(edit.SCENE), "a red star on grass", form)
    assert run == edit.gr.skip() and "0, 0.5, 1" in said
    assert {f["name"]: f["error"] for f in json.loads(marked)}["etas"]
    assert "zebra" in edit.begin(fields.payload(edit.SCENE), "a zebra", fields.payload(edit.FORM))[1]
    assert len(Store().list()) == before
    assert edit.numbers(None) == list(edit.ETAS) and edit.numbers(0.5) == [0.5]


def test_another_scene_comes_with_a_sentence_that_changes_it():
    for _ in range(5):
        form, prompt = edit.another()
        assert job.changes(fields.read(edit.SCENE, form), prompt)[2]


def test_photographs_need_a_checkpoint_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_MODELS", raising=False)
    assert "None is on this machine" in edit.photographs()
    (tmp_path / "variations").mkdir()
    (tmp_path / "variations" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionImageVariationPipeline"}'
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    monkeypatch.setenv("WORKBENCH_MODELS", str(tmp_path))
    assert edit.checkpoints() == ["variations"] and "--model variations" in edit.photographs()


def test_the_page_in_a_browser(made, page, server):
    run, _ = made
    shutil.copytree(run.directory, server.runs / run.id)
    page.goto(f"{server.url}/edit?run={run.id}")
    page.locator("[aria-label='Factors']").wait_for()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
