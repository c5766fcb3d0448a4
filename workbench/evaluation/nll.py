"""Negative log-likelihood of chosen tokens without ever holding (batch, tokens, vocabulary) logits.

A 49 000-word vocabulary turns 1 024 tokens into 200 MB of float32 logits, of which one number per token is wanted. So the
body runs first with the head bypassed, h (B, T, d); then, for 512 wanted positions and 2 048 words at a time,

    nll_t = logsumexp(W h_t) − (W h_t)[next token]     nats; float32 or wider

Some models do more to the logits than W (soft caps, scales) — the first batch is therefore compared with the model's own
logits on a few positions; where they differ, the model's own logits are used throughout.

Works with anything that is called like a transformers causal model: adapters (virtual prompt tokens come first and are cut
off), quantized layers, tied or untied heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from workbench.errors import JobError, UserError

SLICE = 512  # positions whose logits exist at one time
CPU_WORDS = 2048  # … and words, on CPU: 4 MB stay in cache, measured 1.5 × faster than all 49 152 words at once


def name_of(model: nn.Module) -> str:
    """The model in the words of an error message: its path or hub id, else its class."""
    config = getattr(model, "config", None)
    return getattr(config, "name_or_path", "") or type(model).__name__


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer (packed models may have few parameters)."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off and no gradients inside; the mode of every module is restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _bypassed(head: nn.Module) -> Iterator[None]:
    own = head.__dict__.get("forward")
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


class Scorer:
    """Scores token batches of one model; keeps what was found out about its head.

    Args:
        model: a causal language model; adapters may be on it.
        name: how errors call it.
    """

    def __init__(self, model: nn.Module, name: str | None = None) -> None:
        self.model, self.name = model, name or name_of(model)
        self.device = device_of(model)
        get = getattr(model, "get_output_embeddings", None)
        self.head: nn.Module | None = get() if get else None
        self._checked = False

    def forward(self, ids: torch.Tensor, **more: Any) -> tuple[torch.Tensor, Any]:
        """Run the body.

        Args:
            ids: token ids (B, T).
            more: passed on to the model (cache, mask).

        Returns:
            Hidden states (B, T, d), or logits (B, T, V) when the head cannot be bypassed; and the model's output.
        """
        more.setdefault("use_cache", False)
        if self.head is not None and not self._checked:
            self._check(ids)
        if self.head is None:
            output = self.model(input_ids=ids, **more)
        else:
            with _bypassed(self.head):
                output = self.model(input_ids=ids, **more)
        return output.logits[:, -ids.shape[1] :], output

    def _check(self, ids: torch.Tensor) -> None:
        """Is head(hidden) what the model returns? Asked once, on the first tokens of one row."""
        self._checked = True
        row = ids[:1, :16]
        with _bypassed(self.head):
            hidden = self.model(input_ids=row, use_cache=False).logits
        own = self.model(input_ids=row, use_cache=False).logits
        ours = self.head(hidden)
        same = ours.shape == own.shape and (ours.float() - own.float()).abs().max() <= 1e-4 * own.float().abs().max()
        if not same:  # nan compares as different, and is reported by `nll`
            self.head = None

    def nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """nll (N,) in nats of `targets` (N,), each predicted from `hidden` (N, d), as `forward` gave it.

        Raises:
            JobError: the model answers with numbers that are not finite.
        """
        found = []
        for at in range(0, len(targets), SLICE):
            x, y = hidden[at : at + SLICE], targets[at : at + SLICE]
            sums, chosen = [], None
            for first, logits in self._logits(x):
                logits = logits if logits.dtype == torch.float64 else logits.float()
                sums.append(torch.logsumexp(logits, 1))
                here = (y >= first) & (y < first + logits.shape[1])
                chosen = logits.new_zeros(len(y)) if chosen is None else chosen
                chosen[here] = logits[here, y[here] - first]
            found.append(torch.logsumexp(torch.stack(sums), 0) - chosen)
        nll = torch.cat(found) if found else hidden.new_zeros(0)
        if not torch.isfinite(nll).all():
            raise JobError(
                f"The model {self.name} gives logits that are not finite (nan or infinity), so it cannot be scored; "
                "train it with a lower rate, compress it with more bits, or load it in float32."
            )
        return nll

    def _logits(self, x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(first word, logits (N, words)) for all words of the vocabulary; a plain head in pieces that stay in cache."""
        head = self.head
        if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
            yield 0, x if head is None else head(x)
            return
        piece = CPU_WORDS if x.device.type == "cpu" else head.out_features
        for first in range(0, head.out_features, piece):
            words = slice(first, first + piece)
            yield first, functional.linear(x, head.weight[words], None if head.bias is None else head.bias[words])

    def batch_nll(self, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """nll of each wanted token.

        Args:
            ids: token ids (B, T); rows may end in anything after their last wanted token, as attention is causal.
            wanted: bool (B, T), which tokens are scored; the first of a row cannot be.

        Returns:
            (B, T) nats, 0 where not wanted.
        """
        hidden, _ = self.forward(ids)
        pick = wanted[:, 1:]
        values = self.nll(hidden[:, :-1][pick], ids[:, 1:][pick])
        out = torch.zeros(ids.shape, dtype=values.dtype, device=ids.device)
        out[:, 1:][pick] = values
        return out


def check_ids(scorer: Scorer, largest: int, length: int) -> None:
    """Refuse token ids beyond the model's vocabulary and rows longer than its context.

    Raises:
        UserError: the tokenizer belongs to another model, or the window is too long.
    """
    embedding = getattr(scorer.model, "get_input_embeddings", lambda: None)()
    rows = getattr(embedding, "num_embeddings", None)
    if rows is not None and largest >= rows:
        raise UserError(
            f"Token id {largest} is beyond the {rows} tokens that {scorer.name} knows; use the model's own tokenizer."
        )
    most = getattr(getattr(scorer.model, "config", None), "max_position_embeddings", None)
    if most and length > most:
        raise UserError(
            f"{length} tokens at once are more than the {most} that {scorer.name} can read; use a shorter window."
        )
