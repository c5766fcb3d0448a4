import math
import re

import pandas as pd
import pytest
import torch
from torch import nn

from workbench import lesson_changes, lesson_lora
from workbench.lesson_checks_changes import check_count, check_first_step, check_merge
from workbench.lesson_checks_start import check_adapter_bytes, check_bits, check_perplexity


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "is None"),
        (True, "number of bytes"),
        (1000, "count of the numbers"),
        (2000, "16-bit"),
        (8000, "64 bits"),
        (32000, "in bits"),
        (100, "too few"),
        (123456, "too many"),
    ],
)
def test_wrong_file_sizes_get_a_hint(answer, hint):
    check = check_adapter_bytes(answer, 1000)
    assert not check.passed and hint in check.text and "4000" not in check.text.replace(",", "")


def test_right_file_size_passes_within_the_header():
    assert check_adapter_bytes(4000, 1000).passed and check_adapter_bytes(4100.0, 1000).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda n, t: None, "returned None"),
        (lambda n, t: 1 / 0, "ZeroDivisionError"),
        (lambda n, t: sum(n) / sum(t), "nats per token"),
        (lambda n, t: sum(math.exp(a / b) for a, b in zip(n, t, strict=True)) / 3, "documents' perplexities"),
        (lambda n, t: math.exp(sum(a / b for a, b in zip(n, t, strict=True)) / 3), "every document counts the same"),
        (lambda n, t: 2 ** (sum(n) / sum(t)), "the base is e"),
        (lambda n, t: sum(n) / sum(t) / math.log(2), "bits"),
        (lambda n, t: math.exp(sum(n)), "not divided"),
        (lambda n, t: 7.0, "sum the losses"),
    ],
)
def test_wrong_perplexities_get_their_hint(answer, hint):
    check = check_perplexity(answer)
    assert not check.passed and hint in check.text


def test_right_perplexity_passes():
    assert check_perplexity(lambda n, t: math.exp(sum(n) / sum(t))).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "is None"),
        (4, "the codes alone"),
        (4.25, "zero point of each group is missing"),
        (4.0625, "the scale of each group"),
        (24, "shared by a group"),
        (276, "divide by its weights"),
        (5, "one group of 64"),
    ],
)
def test_wrong_bits_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_bits(answer)
    assert not check.passed and hint in check.text and "4.3125" not in check.text


def test_right_bits_pass():
    assert check_bits(4 + 20 / 64).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "is None"),
        (29184, "one layer"),
        (14592, "rank one"),
        (49152, "feed-forward part are missing"),
        (67584, "attention are missing"),
        (94208, "gate, up and down"),
        (24576, "query and value only"),
        (53248, "A alone"),
        (1769472, "matrices themselves"),
        (7, "then add up"),
    ],
)
def test_wrong_counts_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_count(answer)
    assert not check.passed and re.search(hint, check.text) and "116736" not in check.text


def test_right_count_passes_and_is_what_the_model_trains():
    from transformers import LlamaConfig, LlamaForCausalLM

    from workbench.paths import assets

    model = LlamaForCausalLM(LlamaConfig.from_pretrained(assets() / "models" / "tiny-lm"))
    lesson_lora.add_lora(model, lesson_changes.KINDS, r=8)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert check_count(trained).passed and trained == 116736


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, a, b, s: None, "not NoneType"),
        (lambda w, a, b, s: 1 / 0, "ZeroDivisionError"),
        (lambda w, a, b, s: w, "is missing"),
        (lambda w, a, b, s: w + b @ a, "scale is missing"),
        (lambda w, a, b, s: w + s * b @ a, "divided by the rank"),
        (lambda w, a, b, s: s / 2 * b @ a, "change alone"),
        (lambda w, a, b, s: s / 2 * (w + b @ a), "frozen matrix too"),
        (lambda w, a, b, s: w - s / 2 * b @ a, "should go in"),
        (lambda w, a, b, s: 2 * w, "numbers are off"),
    ],
)
def test_wrong_merges_get_their_hint(answer, hint):
    check = check_merge(answer)
    assert not check.passed and hint in check.text


