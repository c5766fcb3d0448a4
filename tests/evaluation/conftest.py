"""A tiny Llama in float64, a byte-level tokenizer trained on real text, and held-out documents."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick_collection():
    """Collecting garbage after each cell walks over all of torch and transformers, 0.5 s each time, unless they are frozen."""
    import transformers  # noqa: F401

    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from workbench.data import documents

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([row["text"] for row in documents("moby-dick")[:5]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")


@pytest.fixture(scope="session")
def build(tokenizer):
    """build(seed=0, **config) -> a fresh tiny Llama in float64, evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed=0, cls=LlamaForCausalLM, **config):
        settings = {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 256,
            "initializer_range": 0.5, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        }  # fmt: skip
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return cls(LlamaConfig(**settings | config)).double().eval()

    return make


@pytest.fixture(scope="session")
def model(build):
    return build()


@pytest.fixture(scope="session")
def text():
    """text(*texts, kind="text") -> Examples with one document per text, named d0, d1, …"""
    from workbench.data import Examples, Report

    def make(*texts, kind="text"):
        rows = [{"text": t, "group": f"d{i}"} for i, t in enumerate(texts)]
        return Examples(kind, rows, "the test's text", Report("the test's text", len(rows), len(rows)))

    return make


@pytest.fixture(scope="session")
def chapters(text):
    from workbench.data import documents

    return text(*[row["text"][:3000] for row in documents("moby-dick")[20:26]])
