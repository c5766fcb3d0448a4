"""Many small decoders of one shape trained side by side, each at its own learning rate: one sweep over rates in one run.

A decoder of 24 thousand parameters spends most of a step on starting operations. K of them are therefore stacked: their
weights are the rows of one tensor (K, P), every product is one batched product over K, and all read the same batch.

Decoder: Llama's (RMS norm before each block, rotary positions, causal attention with heads of 16, SwiGLU), the embedding
tied to the readout; `tests/scaling/test_fleet.py` compares it with the one in transformers. AdamW (0.9, 0.95, 1e-8) with
decay 0.1 on matrices, gradient norm at most 1 per decoder, 5 % linear warm-up, cosine to a *fixed* final rate 1e-5.

Source: Li et al. 2025, arXiv 2503.04715, §3 (training recipe; a final rate tied to the peak moves the optimum).
Departures: every matrix starts at N(0, 1/d_in), residual outputs divided by √(2·layers); warm-up is a share, not 2000
steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm, scaled_dot_product_attention, silu

HEAD = 16
FINAL_RATE = 1e-5
BETAS, EPS, DECAY, CLIP, WARM = (0.9, 0.95), 1e-8, 0.1, 1.0, 0.05


def shapes(width: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of one decoder: embedding (vocabulary, width), matrices (d_in, d_out), then gains."""
    hidden = width * 8 // 3 // 8 * 8
    found: dict[str, tuple[int, ...]] = {"embedding": (vocabulary, width)}
    for i in range(layers):
        found |= {f"{i}.qkv": (width, 3 * width), f"{i}.out": (width, width), f"{i}.gate_up": (width, 2 * hidden),
                  f"{i}.down": (hidden, width)}  # fmt: skip
    gains = [f"{i}.norm{j}" for i in range(layers) for j in (1, 2)]
    return found | dict.fromkeys([*gains, "norm"], (width,))


def non_embedding(width: int, layers: int) -> int:
    """N: parameters of one decoder without its (tied) embedding."""
    return sum(math.prod(shape) for name, shape in shapes(width, layers, 1).items() if name != "embedding")


def schedule(step: int, steps: int, lr: Tensor) -> Tensor:
    """Rate at `step` (0-based) of every decoder: linear warm-up to its peak `lr`, then half a cosine to FINAL_RATE."""
    warm = max(1, round(WARM * steps))
    if step < warm:
        return lr * ((step + 1) / warm)
    share = (step - warm) / max(1, steps - warm)
    return FINAL_RATE + (lr - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2


class Fleet:
    """K decoders with the same starting weights.

    Args:
        copies: K.
        width: model width, a multiple of 16.
        layers: blocks.
        vocabulary: tokens.
        seed: of the starting weights.
        dtype: float32, or float64 for tests.
    """

    def __init__(
        self, copies: int, width: int, layers: int, vocabulary: int, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        self.copies, self.width, self.layers = copies, width, layers
        self.shapes = shapes(width, layers, vocabulary)
        generator = torch.Generator().manual_seed(seed)
        one = [_start(name, shape, layers, generator).flatten() for name, shape in self.shapes.items()]
        self.flat = torch.cat(one).to(dtype).repeat(copies, 1).requires_grad_()  # (K, P)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.matrices = sum(
            size for size, shape in zip(self.sizes, self.shapes.values(), strict=True) if len(shape) > 1
        )
        # The optimizer steps on views of the rows: one fused kernel for each copy and kind.
        self.rows = [part for row in self.flat.detach() for part in self.halves(row)]
        groups = [{"params": [part], "weight_decay": DECAY * (i % 2 == 0)} for i, part in enumerate(self.rows)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPS, fused=True)

    def halves(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """(matrices, gains) of one copy's row (P,)."""
        return row[: self.matrices], row[self.matrices :]

    def weights(self) -> dict[str, Tensor]:
        """Name → (K, *shape), views of the flat tensor."""
        parts = self.flat.split(self.sizes, dim=1)
        named = zip(parts, self.shapes.items(), strict=True)
        return {name: part.view(self.copies, *shape) for part, (name, shape) in named}

    def logits(self, ids: Tensor) -> Tensor:
        """Next-token logits (K, S, T, vocabulary) for `ids` (S, T), the same for every decoder."""
        w, (rows, length) = self.weights(), ids.shape
        heads, k = self.width // HEAD, self.copies
        cos, sin = _rotary(length, self.flat.dtype)
        x = w["embedding"].index_select(1, ids.flatten())  # (K, S·T, width)
        for i in range(self.layers):
            h = _norm(x, w[f"{i}.norm1"])
            qkv = torch.bmm(h, w[f"{i}.qkv"]).view(k * rows, length, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
            q, key = (qkv[j] * cos + _turned(qkv[j]) * sin for j in (0, 1))  # (K·S, heads, T, 16)
            mixed = scaled_dot_product_attention(q, key, qkv[2], is_causal=True)
            x = torch.baddbmm(x, mixed.transpose(1, 2).reshape(x.shape), w[f"{i}.out"])
            gate, up = torch.bmm(_norm(x, w[f"{i}.norm2"]), w[f"{i}.gate_up"]).chunk(2, dim=-1)
            x = torch.baddbmm(x, silu(gate) * up, w[f"{i}.down"])
        out = torch.bmm(_norm(x, w["norm"]), w["embedding"].transpose(1, 2))
        return out.view(k, rows, length, -1)

    def losses(self, windows: Tensor) -> Tensor:
        """(K,) mean nats per token on `windows` (S, T + 1)."""
        logits = self.logits(windows[:, :-1])
        targets = windows[:, 1:].flatten().repeat(self.copies)
        each = cross_entropy(logits.flatten(0, 2), targets, reduction="none")
        return each.view(self.copies, -1).mean(dim=1)

    def step(self, windows: Tensor, lr: Tensor) -> None:
        """One AdamW step on one batch.

        Args:
            windows: (S, T + 1) token ids.
            lr: (K, 1), the rate of each decoder now.
        """
        (gradient,) = torch.autograd.grad(self.losses(windows).sum(), self.flat)
        gradient *= (CLIP / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        parts = [part for row in gradient for part in self.halves(row)]
        for i, (own, part) in enumerate(zip(self.rows, parts, strict=True)):
            own.grad = part
            self.optimizer.param_groups[i]["lr"] = float(lr[i // 2, 0])
        self.optimizer.step()


def _start(name: str, shape: tuple[int, ...], layers: int, generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    spread = shape[-1 if name == "embedding" else 0] ** -0.5
    if name.endswith(("out", "down")):
        spread /= (2 * layers) ** 0.5
    return torch.randn(shape, generator=generator) * spread


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return rms_norm(x, (x.shape[-1],), eps=1e-6) * gain[:, None]


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _rotary(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (T, 16) of the angles t·10000^(−2i/16), each half repeated."""
    speed = 10000.0 ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), speed).repeat(1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)
