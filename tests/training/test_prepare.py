from __future__ import annotations

import json
from dataclasses import replace

import pytest

from workbench import models
from workbench.errors import UserError
from workbench.training import FinetuneConfig, finetune
from workbench.training.prepare import prepare


@pytest.fixture
def config(llama, texts) -> FinetuneConfig:
    return FinetuneConfig(llama, texts, steps=4, batch_size=2, window=16, precision="fp32")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))


def test_what_is_prepared(config):
    prepared = prepare(replace(config, eval_rows=3))
    assert prepared.task == "causal-lm" and prepared.labels == () and prepared.num_labels is None
    assert len(prepared.evaluation) == 3
    assert all(len(row["input_ids"]) == 16 for row in prepared.train)
    assert not {row["group"] for row in prepared.train} & {row["group"] for row in prepared.evaluation}
    assert (prepared.trainable, prepared.file_bytes) == (1792, 4 * 1792)
    assert prepared.learning_rate == 1e-3
    assert "tokens learned" in prepared.notes[-1]


def test_split_seed_holds_the_split_while_the_seed_varies(config):
    groups = [
        {row["group"] for row in prepare(replace(config, seed=seed, split_seed=5)).evaluation} for seed in (0, 1, 2)
    ]
    assert groups[0] == groups[1] == groups[2]
    assert len({tuple(sorted({r["group"] for r in prepare(replace(config, seed=s)).evaluation})) for s in range(4)}) > 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "laro"}, "no method called 'laro'; did you mean"),
        ({"method_args": {"rank": 4}}, "no argument of lora called 'rank'"),
        ({"method_args": {"r": 0}}, "r is 0; a rank is a whole number from 1 up"),
        ({"method_args": {"r": 99}}, "r is 99, above the smaller side"),
        ({"method_args": {"target_modules": ["k_prok"]}}, "matches no layer of the model; did you mean k_proj"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"model": "tiny-ml"}, "no model called 'tiny-ml'; did you mean tiny-lm"),
        ({"data": "mobby-dick"}, "mobby-dick"),
        ({"window": 65}, "window is 65, but the model reads 64 tokens at most; use 64 or less"),
        ({"batch_size": 5000}, "batch_size is 5000, but the training part of"),
        ({"quantize": "gtpq-4"}, "quantize is 'gtpq-4'; did you mean gptq-4"),
        ({"quantize": "nf4", "method": "full"}, "full needs dense weights, and this model is quantized"),
        ({"quantize": "nf4", "method": "dora"}, "dora needs dense weights"),
        ({"kind": "classification"}, "label"),
        ({"limit": 10**6}, "1,000,000"),
        ({"evaluation": 0.6, "test": 0.5}, "their sum must be below 1"),
    ],
)
def test_bad_input_is_one_sentence_before_any_model_loads_and_leaves_no_folder(change, sentence, config, tmp_path):
    with pytest.raises(UserError) as caught:
        finetune(replace(config, **change), tmp_path / "run")
    assert sentence in str(caught.value)
    assert "problems:" not in str(caught.value), "one mistake is one sentence"
    assert not (tmp_path / "run").exists()


def test_texts_shorter_than_the_window_are_refused(config, tmp_path):
    path = tmp_path / "short.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"Call me number {k}."}) for k in range(30)))
    with pytest.raises(UserError, match="window of 60 tokens leaves nothing to learn"):
        prepare(replace(config, data=str(path), window=60))


def test_label_with_one_example_is_refused(config, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("text,label\n" + "the sea,calm\n" * 3 + "the wind,calm\nthe salt,odd\na ship,calm\n")
    with pytest.raises(UserError, match="odd"):
        prepare(replace(config, data=str(path), kind="classification", batch_size=1))


def test_encoder_cannot_learn_text(bert, config):
    with pytest.raises(UserError, match="is a BertModel, which cannot continue a text; give labelled data"):
        prepare(replace(config, model=bert))


def test_mistakes_in_settings_method_model_and_data_come_together(config, tmp_path):
    with pytest.raises(UserError) as caught:
        finetune(replace(config, method="laro", model="tiny-ml", data="nowhere.csv", steps=0), tmp_path / "run")
    text = str(caught.value)
    assert text.startswith("4 problems: (1) steps is 0")
    assert all(part in text for part in ("'laro'", "'tiny-ml'", "nowhere.csv"))
