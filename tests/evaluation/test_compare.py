import json

import numpy as np
import pytest

from workbench.errors import JobError, UserError
from workbench.evaluation import Settings, Variant, compare
from workbench.evaluation.judging import judge, paired_tests

SETTINGS = Settings(window=32, tokens=600, items=6, choices=3, prompt_tokens=8, new_tokens=2, repeats=1)


class Shelf:
    """Variants whose loading is counted."""

    def __init__(self, build, tokenizer, files):
        self.build, self.tokenizer, self.files, self.loaded = build, tokenizer, files, []

    def variant(self, name, seed=0, scale=None, **description):
        def load():
            self.loaded.append(name)
            model = self.build(seed, initializer_range=0.1)
            if scale is not None:
                model.lm_head.weight.data *= scale
            return model, self.tokenizer

        return Variant(load, {"name": name, "seed": seed, **description}, self.files)


@pytest.fixture
def shelf(build, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    (folder / "model.safetensors").write_bytes(b"x" * 900)
    (folder / "other.gguf").write_bytes(b"x" * 100)
    return Shelf(build, tokenizer, (folder,))


def test_rows_hold_all_measures_and_judgement(shelf, chapters):
    found = compare({"base": shelf.variant("base"), "same": shelf.variant("same"), "wild": shelf.variant("wild", 1, 40.0)},
                    chapters, settings=SETTINGS)  # fmt: skip
    rows = found.rows.set_index("name")
    for column in ("perplexity", "accuracy"):
        assert (rows[f"{column}_low"] <= rows[column]).all() and (rows[column] <= rows[f"{column}_high"]).all()
    assert rows.loc["base", "perplexity"] == rows.loc["same", "perplexity"] < rows.loc["wild", "perplexity"]
    assert found.tied_best == ["base", "same"]
    assert rows["perplexity_tied"].tolist() == [True, True, False]
    assert (rows["disk_bytes"] == 1000).all() and (rows["ram_bytes"] > 0).all() and (rows["decode_tps"] > 0).all()
    tests = {(t["name"], t["measure"]): t for t in found.tests}
    assert tests["same", "loss"]["difference"] == 0 and tests["same", "loss"]["p_holm"] == 1
    loss = np.log(rows["perplexity"])
    assert tests["wild", "loss"]["difference"] == pytest.approx(loss["wild"] - loss["base"], rel=1e-9)
    assert tests["wild", "loss"]["p"] == 2 / 2**6 and tests["wild", "loss"]["p_holm"] == 4 / 2**6
    assert found.budget["window"] == 32 and found.budget["predicted_tokens"] <= 600 and found.budget["documents"] == 6
    assert len(found.cells["base"]["items"]) == 6 and len(found.cells["base"]["documents"]) == 6


def test_interrupted_comparison_resumes_without_measuring_twice(shelf, chapters, tmp_path):
    variants = {name: shelf.variant(name, seed) for seed, name in enumerate("abc")}
    whole = compare(variants, chapters, settings=SETTINGS)
    shelf.loaded.clear()
    stop = lambda: "b" in shelf.loaded  # noqa: E731 - asked for while b is measured
    half = compare(variants, chapters, settings=SETTINGS, folder=tmp_path, should_stop=stop)
    assert half.stopped and shelf.loaded == ["a", "b"] and half.rows["name"].tolist() == ["a"]
    shelf.loaded.remove("b")
    found = compare(variants, chapters, settings=SETTINGS, folder=tmp_path)
    assert shelf.loaded == ["a", "b", "c"] and not found.stopped
    timed = ["prefill_tps", "decode_tps"]
    assert found.rows.drop(columns=timed).equals(whole.rows.drop(columns=timed))
    compare(variants, chapters, settings=SETTINGS, folder=tmp_path)
    assert shelf.loaded == ["a", "b", "c"]


def test_a_killed_write_or_a_cut_off_file_is_measured_again(shelf, chapters, tmp_path):
    variants = {"a": shelf.variant("a")}
    compare(variants, chapters, settings=SETTINGS, folder=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    cell = next(path for path in tmp_path.glob("*.json") if not path.name.startswith("questions"))
    cell.write_text(cell.read_text()[:50])
    compare(variants, chapters, settings=SETTINGS, folder=tmp_path)
    assert shelf.loaded == ["a", "a"]
    assert json.loads(cell.read_text())["description"]["name"] == "a"


@pytest.mark.parametrize("what", ["description", "settings", "text"])
def test_any_change_of_the_description_is_another_cell(shelf, chapters, tmp_path, what):
    import dataclasses

    compare({"a": shelf.variant("a")}, chapters, settings=SETTINGS, folder=tmp_path)
    variant = shelf.variant("a", bits=3) if what == "description" else shelf.variant("a")
    settings = dataclasses.replace(SETTINGS, tokens=500) if what == "settings" else SETTINGS
    data = chapters.with_rows(chapters.rows[:-1]) if what == "text" else chapters
    compare({"a": variant}, data, settings=settings, folder=tmp_path)
    assert shelf.loaded == ["a", "a"]


def test_one_broken_variant_does_not_cost_the_others(shelf, chapters, tmp_path):
    variants = {"bad": shelf.variant("bad", scale=float("nan")), "good": shelf.variant("good")}
    with pytest.raises(JobError, match=r"1 of 2 variants.*bad: .*not finite"):
        compare(variants, chapters, settings=SETTINGS, folder=tmp_path)
    compare({"good": variants["good"]}, chapters, settings=SETTINGS, folder=tmp_path)
    assert shelf.loaded == ["bad", "good"]


def test_bare_loaders_are_told_apart_by_name(shelf, chapters, tmp_path):
    found = compare({"x": shelf.variant("x").load}, chapters, settings=SETTINGS, folder=tmp_path)
    assert found.rows["name"].tolist() == ["x"] and found.rows["disk_bytes"].isna().all()


def test_progress_ends_at_the_end(shelf, chapters):
    seen = []
    compare({"a": shelf.variant("a"), "b": shelf.variant("b")}, chapters, settings=SETTINGS,
            progress=lambda done, total, text: seen.append((done / total, text)))  # fmt: skip
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1 and "perplexity" in seen[-1][1]


def cell(name, nll, tokens):
    documents = [{"group": g, "nll": nll[i], "tokens": tokens[i], "bytes": 40 * (i + 1)} for i, g in enumerate("pq")]
    items = [{"item": 0, "group": "p", "answer": 0, "correct": True}]
    return {"row": {"name": name}, "documents": documents, "items": items}


def cells(tokens_b=(10, 30)):
    return {"a": cell("a", (20.0, 90.0), (10, 30)), "b": cell("b", (24.0, 94.0), tokens_b)}


def test_difference_is_of_totals_by_hand():
    test = paired_tests(cells(), "a")[0]
    assert test["difference"] == pytest.approx(8 / 40) and test["p"] == 0.5 and test["exact"]


def test_other_tokenizers_are_compared_by_bytes():
    test = paired_tests(cells((5, 20)), "a")[0]
    assert test["difference"] == pytest.approx(8 / 120)


def test_cells_that_do_not_belong_together_are_refused():
    found = cells()
    found["b"]["items"][0]["answer"] = 1
    with pytest.raises(UserError, match="different questions"):
        judge(found)
    for document in found["b"]["documents"]:
        document["group"] += "x"
    with pytest.raises(UserError, match="different documents"):
        judge(found)
    assert judge({}) == []


def test_bad_input(shelf, chapters, tmp_path):
    with pytest.raises(UserError, match="nothing to compare"):
        compare({}, chapters)
    with pytest.raises(UserError, match="'z' is not compared"):
        compare({"a": shelf.variant("a")}, chapters, reference="z")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot keep results"):
        compare({"a": shelf.variant("a")}, chapters, settings=SETTINGS, folder=tmp_path / "file" / "in")
