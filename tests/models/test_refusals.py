from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import UserError
from workbench.models import load_model, load_tokenizer, resolve
from workbench.models.checks import read_json


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("smolm2", "no model called 'smolm2'; did you mean smollm2-135m"),
        ("tiny-ml", "did you mean tiny-lm"),
        ("qqqq", "choose one of: minilm-l6, smollm2-135m, tiny-lm"),
        ("", "name is empty"),
        ("  ", "name is empty"),
        ("./nowhere", "no folder or file ./nowhere"),
        ("~/nowhere-at-all", "no folder or file"),
        ("/nowhere/at/all", "no folder or file"),
        ("a/b/c", "hub id has the form owner/name"),
        ("weights.bin", "no folder or file weights.bin"),
    ],
)
def test_unknown_names_and_paths(name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (resolve, load_model, load_tokenizer):
        with pytest.raises(UserError, match=sentence):
            call(name)


def test_a_folder_without_config(copy, tmp_path):
    folder = copy()
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve(folder)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"name the file itself: .*a\.gguf"):
        resolve(tmp_path)


def test_an_adapter_folder_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter, not a whole model; .*load_tuned"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl", "model.pth"])
def test_pickle_checkpoints_stay_closed(copy, name):
    folder = copy()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(UserError, match=rf"only as pickle files \({name}\).*safetensors"):
        load_model(folder)
    with pytest.raises(UserError, match=r"pickle.*safetensors"):
        load_model(folder / name)


def test_a_pickle_beside_safetensors_is_never_opened(copy):
    folder = copy()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    (folder / "optimizer.pt").write_bytes(b"left by a trainer")
    assert load_model(folder).num_parameters() > 0


def test_no_weights_at_all(copy):
    folder = copy()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        resolve(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_a_cut_off_download_is_noticed_before_loading(copy, kept):
    folder = copy()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read .*download it again"):
        resolve(folder)


@pytest.mark.parametrize("shard", ["../other.safetensors", "pytorch_model-00001.bin"])
def test_an_index_may_not_point_elsewhere(copy, shard):
    folder = copy()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match="only safetensors files beside it"):
        resolve(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(b"{", "not valid JSON"), (b"[]", "holds a list, not a JSON object"), (b"\xff\xfe{}", "not valid JSON")],
)
def test_a_broken_config(copy, text, sentence):
    folder = copy()
    (folder / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        resolve(folder)


def test_an_unreadable_file_is_a_sentence(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "config.json")


def test_code_that_comes_with_a_model_is_never_run(copy, tmp_path):
    folder = edit(copy(), model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="needs Python code from its own folder, which is never run"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_architecture(copy):
    with pytest.raises(UserError, match=r"architecture 'llama99' .* is unknown"):
        resolve(edit(copy(), model_type="llama99"))
    with pytest.raises(UserError, match="no model_type"):
        resolve(edit(copy("gpt2"), model_type=None))


@pytest.mark.parametrize("method", ["wb_nothing", None])
def test_unknown_packing_is_refused_before_loading(copy, method):
    folder = edit(copy(), quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError, match=f"quant_method {method!r}, which is not known here"):
        resolve(folder)


def test_packing_that_is_not_an_object(copy):
    with pytest.raises(UserError, match=r"quantization_config of .* is a str"):
        resolve(edit(copy(), quantization_config="int4"))


def test_missing_weights_are_not_filled_with_random_numbers(copy):
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for task in ("causal-lm", "sequence-classification"):
        with pytest.raises(UserError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj\.weight"):
            load_model(folder, task=task)


def test_weights_of_another_size_are_refused(copy):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(edit(copy(), intermediate_size=128))


def test_a_model_without_tokenizer(copy):
    folder = copy()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(folder)


def test_a_file_that_is_no_model(copy, tmp_path):
    with pytest.raises(UserError, match="give the folder"):
        resolve(copy() / "model.safetensors")
    (tmp_path / "x.gguf").write_bytes(b"nope")
    with pytest.raises(UserError, match="is not a model"):
        resolve(tmp_path / "x.gguf")


def test_a_packed_folder_of_ours_comes_back_exactly(originals, tmp_path):
    registry = pytest.importorskip("workbench.compress.registry", reason="the compress room is not there")
    assert registry
    from workbench.compress import quantize_model

    model = load_model(originals["llama"][1])
    quantize_model(model, method="rtn", bits=4, group_size=32)
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(input_ids=ids).logits, model(input_ids=ids).logits)
