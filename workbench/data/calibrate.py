"""Token windows that a quantizer or pruner watches activations on.

Documents are visited in the order of the seed, one random window from each, again and again until there are enough; no
window overlaps another. Texts shorter than a window are joined, end token between them, until a window is full. The
same seed gives the same windows however the documents are ordered.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from workbench.data.encode import answer_ids
from workbench.data.examples import Examples
from workbench.data.format import encoder, start_ids
from workbench.data.split import order
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def calibration(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, samples: int, window: int, seed: int = 0
) -> list[torch.Tensor]:
    """Windows of real text.

    Args:
        examples: checked rows of any kind; conversations and pairs are written with their template.
        tokenizer: the model's own.
        samples: number of windows.
        window: tokens in each.
        seed: which documents, and where in them.

    Returns:
        `samples` tensors of token ids, int64, shape (1, window).

    Raises:
        UserError: too little text, with the number of windows that there are.
    """
    import torch

    for name, value, least in (("samples", samples, 1), ("window", window, 2)):
        if value < least:
            raise UserError(f"Calibration with {name} = {value} sees nothing; use {least} or more.")
    plain, start = encoder(tokenizer), start_ids(tokenizer)
    groups: dict[str, list[dict]] = {}
    for row in examples.rows:
        groups.setdefault(row["group"], []).append(row)
    pools: list[list[list[int]]] = []  # per long document, its windows that are still free, in random order
    short: list[int] = []
    for group in order(list(groups), seed):
        for row in groups[group]:
            ids = answer_ids(row, tokenizer, plain, start)[0]
            if len(ids) >= window:
                pools.append(_cut(ids, window, random.Random(f"{seed}:{group}")))
            else:
                short += ids + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
        if len(pools) + len(short) // window >= samples:
            break
    pools += [[short[at : at + window]] for at in range(0, len(short) - window + 1, window)]
    have = sum(map(len, pools))
    if have < samples:
        raise UserError(
            f"Calibration needs {samples} windows of {window} tokens ({samples * window:,} in all), but "
            f"{examples.source} gives {have}; use samples={have} or fewer, a shorter window, or more text."
        )
    chosen: list[list[int]] = []
    while len(chosen) < samples:
        chosen += [pool.pop() for pool in pools if pool][: samples - len(chosen)]
    return [torch.tensor([ids], dtype=torch.long) for ids in chosen]


def _cut(ids: list[int], window: int, chance: random.Random) -> list[list[int]]:
    """Disjoint windows from a random start, in random order."""
    offset = chance.randint(0, len(ids) % window)
    found = [ids[at : at + window] for at in range(offset, len(ids) - window + 1, window)]
    chance.shuffle(found)
    return found
