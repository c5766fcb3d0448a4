from __future__ import annotations

import dataclasses
import json

import pytest

from workbench.errors import JobError, UserError
from workbench.models import catalogue, get, list_models, load_model, load_tokenizer, resolve

INSTALLED = {name: catalogue.at_hand(name) for name in catalogue.names()}


def needs(name):
    return pytest.mark.skipif(not INSTALLED[name], reason=f"{name} is not here: workbench models get {name}")


def test_the_list_says_licence_size_and_how_to_get():
    rows = {row.name: row for row in list_models()}
    assert list(rows) == ["tiny-lm", "smollm2-135m", "minilm-l6"]
    for row in rows.values():
        assert all(value or field == "at_hand" for field, value in dataclasses.asdict(row).items())
        assert row.how_to_get.endswith(row.name) or row.name == "tiny-lm"
    assert rows["smollm2-135m"].licence == "Apache-2.0"


def test_get_refuses_an_unknown_name():
    with pytest.raises(UserError, match="did you mean smollm2-135m"):
        get("smollm")


def absent(monkeypatch, tmp_path, name):
    entry = dataclasses.replace(catalogue._ENTRIES[name], package="workbench-no-such-package==1.0")
    monkeypatch.setitem(catalogue._ENTRIES, name, entry)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.parametrize("name", ["smollm2-135m", "minilm-l6"])
def test_weights_that_are_not_installed_name_the_command(monkeypatch, tmp_path, name):
    absent(monkeypatch, tmp_path, name)
    assert not {row.name: row.at_hand for row in list_models()}[name]
    for call in (resolve, load_model, load_tokenizer):
        with pytest.raises(UserError, match=f"not installed; get them with: workbench models get {name}"):
            call(name)


def test_a_package_that_pip_cannot_install_is_a_sentence(monkeypatch, tmp_path):
    absent(monkeypatch, tmp_path, "smollm2-135m")
    with pytest.raises(JobError, match=r"could not install workbench-no-such-package==1\.0 \(.+\).*run again"):
        get("smollm2-135m")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_the_shipped_model_says_how_to_train_it(monkeypatch, tmp_path):
    monkeypatch.setattr(catalogue.paths, "assets", lambda: tmp_path)
    with pytest.raises(UserError, match=r"python -m workbench\.models\.tiny_lm"):
        resolve("tiny-lm")


@needs("minilm-l6")
def test_minilm_is_the_encoder_its_card_describes(monkeypatch):
    import torch

    info = next(row for row in list_models() if row.name == "minilm-l6")
    model, tokenizer = load_model("minilm-l6", task="encoder"), load_tokenizer("minilm-l6")
    assert (type(model).__name__, model.num_parameters()) == (info.architecture, info.parameters)
    assert catalogue.package_file("minilm-l6").stat().st_size == info.bytes
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply today."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state  # (3, T, 384)
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike = means @ means.T
    assert alike[0, 1] > alike[0, 2] + 0.3
    assert get("minilm-l6") == resolve("minilm-l6").path
    head = load_model("minilm-l6", task="sequence-classification", num_labels=4)
    assert head.classifier.out_features == 4
    assert torch.equal(head.bert.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)
    with pytest.raises(UserError, match="BertModel, which cannot continue a text"):
        load_model("minilm-l6")


@needs("minilm-l6")
def test_weight_packages_are_read_and_never_imported():
    import subprocess
    import sys

    code = (
        "import sys, json; from workbench.models import resolve, list_models; resolve('minilm-l6');"
        "list_models(); print(json.dumps([m for m in sys.modules if 'minilm' in m or 'smollm2' in m]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
