"""A tokenizer as GGUF metadata: tokens, kinds, merges, the first cut of text, special ids, chat template.

GGUF names the first cut (`tokenizer.ggml.pre`) instead of storing it, and engines know a closed list of names. A byte-level
BPE whose first cut is not among those below is refused: under another cut the same text becomes other tokens, and the
model answers worse without any error.

    gpt-2      byte-level, with GPT-2's own pattern          smollm     every digit apart, then GPT-2's pattern
    llama-bpe  Llama 3's pattern                             qwen2      Qwen 2's pattern
"""

from __future__ import annotations

import json
from typing import Any

from workbench.errors import UserError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}| ?", r"|\p{N}{1,3}| ?")
_SPLITS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe"}


def first_cut(tokenizer: Any) -> str:
    """GGUF's name of the way a tokenizer cuts text before it merges.

    Args:
        tokenizer: a transformers tokenizer.

    Raises:
        UserError: it is no byte-level BPE, or cuts in a way without a name.
    """
    stored = _stored(tokenizer)
    byte_level = stored["model"]["type"] == "BPE" and (stored["decoder"] or {}).get("type") == "ByteLevel"
    if not byte_level or not stored["model"]["merges"]:
        raise UserError(
            f"gguf files are written for byte-level BPE tokenizers; {type(tokenizer).__name__} here is none. Export to "
            "safetensors or compressed-tensors, which carry the tokenizer as it is."
        )
    cut = stored["pre_tokenizer"] or {}
    steps = cut["pretokenizers"] if cut.get("type") == "Sequence" else [cut]
    if _like(steps, [_GPT2]):
        return "gpt-2"
    if _like(steps, [_DIGITS, _GPT2]):
        return "smollm"
    if len(steps) == 2 and steps[0].get("type") == "Split" and _like(steps[1:], [_GPT2 | {"use_regex": False}]):
        name = _SPLITS.get(steps[0].get("pattern", {}).get("Regex"))
        if name and not steps[0].get("invert") and steps[0].get("behavior") == "Isolated":
            return name
    raise UserError(
        "This tokenizer cuts text in a way that GGUF has no name for, so engines would read other tokens; export to "
        "safetensors or compressed-tensors, which carry the tokenizer as it is."
    )


def metadata(tokenizer: Any, rows: int) -> dict[str, Any]:
    """Keys and values that describe the tokenizer.

    Args:
        tokenizer: a byte-level BPE tokenizer.
        rows: rows of the embedding; rows without a token are filled with unused ones.

    Raises:
        UserError: as `first_cut`; a token id beyond the embedding.
    """
    cut = first_cut(tokenizer)
    stored = _stored(tokenizer)
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(names) >= rows:
        raise UserError(
            f"The tokenizer has token {max(names)} ({names[max(names)]!r}), the embedding only {rows} rows; "
            "resize the embedding (model.resize_token_embeddings) or take the model's own tokenizer."
        )
    kinds = {index: NORMAL for index in names}
    kinds |= {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in stored["added_tokens"]}
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": [names.get(i, f"[PAD{i}]") for i in range(rows)],
        "tokenizer.ggml.token_type": [kinds.get(i, UNUSED) for i in range(rows)],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in stored["model"]["merges"]],
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": starts_with_bos(tokenizer),
    }
    ids = {
        "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }  # fmt: skip
    found |= {f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items() if index is not None}
    if tokenizer.chat_template:
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return found


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its begin-of-text token before every text."""
    ids = tokenizer("a").input_ids
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _stored(tokenizer: Any) -> dict[str, Any]:
    """tokenizer.json as the tokenizer would write it."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json; load the fast version of this tokenizer.")
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _like(steps: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Whether the steps have at least the settings in `wanted`."""
    return len(steps) == len(wanted) and all(
        step.get(key) == value for step, want in zip(steps, wanted, strict=True) for key, value in want.items()
    )
