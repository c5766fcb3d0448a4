"""Published rules for learning rate and batch size, each with what it was measured on.

    step law   lr = 1.79 · N^(−0.713) · D^0.307          B = 0.58 · D^0.571
    DeepSeek   lr = 0.3118 · C^(−0.125)                  B = 0.2920 · C^0.3271          C = 6·N·D

N: parameters without embeddings; D: training tokens; B: tokens per optimizer step; C: training FLOP without embeddings.

Source: table 1 of Li et al. 2025 (step law), arXiv 2503.04715, which quotes the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from workbench.errors import UserError


@dataclasses.dataclass(frozen=True)
class HyperParams:
    """A setting.

    Args:
        lr: peak learning rate (AdamW); None where a rule says nothing about it.
        batch_tokens: tokens per optimizer step; None where a rule says nothing about it.
        batch_sequences: the same in sequences, when the length was given.
    """

    lr: float | None
    batch_tokens: float | None
    batch_sequences: float | None = None


@dataclasses.dataclass(frozen=True)
class Rule:
    """A published rule for learning rate and batch.

    Args:
        lr: (N, D, loss) → learning rate, or None.
        batch: (N, D, loss) → tokens per step, or None. Only MiniCPM's needs the loss.
        valid: what it was measured on; outside it is a guess.
        own_units: True when N and D are not in parameters and tokens, so that it cannot stand beside the others.
    """

    lr: Callable[[float, float, float | None], float] | None
    batch: Callable[[float, float, float | None], float | None] | None
    valid: str
    own_units: bool = False

    def __call__(
        self, params: float, tokens: float, seq_len: int | None = None, loss: float | None = None
    ) -> HyperParams:
        """The rule's setting.

        Args:
            params: parameters without embeddings.
            tokens: training tokens.
            seq_len: tokens per sequence, to get the batch in sequences.
            loss: final loss in nats per token, for rules that ask for it; without it their batch is None.

        Raises:
            UserError: a size that is not positive.
        """
        if not (params > 0 and tokens > 0):
            raise UserError(f"A rule needs positive sizes; got {params:g} parameters and {tokens:g} tokens.")
        n, d = float(params), float(tokens)  # 6·N·D overflows 64-bit integers
        lr = None if self.lr is None else float(self.lr(n, d, loss))
        batch = None if self.batch is None else self.batch(n, d, loss)
        return HyperParams(lr, batch, None if seq_len is None or batch is None else batch / seq_len)


# Constants as the step-law paper (table 1) quotes them. C = 6·N·D: training FLOP without embeddings.
RULES: dict[str, Rule] = {
    "step law": Rule(
        lambda n, d, _: 1.79 * n**-0.713 * d**0.307, lambda n, d, _: 0.58 * d**0.571,
        "0.2–1 B parameters, 4–100 B tokens, AdamW, cosine to a fixed 1e-5",
    ),
    "OpenAI 2020": Rule(lambda n, d, _: 3.239e-3 - 1.395e-4 * np.log(n), None, "decoders up to 1.5 B parameters; knows no D"),
    "DeepSeek": Rule(
        lambda n, d, _: 0.3118 * (6 * n * d) ** -0.125, lambda n, d, _: 0.2920 * (6 * n * d) ** 0.3271,
        "near compute-optimal D, multi-step schedule; C without embeddings",
    ),
    "MiniCPM": Rule(
        lambda n, d, _: 0.01, lambda n, d, loss: None if loss is None else 1.21e9 * loss**-6.24,
        "rate under its own width rule, WSD schedule; loss of C4 in nats per BPE token",
    ),
    "Porian": Rule(
        lambda n, d, _: 3.7 * n**-0.36, lambda n, d, _: 0.7576 * n**0.703, "compute-optimal D only",
    ),
    "Microsoft": Rule(
        lambda n, d, _: 1.3192e-5 * n**-0.23 * d**-0.32, None, "N and D in its own units, so not drawn beside the others",
        own_units=True,
    ),
}  # fmt: skip


def step_law(params: float, tokens: float, seq_len: int | None = None) -> HyperParams:
    """Published step law.

    Args:
        params: parameters without embeddings.
        tokens: training tokens.
        seq_len: tokens per sequence, to get the batch in sequences.

    Raises:
        UserError: a size that is not positive.
    """
    return RULES["step law"](params, tokens, seq_len)
