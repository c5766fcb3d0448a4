"""Small real models for this room, written once per session: a Llama, a GPT-2 and a BERT with a tokenizer of their own."""

from __future__ import annotations

import shutil

import pytest

TEXT = [
    "In the beginning God created the heaven and the earth.",
    "Call me Ishmael. Some years ago, never mind how long.",
]


@pytest.fixture(scope="session")
def tokenizer():
    from workbench.models.tiny_tokenizer import train_tokenizer

    return train_tokenizer(TEXT, vocabulary=300, context=64)


@pytest.fixture(scope="session")
def originals(tokenizer, tmp_path_factory):
    """name → (model, folder). Never write into these folders: copy them."""
    import torch
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocab = len(tokenizer)
    llama = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=vocab, n_positions=64, bos_token_id=0, eos_token_id=0)
    bert = BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=vocab
    )
    built = {"llama": LlamaForCausalLM(llama), "gpt2": GPT2LMHeadModel(gpt2), "bert": BertModel(bert)}
    found = {}
    for name, model in built.items():
        folder = tmp_path_factory.mktemp(name)
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = (model, folder)
    return found


@pytest.fixture
def copy(originals, tmp_path):
    """copy(name) → a model folder that the test may damage."""

    def make(name="llama"):
        return shutil.copytree(originals[name][1], tmp_path / "copy" / name)

    return make
