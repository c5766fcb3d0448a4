"""Continue a text: greedy, or sampled from a seed. The caller's random state is left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def continue_text(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    new_tokens: int,
    seed: int = 0,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> str:
    """Let `model` write on.

    Args:
        model: a causal language model.
        tokenizer: its own. Special tokens written out in the prompt (a chat template's) are read as such.
        prompt: the beginning.
        new_tokens: tokens at most; an end token ends earlier.
        seed: of the sampling; the same seed gives the same text.
        temperature: 0 takes the most likely token; 1 samples as the model says; above 1 is wilder.
        top_p: sample from the fewest tokens that together have this probability.

    Returns:
        the new text only.

    Raises:
        UserError: an empty prompt, numbers out of range, or more tokens than the model can read.
    """
    import torch
    from transformers import GenerationConfig

    from workbench.data.format import start_ids
    from workbench.evaluation.nll import device_of, evaluating, name_of

    if new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise UserError(
            f"Cannot write {new_tokens} tokens at temperature {temperature} and top_p {top_p}; use 1 token or more, a "
            "temperature of 0 or more, and top_p above 0 and up to 1."
        )
    ids, start = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"], start_ids(tokenizer)
    if start and ids[:1] != start:
        ids = start + ids
    if not ids:
        raise UserError("The prompt is empty, and this model needs at least one token to go on from; write a word.")
    most = getattr(model.config, "max_position_embeddings", None)
    if most and len(ids) + new_tokens > most:
        raise UserError(
            f"{len(ids)} tokens of prompt and {new_tokens} new ones are more than the {most} that {name_of(model)} can "
            "read; shorten the prompt or ask for less."
        )
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    settings = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=bool(sampling), num_beams=1, repetition_penalty=1.0,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )  # fmt: skip
    device = device_of(model)
    row = torch.tensor([ids], device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), evaluating(model):
        torch.manual_seed(seed)
        out = model.generate(input_ids=row, attention_mask=torch.ones_like(row), generation_config=settings)
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