def test_right_merge_passes():
    assert check_merge(lambda w, a, b, s: w + s / a.shape[0] * b @ a).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [(None, "is None"), ("c", "write"), ("b", "not zero"), ("both", "never learn"), ("neither", "multiplies A")],
)
def test_wrong_first_steps_get_their_hint(answer, hint):
    check = check_first_step(answer)
    assert not check.passed and hint in check.text


def test_the_first_step_moves_b_and_not_a():
    torch.manual_seed(0)
    layer = lesson_lora.LoraLinear(nn.Linear(6, 4), r=2)
    layer(torch.randn(3, 6)).square().sum().backward()
    assert layer.a.grad.abs().max() == 0 < layer.b.grad.abs().max()
    assert check_first_step("a").passed


def test_twenty_lines_do_what_pefts_lora_does():
    from peft import LoraConfig, get_peft_model

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(torch.relu(self.q_proj(x)))

    torch.manual_seed(0)
    ours, x = Two().double(), torch.randn(4, 6, dtype=torch.float64)
    theirs = Two().double()
    theirs.load_state_dict(ours.state_dict())
    base = ours(x).detach()
    lesson_lora.add_lora(ours, ("q_proj",), r=2, alpha=6.0).double()
    theirs = get_peft_model(theirs, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"]))
    layer = theirs.base_model.model.q_proj
    torch.testing.assert_close(ours(x), base)  # B is zero: unchanged at the start
    with torch.no_grad():
        ours.q_proj.b.normal_()
        layer.lora_A.default.weight.copy_(ours.q_proj.a)
        layer.lora_B.default.weight.copy_(ours.q_proj.b)
    torch.testing.assert_close(ours(x), theirs(x).double(), rtol=1e-5, atol=1e-6)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    torch.testing.assert_close(ours.q_proj.a.grad, layer.lora_A.default.weight.grad.double(), rtol=1e-4, atol=1e-5)
    apart = ours(x)
    torch.testing.assert_close(lesson_lora.merge_lora(ours)(x), apart)
    assert isinstance(ours.q_proj, nn.Linear)


def test_rows_of_the_figures_from_changes_known_by_hand():
    name = "model.layers.2.self_attn.v_proj"
    eye = torch.eye(4)
    found = {
        "base": lesson_changes.Trained("base", "base", 0, 3.0, {name: eye}),
        "full": lesson_changes.Trained("full", "full", 16, 2.0, {name: 1.5 * eye}),
        "last": lesson_changes.Trained("last", "last-n", 4, 2.5, {name: eye}),
    }
    changed = lesson_changes.change_rows(found)
    assert changed.to_dict("records") == [
        {"method": "full", "layer": "2", "kind": "v", "change": 0.5},
        {"method": "last", "layer": "2", "kind": "v", "change": 0.0},
    ]
    spectrum = lesson_changes.spectrum_rows(found, name)
    assert list(spectrum["method"].unique()) == ["full"] and spectrum["value"].tolist() == [0.5] * 4
    table = lesson_changes.table(found)
    assert table.loc["last", "share"] == 0.25
    assert list(lesson_changes.points(found)["trainable"]) == [16, 4]
    assert isinstance(changed, pd.DataFrame)


def test_lora_of_the_lesson_trains_and_its_change_has_its_rank():
    task = lesson_changes.task("smoke", 0)
    way = lesson_changes.train(task, "LoRA r=2", "lora", lesson_changes.lora(2, ("v_proj",)), 0)
    base = lesson_changes.untouched(task)
    assert way.numbers == 4 * 2 * (192 + 192) and way.loss != base.loss
    name = "model.layers.0.self_attn.v_proj"
    values = torch.linalg.svdvals(way.weights[name] - base.weights[name])
    assert values[1] > 1e-6 and values[2] < 1e-6 * values[0] + 1e-7
    assert torch.equal(way.weights["model.layers.0.self_attn.q_proj"], base.weights["model.layers.0.self_attn.q_proj"])
