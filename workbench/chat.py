"""Open any model (bundled name, folder, tuned run, packed folder) and let it answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model ready to answer, with the fingerprint of the weights that do."""

    model: Any
    tokenizer: Any
    fingerprint: str


def open_model(name: str) -> Opened:
    """Load a bundled name, a model folder (dense or packed), a hub id, or a folder with a tuned adapter.

    Raises:
        UserError: when nothing of that name can be loaded safely.
    """
    from workbench.models import fingerprint, load_model, load_tokenizer

    if (Path(name) / "adapter_config.json").is_file():
        from workbench.training import load_tuned

        model, tokenizer = load_tuned(Path(name))
    else:
        model, tokenizer = load_model(name), load_tokenizer(name)
    return Opened(model, tokenizer, fingerprint(model))


def answer(opened: Opened, messages: list[dict[str, str]], new_tokens: int, temperature: float, seed: int) -> str:
    """Continue a conversation.

    Args:
        opened: from `open_model`.
        messages: {"role", "content"} in order. A model without chat template continues the last text as plain text.
        new_tokens: tokens at most.
        temperature: 0 is greedy.
        seed: of the sampling.

    Returns:
        the new text only.
    """
    from workbench.evaluation import continue_text

    tokenizer = opened.tokenizer
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        prompt = messages[-1]["content"]
    return continue_text(opened.model, tokenizer, prompt, new_tokens, seed=seed, temperature=temperature).strip()
