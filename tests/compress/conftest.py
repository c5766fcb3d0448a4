"""Small real models, built from a config, of the architectures that differ in what matters here."""

from __future__ import annotations

import pytest
import torch


def build(kind: str):
    """A two-block model with random weights and biases that are not zero."""
    import transformers as tf

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
    wide = {**small, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": 1, "eos_token_id": 2}
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 128}
    torch.manual_seed(0)
    model = {
        "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**wide, tie_word_embeddings=True)),
        "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**wide, head_dim=16, **special)),
        "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**gpt2, **special)),
        "gemma3": lambda: tf.Gemma3ForCausalLM(
            tf.Gemma3TextConfig(
                **wide, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"], **special
            )
        ),
    }[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def tiny():
    """`tiny("llama")` gives a fresh model."""
    return build


@pytest.fixture
def windows():
    """Calibration text: random token ids, eight windows of two lengths."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 128, (1, length), generator=generator) for length in [64] * 6 + [49] * 2]


@pytest.fixture
def tokens():
    return torch.randint(0, 128, (2, 30), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def logits():
    def run(model, ids):
        with torch.no_grad():
            return model(ids).logits

    return run
