"""A tiny Llama and a tiny BERT as folders, a tokenizer trained on the text at hand, and three small data files."""

from __future__ import annotations

import json
import random

import pytest

TALE = "the sea was calm and a white whale rose far from our ship while men sang of home wind salt rope sail"
WORDS = TALE.split()


@pytest.fixture(scope="session", autouse=True)
def settled_heap():
    """The Trainer collects garbage at every start; what the imports have made need not be looked at each time."""
    import gc

    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def sentences(seed: int, count: int) -> list[str]:
    """`count` sentences over a small vocabulary, in which each word mostly decides the next."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        at, words = draw.randrange(len(WORDS)), []
        for _ in range(8):
            words.append(WORDS[at])
            at = (at * 3 + 1) % len(WORDS) if draw.random() < 0.9 else draw.randrange(len(WORDS))
        found.append(" ".join(words).capitalize() + ".")
    return found


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokens.train_from_iterator(sentences(0, 200), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def llama(tmp_path_factory, tokenizer) -> str:
    """Folder of a Llama with 2 layers, width 32, grouped queries, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory, tokenizer) -> str:
    """Folder of a BERT with 2 layers and width 32 (it has biases, and dropout)."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "bert"
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> str:
    """A folder of 12 text documents."""
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    for k in range(12):
        (folder / f"{k:02}.txt").write_text(" ".join(sentences(k, 12)))
    return str(folder)


@pytest.fixture(scope="session")
def answers(tmp_path_factory) -> str:
    """A file of 40 prompts with completions of different lengths."""
    path = tmp_path_factory.mktemp("data") / "answers.jsonl"
    rows = [
        {"prompt": f"{text.split()[0]} ", "completion": " ".join(text.split()[1 : 2 + k % 7])}
        for k, text in enumerate(sentences(1, 40))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> str:
    """A file of 60 sentences whose label is a word in them."""
    path = tmp_path_factory.mktemp("data") / "labelled.jsonl"
    draw = random.Random(3)
    rows = []
    for text in sentences(2, 60):
        label = draw.choice(["sea", "home"])
        rows.append({"text": f"{label} {label} {text}", "label": label})
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)
