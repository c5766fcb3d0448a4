"""The guard: an export is done when a second reader opens it and gives the same logits on real text.

Two differences, of two causes, are kept apart. With y the model as it was, ŷ the weights that the file is meant to hold and
f what the second reader makes of the file:

    layout    rms(f − ŷ) / rms(ŷ)    names, order, packing, configuration: must vanish, above 10⁻³ the export is refused
    rounding  rms(ŷ − y) / rms(y)    what the format cannot hold: reported, with the loss before and after; refused
                                     when the loss rises by more than `max_loss_change` nats a token

Both on the same windows of text, in float32. A forgotten reordering of q_proj's rows moves logits by about their own size, a
wrong rotary base by a few per cent, rounding of sums in another order by 10⁻⁶.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.errors import JobError

LAYOUT_BOUND = 1e-3
LOSS_BOUND = 0.5  # nats a token
MERGE_BOUND = 1e-3


@dataclass(frozen=True)
class Check:
    """What the second reader found.

    Attributes:
        reader: who read the file.
        tokens: predicted tokens of the text.
        layout: relative logit difference between file and intended weights.
        largest: the largest single logit difference between them.
        rounding: relative logit difference between intended weights and the model as it was.
        loss_before, loss_after: nats a token, of the model as it was and of the file.
        agreement: share of tokens where both put the same token first.
        tokenizer: None, or whether the file's own tokenizer gave the same ids (formats that store it their own way).
    """

    reader: str
    tokens: int
    layout: float
    largest: float
    rounding: float
    loss_before: float
    loss_after: float
    agreement: float
    tokenizer: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@torch.no_grad()
def logits(model: Any, windows: list[Tensor]) -> Tensor:
    """float32 [tokens, vocabulary] on all windows, each (1, T), one after the other."""
    rows = [model(window.to(model.device)).logits[0].float().cpu() for window in windows]
    return torch.cat(rows)


def relative(found: Tensor, wanted: Tensor) -> float:
    """rms(found − wanted) / rms(wanted)."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def loss(found: Tensor, windows: list[Tensor]) -> float:
    """Mean nats a predicted token."""
    parts = torch.split(found, [window.shape[1] for window in windows])
    rows = torch.cat([part[:-1] for part in parts])
    targets = torch.cat([window[0, 1:] for window in windows])
    return float(torch.nn.functional.cross_entropy(rows, targets))


def compare(
    reader: str, file: Tensor, intended: Tensor, before: Tensor, windows: list[Tensor], tokenizer: bool | None = None
) -> Check:
    """Put the three sets of logits side by side."""
    return Check(
        reader=reader,
        tokens=sum(window.shape[1] - 1 for window in windows),
        layout=relative(file, intended),
        largest=float((file - intended).abs().max()),
        rounding=relative(intended, before),
        loss_before=loss(before, windows),
        loss_after=loss(file, windows),
        agreement=float((file.argmax(1) == before.argmax(1)).float().mean()),
        tokenizer=tokenizer,
    )


def demand(check: Check, to: str, max_loss_change: float = LOSS_BOUND) -> None:
    """Refuse an export that its second reader does not confirm.

    Raises:
        JobError: with what differs; nothing is left under the final name.
    """
    if not check.layout <= LAYOUT_BOUND:
        raise JobError(
            f"The {to} file was read back by {check.reader} and gives other logits than the model (relative difference "
            f"{check.layout:.2g}, at most {LAYOUT_BOUND:g} is allowed), so it was not kept; export to safetensors instead."
        )
    if check.tokenizer is False:
        raise JobError(
            f"The tokenizer inside the {to} file cuts the text into other tokens than the model's own, so it was not kept; "
            "export to safetensors or compressed-tensors, which carry the tokenizer as it is."
        )
    change = check.loss_after - check.loss_before
    if not change <= max_loss_change:
        raise JobError(
            f"Stored as {to} the model loses {change:.2f} nats a token ({check.loss_before:.2f} → {check.loss_after:.2f}; at "
            f"most {max_loss_change:g} is allowed), so the file was not kept; take a finer format (gguf-q8_0, gguf-f16), "
            "quantize with gptq first, or raise --max-loss-change."
        )
