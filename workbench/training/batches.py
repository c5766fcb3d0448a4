"""Rows into batches, in an order that depends on the seed and the position alone.

`Order` lays the passes over the data end to end: item i belongs to pass i // n and is row P(i // n)[i mod n], with P(e)
the permutation drawn from (seed, e). A run of `steps` updates is then one pass over `Order`; wherever it is interrupted,
the next batch follows from its step number, and every update sees exactly batch_size · accumulation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

IGNORE = -100


class Order(Dataset):
    """`length` items drawn from `rows`, reshuffled at every pass.

    Args:
        rows: the encoded training rows.
        length: items in all (updates · batch size · accumulation).
        seed: of the shuffling.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], length: int, seed: int) -> None:
        self.rows, self.length, self.seed = rows, length, seed
        self._pass, self._permutation = -1, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, len(self.rows))
        if number != self._pass:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            self._permutation = torch.randperm(len(self.rows), generator=generator).tolist()
            self._pass = number
        return self.rows[self._permutation[place]]


def collator(pad: int) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """The function that stacks rows.

    Args:
        pad: token id put behind shorter rows.

    Returns:
        rows → {input_ids (B, T), labels (B, T) or (B,), attention_mask (B, T) when something is padded}. The first token
        of a row never counts as a target, so that methods which put vectors in front of the input (prompt, p-tuning) are
        measured on the same tokens as all others.
    """

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        missing = [longest - len(row["input_ids"]) for row in rows]
        ids = torch.tensor([row["input_ids"] + [pad] * m for row, m in zip(rows, missing, strict=True)])
        batch = {"input_ids": ids}
        if isinstance(rows[0]["labels"], int):
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        else:
            labels = torch.tensor([row["labels"] + [IGNORE] * m for row, m in zip(rows, missing, strict=True)])
            labels[:, 0] = IGNORE
            batch["labels"] = labels
        if any(missing):
            lengths = torch.tensor([longest - m for m in missing])
            batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return batch

    return collate


def spread(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` rows, evenly spread over all of them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[(2 * k + 1) * len(rows) // (2 * most)] for k in range(most)]
