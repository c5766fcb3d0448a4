"""Whole models: written, read back by a second reader, compared in logits."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from workbench.compress import IntLinear, quantize_model
from workbench.errors import JobError, UserError
from workbench.export import check, export_model, gguf_file, outline
from workbench.export.check import logits
from workbench.export.size import file_bytes

FLOATS = ("safetensors", "gguf-f16", "gguf-q8_0", "gguf-q4_1", "gguf-q4_0")
W4 = {"bits": 4, "group_size": 32}


def weights(folder):
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".gguf", ".safetensors"))


@pytest.mark.parametrize("kind", ["llama", "untied", "qwen2"])
@pytest.mark.parametrize("to", ["safetensors", "gguf-f16", "gguf-q4_0"])
def test_dense_models_come_back_as_they_were_written(kind, to, tiny, tokenizer, text, tmp_path):
    model = tiny(kind)
    shape = outline(model)
    report = export_model(model, tokenizer, tmp_path / "out", to=to, text=text, name="tiny", max_loss_change=5)
    found = report.check
    assert found["layout"] < 1e-6 and found["tokens"] == 4 * 63
    assert found["rounding"] < {"safetensors": 1e-7, "gguf-f16": 2e-3, "gguf-q4_0": 0.5}[to]
    assert (found["rounding"] == 0) == (to == "safetensors")
    assert found["tokenizer"] is (True if to.startswith("gguf") else None)
    size = weights(tmp_path / "out")
    assert file_bytes(to, shape, "float32", report.settings["embeddings"]) == pytest.approx(size, rel=0.1, abs=6000)
    stored = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("to", "packing"),
    [
        ("gptq", {"bits": 4, "group_size": 32, "symmetric": True}),
        ("gptq-v2", {"bits": 3, "group_size": 32}),
        ("gptq-v2", {"bits": 8, "group_size": None}),
        ("compressed-tensors", {"bits": 4, "group_size": 32}),
        ("compressed-tensors", {"bits": 2, "group_size": None, "symmetric": True}),
        ("gguf-q4_1", {"bits": 4, "group_size": 32}),
        ("gguf-q4_0", {"bits": 3, "group_size": 32, "symmetric": True}),
        ("gguf-q8_0", {"method": "nf4"}),
        ("gguf-q8_0", {"bits": 4, "group_size": 32, "scaled": True}),
        ("safetensors", {"method": "nf4"}),
    ],
)
def test_packed_models_keep_their_codes(to, packing, tiny, tokenizer, text, tmp_path):
    model = tiny("llama")
    quantize_model(model, **{key: value for key, value in packing.items() if key != "scaled"})
    if "scaled" in packing:  # as AWQ leaves a layer whose input scale cannot be folded away
        name = "model.layers.0.mlp.down_proj"
        scale = torch.linspace(0.5, 2, 96).half()
        record = dataclasses.replace(model.get_submodule(name).record(), input_scale=scale)
        model.set_submodule(name, IntLinear.from_record(record, None))
    shape = outline(model)
    report = export_model(model, tokenizer, tmp_path / "out", to=to, text=text, max_loss_change=5)
    assert report.check["layout"] < 1e-6
    assert report.check["rounding"] < (3e-2 if to.startswith("gguf") else 2e-3)  # embedding, and q4_1's minimum
    size = weights(tmp_path / "out")
    dtype, embeddings = report.settings["dtype"], report.settings["embeddings"]
    assert file_bytes(to, shape, dtype, embeddings) == pytest.approx(size, rel=0.1, abs=6000)


@pytest.mark.parametrize("kind", ["untied", "qwen2", "gpt2"])
def test_codes_of_other_architectures(kind, tiny, tokenizer, text, tmp_path):
    model = tiny(kind)
    quantize_model(model, **W4)
    report = export_model(model, tokenizer, tmp_path / "out", to="gptq-v2", text=text)
    assert report.check["layout"] < 1e-6 and report.check["rounding"] < 2e-3


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")  # its way to ask for plain weights
@pytest.mark.parametrize("packing", [W4, {"bits": 4, "group_size": 32, "skip": ("q_proj",)}], ids=["all", "some"])
def test_transformers_itself_opens_the_format_of_vllm(packing, tiny, tokenizer, text, tmp_path):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    model = tiny("llama")
    quantize_model(model, **packing)
    wanted = logits(model, text)
    report = export_model(model, tokenizer, tmp_path / "out", to="compressed-tensors", text=text)
    assert report.check["reader"] == "the compressed-tensors package" and report.check["layout"] < 1e-6
    stored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    opened = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, quantization_config=CompressedTensorsConfig(**stored, dequantize=True)
    )
    assert check.relative(logits(opened, text), wanted) < 2e-3  # it multiplies in float16 while loading


def test_without_the_package_the_layout_itself_is_read(tiny, tokenizer, text, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.export.reread.importlib.util.find_spec", lambda name: None)
    model = tiny("llama")
    quantize_model(model, **W4)
    report = export_model(model, tokenizer, tmp_path / "out", to="compressed-tensors", text=text)
    assert report.check["reader"] == "a decoder of the layout's definition" and report.check["layout"] < 1e-6


def test_a_configuration_that_speaks_of_other_layers_is_caught(tiny, tokenizer, text, tmp_path, monkeypatch):
    pytest.importorskip("compressed_tensors")
    from workbench.export import compressed

    real = compressed.quantization
    monkeypatch.setattr(compressed, "quantization", lambda settings, dense: real(settings, []))
    model = tiny("untied")
    quantize_model(model, **W4)
    with pytest.raises(JobError, match="speaks of other layers: lm_head"):
        export_model(model, tokenizer, tmp_path / "out", to="compressed-tensors", text=text)


def test_gguf_of_tiny_lm_has_the_logits_that_transformers_reads(text, tmp_path):
    """The shipped model, opened like any other by name of its file; its own tokenizer cuts digits first."""
    from workbench import data, models

    tokenizer = models.load_tokenizer("tiny-lm")
    real = data.calibration(data.load("sotu", limit=4), tokenizer, 2, 64)
    model = models.load_model("tiny-lm", device="cpu")
    report = export_model(model, tokenizer, tmp_path / "out", to="gguf-q8_0", text=real, name="tiny-lm")
    assert report.file.endswith("tiny-lm-Q8_0.gguf") and report.check["tokenizer"] is True
    assert report.check["layout"] == 0 and report.check["rounding"] < 0.01
    assert abs(report.check["loss_after"] - report.check["loss_before"]) < 0.01


def test_a_wrong_row_order_is_caught(tiny, tokenizer, text, tmp_path, monkeypatch):
    """Without the reordering inside heads the file is fluent-looking nonsense; the guard must see it."""
    monkeypatch.setattr(gguf_file, "head_order", lambda rows, heads: torch.arange(rows))
    with pytest.raises(JobError, match="gives other logits than the model"):
        export_model(tiny("llama"), tokenizer, tmp_path / "out", to="gguf-f16", text=text)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_rotary_base_is_caught(tiny, tokenizer, text, tmp_path, monkeypatch):
    real = gguf_file.header
    monkeypatch.setattr(gguf_file, "header", lambda *a: real(*a) | {"llama.rope.freq_base": 10000.0})
    with pytest.raises(JobError, match="gives other logits"):
        export_model(tiny("llama"), tokenizer, tmp_path / "out", to="gguf-f16", text=text)


def test_head_order_is_its_definition():
    order = gguf_file.head_order(8, 2)  # two heads of four: halves (0, 1 | 2, 3) become pairs (0, 2), (1, 3)
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert gguf_file.head_order(8, 0).tolist() == list(range(8))


def test_a_loss_that_rises_too_far_is_refused(tiny, tokenizer, text, tmp_path):
    with pytest.raises(JobError, match="take a finer format"):
        export_model(tiny("llama"), tokenizer, tmp_path / "out", to="gguf-q4_0", text=text, max_loss_change=-9)
    assert list(tmp_path.iterdir()) == []


def test_float16_that_overflows_is_refused_and_bfloat16_holds_it(tiny, tokenizer, text, tmp_path):
    model = tiny("llama")
    model.model.norm.weight.data[0] = 1e5  # its logits are absurd, which is not the point here
    with pytest.raises(UserError, match="use --dtype bfloat16"):
        export_model(model, tokenizer, tmp_path / "a", to="safetensors", dtype="float16", text=text)
    much = {"text": text, "max_loss_change": 1e9}
    report = export_model(model, tokenizer, tmp_path / "b", to="safetensors", dtype="bfloat16", **much)
    assert report.check["layout"] < 1e-6 < report.check["rounding"]
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(UserError, match="float16 cannot"):
        export_model(model, tokenizer, tmp_path / "c", to="gguf-f16", **much)


def test_tied_heads_are_written_once(tiny, tokenizer, text, tmp_path):
    from gguf import GGUFReader
    from safetensors import safe_open

    for kind, tied in (("llama", True), ("untied", False)):
        export_model(tiny(kind), tokenizer, tmp_path / kind, to="safetensors", text=text)
        with safe_open(tmp_path / kind / "model.safetensors", "pt") as file:
            assert ("lm_head.weight" in file.keys()) != tied  # noqa: SIM118 (not a dict)
    model = tiny("llama")
    report = export_model(model, tokenizer, tmp_path / "g", to="gguf-f16", text=text, name="x")
    assert not any(tensor.name == "output.weight" for tensor in GGUFReader(report.file).tensors)


def test_check_measures_what_it_says():
    text = [torch.tensor([[0, 1, 2]])]
    before = torch.zeros(3, 4)
    file = before.clone()
    file[0, 1] = 4.0
    found = check.compare("me", file, before, before, text)
    assert found.largest == 4.0 and found.layout > 1e20 and found.rounding == 0
    wanted = (-torch.log_softmax(file[0], 0)[1] - torch.log_softmax(file[1], 0)[2]) / 2
    assert found.loss_after == pytest.approx(float(wanted)) and found.loss_before == pytest.approx(1.3862943)
    assert found.agreement == pytest.approx(2 / 3)


def test_nan_logits_are_not_confirmed(text):
    good = torch.randn(256, 10)
    found = check.compare("me", torch.full_like(good, float("nan")), good, good, text and [torch.zeros(1, 256).long()])
    with pytest.raises(JobError, match="other logits"):
        check.demand(found, "gptq")


def test_logits_are_those_of_the_model(tiny, text):
    model = tiny("llama")
    with torch.no_grad():
        assert torch.equal(logits(model, text)[64:128], model(text[1]).logits[0])
