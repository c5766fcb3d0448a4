"""A laboratory for schedules: tiny character-level decoders whose training can be forked at any step.

A `Run` is model, optimizer and scheduler over one fixed stream of text: step s always reads the same characters, whatever the
schedule, so two runs differ in nothing but their rates. `fork` copies weights, Adam's moments and the scheduler's count;
`decayed` branches a WSD plateau.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import LlamaForCausalLM

VOCABULARY, HEAD = 128, 8
KNOWS_NOTHING = math.log(VOCABULARY)  # nats per character of a uniform guess: the loss of a run that diverged

Make = Callable[[], "tuple[nn.Module, Optimizer]"]
Schedule = Callable[["Optimizer"], "LambdaLR"]


@dataclass(frozen=True)
class Batch:
    """One optimizer step's share of the text.

    Args:
        sequences: windows per step.
        window: characters per window.
    """

    sequences: int
    window: int

    @property
    def tokens(self) -> int:
        """Bytes per step."""
        return self.sequences * self.window


def decoder(width: int, layers: int, seed: int, initializer_range: float = 0.02) -> LlamaForCausalLM:
    """A fresh character-level Llama with heads of 8 and tied embeddings.

    Args:
        width: a multiple of 8.
        layers: decoder layers.
        seed: of the initial weights; the caller's random state is left alone.
        initializer_range: standard deviation of every matrix.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width, intermediate_size=width * 8 // 3 // 8 * 8, num_hidden_layers=layers, head_dim=HEAD,
                num_attention_heads=width // HEAD, num_key_value_heads=width // HEAD, vocab_size=VOCABULARY,
                max_position_embeddings=128, tie_word_embeddings=True, initializer_range=initializer_range, use_cache=False,
            )
        )  # fmt: skip


def parameters(width: int, layers: int) -> int:
    """Parameters without the embedding: attention 4w², MLP 3·w·i, two norms per layer, and the last norm."""
    inner = width * 8 // 3 // 8 * 8
    return layers * (4 * width * width + 3 * width * inner + 2 * width) + width


@functools.cache
def text(window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the bundled texts as int64: (count, window + 1) of the training part, (1024, window + 1) held-out ones.

    Windows of the training part do not overlap but for the character that is only predicted; the held-out ones are spread
    evenly over documents that are never trained on.
    """
    import numpy as np
    import torch

    from workbench.data import load, split

    parts = [split(load(name), seed=0) for name in ("sotu", "moby-dick", "kjv")]
    train, held = (
        torch.from_numpy(
            np.frombuffer(
                "\n".join(row["text"] for part in parts for row in part[which].rows).encode("ascii", "replace"),
                np.uint8,
            ).astype(np.int64)
        )
        for which in ("train", "test")
    )
    starts = np.linspace(0, len(held) - window - 1, 1024).astype(int)
    return train.unfold(0, window + 1, window), torch.stack([held[start : start + window + 1] for start in starts])


@functools.cache
def order(window: int, seed: int) -> torch.Tensor:
    """The order in which a seed reads the training windows."""
    import torch

    return torch.randperm(len(text(window)[0]), generator=torch.Generator().manual_seed(seed))


def held_out(window: int, windows: int) -> torch.Tensor:
    """(windows, window + 1) characters of documents that are never trained on, evenly spread."""
    held = text(window)[1]
    return held[:: max(1, len(held) // windows)][:windows]


class Run:
    """One training run that can be continued, forked and branched.

    Args:
        make: builds a fresh model and its optimizer.
        schedule: builds the scheduler of an optimizer.
        batch: size of a step.
        seed: order of the documents.
        windows: held-out windows that measure the loss.
    """

    def __init__(self, make: Make, schedule: Schedule, batch: Batch, seed: int, windows: int = 128) -> None:
        self.make, self.schedule, self.batch, self.seed, self.windows = make, schedule, batch, seed, windows
        self.model, self.optimizer = make()
        self.scheduler = schedule(self.optimizer)
        self.step = 0

    def train(self, until: int) -> Run:
        """Train up to step `until`.

        Raises:
            UserError: the text is over (it is never repeated).
        """
        from torch.nn.functional import cross_entropy
        from torch.nn.utils import clip_grad_norm_

        windows, rows = text(self.batch.window)[0], self.batch.sequences
        own = order(self.batch.window, self.seed)
        if until * rows > len(windows):
            raise UserError(
                f"{until} steps of {rows} windows are more than the {len(windows)} there are; train shorter."
            )
        self.model.train()
        while self.step < until:
            batch = windows[own[self.step * rows : (self.step + 1) * rows]]
            logits = self.model(input_ids=batch[:, :-1]).logits
            cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.step += 1
        return self

    def loss(self) -> float:
        """Mean loss on held-out text, in nats per character; that of a uniform guess for a run that diverged."""
        import torch
        from torch.nn.functional import cross_entropy

        held = held_out(self.batch.window, self.windows)
        self.model.eval()
        with torch.no_grad():
            value = cross_entropy(self.model(input_ids=held[:, :-1]).logits.flatten(0, 1), held[:, 1:].flatten()).item()
        return min(value, KNOWS_NOTHING) if math.isfinite(value) else KNOWS_NOTHING

    def fork(self) -> Run:
        """A run in the same state that goes its own way: weights, moments, rates and count are copied."""
        from workbench.training.schedules import checkpoint

        other = Run(self.make, self.schedule, self.batch, self.seed, self.windows)
        kept = checkpoint(self.model, self.optimizer)
        other.model.load_state_dict(kept["model"])
        other.optimizer.load_state_dict(kept["optimizer"])
        other.scheduler.load_state_dict(self.scheduler.state_dict())
        other.step = self.step
        return other

    def decayed(self, steps: int, **shape: object) -> Run:
        """Branch a WSD plateau and decay over `steps`; keyword arguments as in `branch_decay`."""
        from workbench.training.schedules import branch_decay, checkpoint

        other = Run(self.make, self.schedule, self.batch, self.seed, self.windows)
        other.scheduler = branch_decay(
            checkpoint(self.model, self.optimizer), other.model, other.optimizer, decay_steps=steps, **shape
        )
        other.step = self.step
        return other.train(self.step + steps)
