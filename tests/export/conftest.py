"""Small real models from a config, with a byte tokenizer and real text, saved as folders."""

from __future__ import annotations

import pytest
import torch

LINES = {
    "a": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse. ",
    "b": "It is a way I have of driving off the spleen, and regulating the circulation in 1851. ",
    "c": "There is nothing surprising in this! If they but knew it, almost all men cherish the same feelings. ",
}
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


def byte_tokenizer():
    """Byte-level BPE with two merges, GPT-2's cut, a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: i + 1 for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merged = {"th": 257, "Ġth": 258}
    tokens = Tokenizer(models.BPE({"</s>": 0, **letters, **merged}, [("t", "h"), ("Ġ", "th")]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", pad_token="</s>")
    found.chat_template = TEMPLATE
    return found


def build(kind: str):
    """A two-block model with random weights and biases that are not zero."""
    import transformers as tf

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 264}
    wide = {**small, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 264, "n_positions": 128}
    torch.manual_seed(0)
    model = {
        "llama": lambda: tf.LlamaForCausalLM(
            tf.LlamaConfig(**wide, **special, tie_word_embeddings=True, rope_theta=5000.0)
        ),
        "untied": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**wide, **special, head_dim=32)),
        "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**wide, **special, tie_word_embeddings=True)),
        "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**gpt2, **special)),
    }[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="session")
def tiny():
    """`tiny("llama")` gives a fresh model."""
    return build


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def text(tokenizer):
    """Four windows of 64 token ids of real text."""
    ids = tokenizer("".join(LINES.values()) * 2).input_ids
    return [torch.tensor([ids[at : at + 64]]) for at in (0, 60, 120, 180)]


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder of three text files."""
    where = tmp_path_factory.mktemp("texts")
    for name, line in LINES.items():
        (where / f"{name}.txt").write_text(line * 40, encoding="utf-8")
    return where


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tokenizer):
    """`folders("llama")` and `folders("llama", bits=4, …)`: a saved dense or packed model, made once."""
    from workbench.compress import quantize_model

    made = {}

    def make(kind, **packing):
        key = (kind, *sorted(packing.items()))
        if key not in made:
            model = build(kind)
            if packing:
                quantize_model(model, **packing)
            made[key] = tmp_path_factory.mktemp(kind)
            model.save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make
