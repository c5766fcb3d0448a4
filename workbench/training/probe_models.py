"""The tiny models on which methods are probed: random weights, a few thousand parameters, every kind of layer once.

`aimed` gives the arguments that send a method to one kind of layer. `tiny-lm` is the shape of the shipped model (random
weights), large enough that a share of its multiplications means something.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.paths import assets
from workbench.training.methods import Method

KINDS = ("llama", "gpt2", "bert")
LAYERS = {  # kind of layer → (model that has it, name that ends its module's path)
    "linear": ("llama", "q_proj"),
    "conv1d": ("gpt2", "c_attn"),
    "embedding": ("llama", "embed_tokens"),
    "norm": ("bert", "output.LayerNorm"),
    "quantized": ("packed", "q_proj"),
}
DESCRIPTION = {
    "llama": "Llama, 2 layers of width 32: Linear layers without biases, RMSNorm",
    "gpt2": "GPT-2, 2 layers of width 32: Conv1D layers (weights stored the other way round), biases",
    "bert": "BERT classifier, 2 layers of width 32: Linear layers with biases, LayerNorm",
    "packed": "the Llama with its weights rounded to 4 bits in groups of 16",
    "tiny-lm": "the shape of the shipped tiny-lm, for counting multiplications: 3 rows of 64 tokens",
}
ROWS, TOKENS, VOCABULARY = 3, 7, 64


def build(kind: str, packed: bool = False) -> nn.Module:
    """A fresh model in evaluation mode, always with the same weights."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(0)
    if kind in ("llama", "packed"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=VOCABULARY, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
    elif kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=32, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=64, bos_token_id=0, eos_token_id=1,
                pad_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        )  # fmt: skip
    elif kind == "bert":
        model = BertForSequenceClassification(
            BertConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY,
                max_position_embeddings=64, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                pad_token_id=1,
            )
        )  # fmt: skip
    else:
        settings = LlamaConfig.from_pretrained(assets() / "models" / "tiny-lm")
        settings.dtype = "float32"
        model = LlamaForCausalLM(settings)
    model = model.float().eval()
    if packed or kind == "packed":
        from workbench.compress import quantize_model

        quantize_model(model, method="rtn", bits=4, group_size=16)
    return model


def inputs(kind: str) -> dict[str, torch.Tensor]:
    """A batch for the model, always the same."""
    generator = torch.Generator().manual_seed(1)
    tokens, vocabulary = (64, 2048) if kind == "tiny-lm" else (TOKENS, VOCABULARY)
    ids = torch.randint(2, vocabulary, (ROWS, tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def answers(model: nn.Module, kind: str, grad: bool = False, **options: Any) -> torch.Tensor:
    """Logits; those of the prompt's own positions are cut off where a method puts a prompt in front."""
    with torch.set_grad_enabled(grad):
        out = model(**inputs(kind), **options).logits
    return out if out.dim() == 2 else out[:, -TOKENS:]


def aimed(method: Method, target: str) -> dict[str, Any]:
    """Arguments that send a method to the layers whose names end so, and nowhere else.

    Args:
        method: any that takes target_modules.
        target: the end of the module's path.
    """
    names = {argument["name"] for argument in method.arguments}
    values: dict[str, Any] = {"target_modules": rf".*{target.replace('.', '[.]')}" if "." in target else [target]}
    if "feedforward_modules" in names:
        values["feedforward_modules"] = []
    if "fan_in_fan_out" in names and target == "c_attn":
        values["fan_in_fan_out"] = True
    return values
