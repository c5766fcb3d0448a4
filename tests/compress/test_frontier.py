from __future__ import annotations

import json
import math
import random
import statistics
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner

from workbench.commands.frontier import frontier as command
from workbench.compress import frontier, frontier_cells, frontier_speed, quantize_model
from workbench.compress.records import float_bits_per_weight, integer_bits_per_weight
from workbench.compress.variant import Variant, parse
from workbench.errors import UserError
from workbench.figures import style
from workbench.paths import assets

CONFIG = {
    "model": "tiny-lm", "variants": ["rtn-3", "gptq-3"], "seeds": 2, "tokens": 500, "eval_window": 64, "items": 4,
    "samples": 8, "window": 128,
}  # fmt: skip


def context(directory, stop=lambda: False, **config):
    said = []
    return SimpleNamespace(
        directory=directory, config=CONFIG | config, should_stop=stop, said=said, progress=lambda *now: None,
        log=said.append, log_metrics=lambda **row: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of 24 short texts."""
    folder = tmp_path_factory.mktemp("texts")
    words = ["the", "old", "ship", "sailed", "north", "and", "no", "man", "knew", "where", "whales", "would", "rise"]
    for number in range(24):
        chance = random.Random(number)
        (folder / f"{number}.txt").write_text(" ".join(chance.choices(words, k=400)), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory, texts):
    """A run that was stopped after its second cell and then finished: (folder, result, names of the second attempt)."""
    folder = tmp_path_factory.mktemp("frontier")
    first = context(folder, stop=lambda: len(first.said) >= 2, data=texts, calibration=texts)
    assert frontier.run(first) == {"stopped": True}
    assert sorted(path.stem for path in (folder / "cells").glob("*-0.json")) == ["base-0", "rtn-3-0"]
    second = context(folder, data=texts, calibration=texts)
    return folder, frontier.run(second), [line.partition(":")[0] for line in second.said]


def test_a_stopped_run_goes_on_where_it_was(done):
    assert done[2] == ["gptq-3-0", "gptq-3-1"]


def test_formats_stand_for_their_methods_and_speed_is_kept(done):
    folder, result, _ = done
    kept = json.loads((folder / "cells" / "speed.json").read_text())
    assert list(kept["formats"]) == ["base", "rtn-3"] and all(
        len(own["decode"]) == 3 for own in kept["formats"].values()
    )
    rows = {row["name"]: row for row in result["rows"]}
    assert (
        rows["gptq-3"]["decode_tps"]
        == rows["rtn-3"]["decode_tps"]
        == statistics.median(kept["formats"]["rtn-3"]["decode"])
    )
    want = {"fp4": "nf4", "awq-2": "rtn-2", "int8-mixed": "int8-mixed", "base": "base"}
    assert {name: frontier_speed.format_of(parse(name)).name for name in want} == want


def test_rows_say_size_quality_speed_and_cost(done):
    folder, result, _ = done
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["base", "rtn-3", "gptq-3"]
    for row in rows.values():
        assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
        assert row["prefill_tps"] > 0 and row["bound_tps"] > 0
    assert rows["gptq-3"]["seeds"] == 2 and rows["rtn-3"]["seeds"] == 1
    both = rows["gptq-3"]["perplexity_seeds"]
    assert both[0] != both[1] and rows["gptq-3"]["perplexity"] == pytest.approx(math.sqrt(both[0] * both[1]))
    assert rows["gptq-3"]["seconds"] > rows["rtn-3"]["seconds"] > rows["base"]["seconds"] == 0
    assert result["blocks"]["base"] == [0.0] * 4 and 0 < min(result["blocks"]["rtn-3"]) < 0.5
    assert {of for _, _, of in result["layers"]["gptq-3"]} == {"output"} and "base" not in result["layers"]
    table = pd.read_csv(folder / "rows.csv")
    assert (
        list(table["name"]) == list(rows)
        and json.loads((folder / "frontier.json").read_text())["rows"] == result["rows"]
    )


def test_predicted_size_is_the_size_of_the_file(done, tmp_path):
    from workbench.models import load_model

    rows = {row["name"]: row for row in done[1]["rows"]}
    for row in rows.values():
        assert row["disk_bytes"] == pytest.approx(row["predicted_disk_bytes"], rel=1e-3)
    model = load_model("tiny-lm")
    quantize_model(model, bits=3, group_size=64)
    frontier_cells.halve(model)
    assert frontier_cells.file_bytes(model) == rows["rtn-3"]["disk_bytes"]
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.save_pretrained(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size == pytest.approx(rows["rtn-3"]["disk_bytes"], rel=0.01)


def test_report_holds_every_variant_and_its_figures_are_fit_to_show(done):
    from workbench.compress.frontier_report import build, figure

    folder, result, _ = done
    style.check(figure(result))
    page = (folder / "report.html").read_text()
    assert all(name in page for name in ("rtn-3", "gptq-3", "workbench frontier tiny-lm", "Speed and its bound"))
    assert "Q4_1" not in page
    assert "Q4_1" in build({**result, "origin": frontier.ORIGIN})
    worse = [
        {**row, "perplexity": row["perplexity"] * (1000 if row["name"] == "rtn-3" else 1)} for row in result["rows"]
    ]
    assert "rtn-3 is not drawn" in build({**result, "rows": worse})


def test_seeds_are_averaged_document_by_document():
    def cell(nll, correct, seconds):
        row = {"perplexity": math.exp(sum(nll) / 20), "seconds": seconds, "disk_bytes": 10, "peak_bytes": seconds,
               "prefill_tps": 1.0, "decode_tps": 1.0, "bits_per_weight": 4.0}  # fmt: skip
        documents = [{"group": g, "nll": v, "tokens": 10, "bytes": 40} for g, v in zip("ab", nll, strict=True)]
        items = [
            {"item": i, "group": g, "answer": 0, "correct": c}
            for i, (g, c) in enumerate(zip("ab", correct, strict=True))
        ]
        plan = {"seconds": 1.0, "disk_bytes": 10, "peak_bytes": 5}
        return {"row": row, "documents": documents, "items": items, "forecast": plan}

    merged = frontier.merge([cell([10, 30], [True, False], 2), cell([20, 40], [True, True], 4)])
    assert [d["nll"] for d in merged["documents"]] == [15, 35] and [i["correct"] for i in merged["items"]] == [1, 0.5]
    row = merged["row"]
    assert row["perplexity"] == pytest.approx(math.exp(2.5)) and row["accuracy"] == 0.75
    assert row["perplexity_seeds"] == [math.exp(2), math.exp(3)] and (row["seconds"], row["peak_bytes"]) == (3, 4)
    assert row["bits_per_byte"] == pytest.approx(50 / (math.log(2) * 80)) and row["predicted_peak_bytes"] == 5


def test_bytes_that_a_token_reads():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    apart, tied = (
        LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=t)) for t in (False, True)
    )
    cache = 2 * 10 * 2 * 2 * 8 * 4
    weights = sum(p.numel() * 4 for p in tied.parameters())
    buffers = sum(b.numel() * b.element_size() for b in tied.buffers())
    assert frontier_cells.read_bytes(tied, 10) == pytest.approx(weights + buffers + cache, abs=buffers)
    assert frontier_cells.read_bytes(apart, 10) == frontier_cells.read_bytes(tied, 10)  # the embedding is one row


def test_standing_result_is_short_and_holds_no_path(done):
    from workbench.compress.standing import shorten

    _, result, _ = done
    kept = shorten(result)
    errors = [layer for layer in result["layers"]["gptq-3"] if layer[0].endswith("q_proj")]
    found = kept["layer_errors"]["gptq-3"]
    assert found["median"]["q_proj"] == pytest.approx(statistics.median(e for _, e, _ in errors), abs=1e-5)
    assert found["worst"][1] == max(error for _, error, _ in result["layers"]["gptq-3"]) and found["of"] == "output"
    assert kept["rows"] == result["rows"] and str(done[0]) not in json.dumps(kept)


def test_work_by_hand():
    """Two layers of 10 × 4 and 4 × 10, eight tokens."""
    shapes, weights = [(10, 4), (4, 10)], 80
    assert frontier_cells.work("rtn", shapes, 0) == 600 * weights
    assert frontier_cells.work("int8-mixed", shapes, 8) == 600 * weights + 2 * 2 * 8 * weights
    forward, hessians = 2 * 8 * weights, 1.2 * 8 * (16 + 100) * 4 / 7
    gptq = (10 * 16 + 4 * 100) + (64 + 1000)
    assert frontier_cells.work("gptq", shapes, 8) == pytest.approx(600 * weights + 2 * (forward + hessians + gptq))
    awq = 20 * (10 * 16 + 4 * 100) + 20 * 60 * weights
    assert frontier_cells.work("awq", shapes, 8) == pytest.approx(600 * weights + 2 * (forward + hessians + awq))


@pytest.mark.parametrize(
    ("name", "want"),
    [("rtn-4", ("rtn-4", "rtn", 4)), ("awq", ("awq-4", "awq", 4)), ("nf4", ("nf4", "nf4", 4)),
     ("int8-mixed", ("int8-mixed", "int8-mixed", 8)), ("base", ("base", "base", 16))],
)  # fmt: skip
def test_names_of_variants(name, want):
    assert parse(name) == Variant(*want)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"variants": ["gptk-4"]}, "did you mean gptq"),
        ({"variants": ["rtn-5"]}, "5 bits are not offered"),
        ({"variants": ["nf4-3"]}, "nf4 has 4 bits, not 3"),
        ({"variants": []}, "name at least one"),
        ({"seeds": 0}, "seeds is 0"),
        ({"tokns": 5}, "has no setting tokns"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"group_size": 48}, "does not divide"),
        ({"data": "sotu-century"}, "classification rows"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(config, match, tmp_path):
    with pytest.raises(UserError, match=match):
        frontier.run(context(tmp_path, **config))
    assert not list(tmp_path.rglob("*.json"))


def test_command_predicts_without_loading(tmp_path):
    found = CliRunner().invoke(
        command, ["tiny-lm", "--variants", "awq-4,int8-mixed", "--seeds", "2", "--dry-run", "--json"]
    )
    plan = json.loads(found.stdout)
    assert [row["name"] for row in plan["rows"]] == ["base", "awq-4", "int8-mixed"]
    assert plan["rows"][1]["runs"] == 2 and plan["rows"][1]["calibration_tokens"] == 16 * 256
    assert plan["rows"][1]["seconds"] > 0 and plan["measuring_seconds"] > 0
    assert "about" in CliRunner().invoke(command, ["tiny-lm", "--variants", "rtn-4", "--dry-run"]).stdout


def test_standing_result_is_whole_and_its_sizes_are_the_formula():
    """What the README draws: every variant there, seeds where text is sampled, bytes by the formula to 1 %."""
    from workbench.compress.frontier_report import figure

    result = json.loads((assets() / "findings" / "compression.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in result["rows"]}
    assert len(rows) >= 13 and set(frontier.DEFAULTS["variants"]) <= set(rows) and "Q4_1" in result["origin"]
    weights, group = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536), result["budget"]["group_size"]
    dense = rows["base"]["disk_bytes"] - 2 * weights  # embeddings, tied to the head, and norms
    for name, row in rows.items():
        assert math.isfinite(row["perplexity"]) and row["decode_tps"] <= row["bound_tps"]
        assert len(row["perplexity_seeds"]) == row["seeds"] == (3 if parse(name).seeded else 1)
        if name == "base":
            continue
        if row["method"] in ("nf4", "fp4"):
            bits = float_bits_per_weight(group)
        else:
            bits = integer_bits_per_weight(row["bits"], group, False)
        if name != "int8-mixed":  # its float columns depend on the text
            assert row["bits_per_weight"] == pytest.approx(bits, rel=0.01)
        assert row["disk_bytes"] == pytest.approx(dense + weights * row["bits_per_weight"] / 8, rel=0.01)
    style.check(figure(result))
