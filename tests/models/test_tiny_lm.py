from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from workbench.models import catalogue, load_model, load_tokenizer, tiny_lm
from workbench.models.bits import document_bits, unigram_bits
from workbench.models.tiny_tokenizer import train_tokenizer
from workbench.paths import assets

FOLDER = assets() / "models" / "tiny-lm"


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped():
    return load_model("tiny-lm", device="cpu"), load_tokenizer("tiny-lm")


@pytest.fixture(scope="module")
def texts():
    return tiny_lm.corpus()


def test_the_rate_warms_up_stays_and_falls_to_zero():
    steps = 1000
    rates = [tiny_lm.rate(step, steps) for step in range(steps)]
    assert rates[0] == pytest.approx(1 / tiny_lm.WARMUP)
    assert rates[tiny_lm.WARMUP] == rates[599] == 1.0
    assert rates[-1] == pytest.approx(1 / 400)
    assert rates[800] == pytest.approx(0.5)


def test_batches_hold_each_token_once_per_epoch_and_repeat_with_the_seed():
    documents = [list(range(start, start + 900)) for start in range(1, 9000, 900)]
    first = [rows.clone() for rows, _ in zip(tiny_lm.batches(documents, 0, seed=3), range(4), strict=False)]
    again = [rows for rows, _ in zip(tiny_lm.batches(documents, 0, seed=3), range(4), strict=False)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (tiny_lm.BATCH, tiny_lm.CONTEXT + 1)
    tokens = first[0].flatten().tolist() + first[1].flatten().tolist()
    seen = [token for token in tokens if token]
    assert len(seen) == len(set(seen))
    for row in first[0]:  # inside a document ids rise by one; only the end mark breaks a run
        steps = np.diff(row.numpy())
        assert all(step == 1 or row[i] == 0 or row[i + 1] == 0 for i, step in enumerate(steps))


def test_the_tokenizer_loses_nothing_and_knows_its_marks():
    tokenizer = train_tokenizer(["one two three"] * 3, vocabulary=280, context=32)
    for text in ("plain", "Ünïcödé 日本 🐳", "  two  spaces\n\ttab 1850", "<|user|>", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2, 3]
    assert tokenizer.pad_token_id == 1 != tokenizer.eos_token_id
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "one"}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"


def test_the_whole_command_on_a_few_documents(tmp_path, monkeypatch, texts, capsys):
    few = {name: {part: dict(list(rows.items())[:2]) for part, rows in parts.items()} for name, parts in texts.items()}
    few["sotu"] = {part: {key: text[:4000] for key, text in rows.items()} for part, rows in few["sotu"].items()}
    monkeypatch.setattr(tiny_lm, "corpus", lambda: few)
    monkeypatch.setattr(tiny_lm, "VOCABULARY", 300)
    monkeypatch.setattr(tiny_lm, "BATCH", 2)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    monkeypatch.setattr(tiny_lm, "SHAPE", small | {"num_hidden_layers": 1})
    tiny_lm.main(["--steps", "30", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "training.json").read_text())
    assert json.loads(capsys.readouterr().out) == found["held_out_bits_per_byte"]
    assert found["losses"][-1] < found["losses"][0] < 6
    assert found["command"] == "python -m workbench.models.tiny_lm --steps 30"
    assert set(found["bits_of_held_out_documents"]["kjv"]["test"]) == set(few["kjv"]["test"])
    assert load_model(tmp_path / "out", dtype="auto").dtype == torch.bfloat16
    assert load_tokenizer(tmp_path / "out").pad_token_id == 1


def test_no_steps_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        tiny_lm.main(["--steps", "0"])
    assert stop.value.code == 2
    assert "--steps is 0" in capsys.readouterr().err


def test_the_shipped_folder_is_small_and_as_listed(shipped, record):
    model, tokenizer = shipped
    info = next(row for row in catalogue.list_models() if row.name == "tiny-lm")
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    assert size < 8e6
    assert info.bytes == pytest.approx(size, rel=0.05)
    assert info.parameters == record["parameters"] == model.num_parameters()
    assert len(tokenizer) == model.config.vocab_size <= 4096
    assert tokenizer.model_max_length == model.config.max_position_embeddings == tiny_lm.CONTEXT
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert tokenizer.chat_template
    assert record["steps"] == tiny_lm.STEPS
    assert record["batch"] == [tiny_lm.BATCH, tiny_lm.CONTEXT]


def test_what_it_has_not_seen_is_what_the_data_room_holds_out(record, texts):
    for name, parts in record["bits_of_held_out_documents"].items():
        for part in ("eval", "test"):
            assert list(parts[part]) == list(texts[name][part])


def test_the_recorded_numbers_add_up(record, texts):
    for name, row in record["held_out_bits_per_byte"].items():
        if name == "all":
            continue
        bits = sum(sum(rows.values()) for rows in record["bits_of_held_out_documents"][name].values())
        held_out = texts[name]["eval"] | texts[name]["test"]
        assert row["bytes"] == sum(len(text.encode()) for text in held_out.values())
        assert row["model"] == pytest.approx(bits / row["bytes"], abs=1e-4)


def test_it_beats_compressors_and_unigrams_in_every_domain(record):
    for name, row in record["held_out_bits_per_byte"].items():
        assert row["xz_primed"] < row["xz"] < row["gzip"]
        for baseline in ("gzip", "xz", "unigram_bytes", "unigram_tokens"):
            assert row["model"] < 0.9 * row[baseline], (name, baseline)


@pytest.mark.parametrize("name", tiny_lm.DOMAINS)
def test_bits_recomputed_on_unseen_documents_agree_and_beat_gzip_and_unigram(shipped, record, texts, name):
    import gzip
    from collections import Counter

    model, tokenizer = shipped
    shortest = sorted(texts[name]["test"].items(), key=lambda item: len(item[1]))
    sample = dict(shortest[: 1 if name == "sotu" else 4])
    bits = document_bits(model, tokenizer, list(sample.values()))
    kept = record["bits_of_held_out_documents"][name]["test"]
    assert bits == pytest.approx([kept[key] for key in sample], rel=1e-3)
    joined = "".join(sample.values()).encode()
    seen = Counter("".join(texts[name]["train"].values()).encode())
    assert sum(bits) < 0.8 * 8 * len(gzip.compress(joined, 9))
    assert sum(bits) < 0.6 * unigram_bits(seen, Counter(joined), 256)
