"""NOLA: each LoRA factor is a weighted sum of k frozen random matrices; only the 2k weights are trained.

LoRA cannot go below rank one: d_in + d_out numbers per matrix. With W (d_out, d_in), rank r, matrices from a seed:

    A = A0 + (1/√k) Σ_j α_j A_j    A_j (r, d_in),  entries U(−1, 1);  A0 ~ U(−1, 1)/√d_in, re-derived, never stored
    B =      (1/√k) Σ_j β_j B_j    B_j (d_out, r), entries U(−1, 1)
    h = W x + (alpha/r) · B (A x)                                     α = β = 0 at the start, so ΔW = 0

The count no longer depends on the layer's shape or rank. Forward makes the random matrices, contracts and drops them;
backward makes them again: memory chunk·r·d instead of k·r·d numbers, and 2·k·r·(d_in + d_out) numbers a step to make.

Source: Koohpayegani et al., ICLR 2024, arXiv 2310.02556, §3; 1/√k, A0, defaults: GPT-2 code of UCDvision/NOLA.
Departures: a counter-based stream instead of reseeding torch's global generator (equal on every device, the caller's
random state untouched; the reference re-seeds it from a fresh number, and its chunked function does not run);
coefficients stay float32. `init="mean"` is the reference's vision branch: kaiming-uniform bases, no A0 and no 1/√k,
α = β = 1/k, which does NOT start at ΔW = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.utils import PeftType
from torch import nn
from torch.nn import functional as F

from workbench.adapters._linear import DeltaLinear, DeltaTuner
from workbench.adapters._placement import Placement
from workbench.adapters._random import GENERATOR, KINDS, derive, piece_length, random_numbers
from workbench.adapters._register import add_peft_type
from workbench.errors import UserError, choose

METHOD = {
    "name": "nola", "prefix": "nola_", "config": "NolaConfig", "model": "NolaModel", "layer": "NolaLayer",
    "paper": "nola", "family": "random-basis", "tiny": {"r": 4, "num_basis": 16},
    "help": "Trains weights of frozen random low-rank matrices: fewer numbers than LoRA at rank one.",
}  # fmt: skip
add_peft_type("NOLA")


class _RandomCombination(torch.autograd.Function):
    """out = Σ_j c_j M_j (n,), ∂L/∂c_j = ⟨∂L/∂out, M_j⟩; M (k, n) exists a few rows at a time, in both directions."""

    @staticmethod
    def forward(ctx: Any, coeffs: torch.Tensor, size: int, seed: int, chunk: int, basis: str) -> torch.Tensor:
        ctx.save_for_backward(coeffs)
        ctx.plan = (size, seed, chunk, basis)
        out = coeffs.new_zeros(size)
        with torch.autocast(coeffs.device.type, enabled=False):
            for first, rows in _rows(coeffs, *ctx.plan):
                out.addmv_(rows.T, coeffs[first : first + len(rows)])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (coeffs,) = ctx.saved_tensors
        out = torch.empty_like(coeffs)
        with torch.autocast(coeffs.device.type, enabled=False):
            for first, rows in _rows(coeffs, *ctx.plan):
                out[first : first + len(rows)] = rows @ grad
        return out, None, None, None, None


def _rows(coeffs: torch.Tensor, size: int, seed: int, chunk: int, basis: str) -> Iterator:
    for first in range(0, len(coeffs), chunk):
        count = min(chunk, len(coeffs) - first)
        numbers = random_numbers(seed, first * size, count * size, basis, device=coeffs.device, dtype=coeffs.dtype)
        yield first, numbers.view(count, size)


def random_combination(
    coeffs: torch.Tensor, shape: tuple[int, ...], seed: int, chunk: int | None = None, basis: str = "uniform"
) -> torch.Tensor:
    """Σ_j coeffs[j] · M_j with M_j frozen random tensors of `shape` that are made on the fly and never kept.

    Args:
        coeffs: (k,) float32 or float64, trained.
        shape: shape of the result and of every M_j.
        seed: 64-bit seed of the stream.
        chunk: how many M_j exist at once; extra memory is chunk · prod(shape) numbers. Default: what fits a processor's cache.
        basis: `uniform`, `normal` or `sparse` (mean 0, variance 1/3 each).

    Returns:
        Tensor of `shape`, differentiable once with respect to `coeffs`.

    Raises:
        UserError: coefficients that are not a float32 or float64 vector, or a chunk below 1.
    """
    if coeffs.dim() != 1 or coeffs.dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"Coefficients must be a float32 or float64 vector, got {tuple(coeffs.shape)} {coeffs.dtype}; convert them."
        )
    if chunk is not None and chunk < 1:
        raise UserError(f"chunk={chunk} holds no matrix; use 1 or more.")
    size = torch.Size(shape).numel()
    chunk = min(len(coeffs), chunk or max(1, piece_length(coeffs.device) // max(size, 1)))
    return _RandomCombination.apply(coeffs, size, seed, chunk, basis).view(shape)


@dataclass
class NolaConfig(Placement):
    """Settings of NOLA. `get_peft_model(model, NolaConfig())` adapts the attention layers peft's LoRA would."""

    r: int = field(
        default=8, metadata={"help": "Rank of the update. Costs time, not trainable parameters. 1–16 for most tasks."}
    )
    num_basis: int = field(
        default=512,
        metadata={"help": "Random matrices per factor, k. Trains 2k numbers per layer. 64–1024 for most tasks."},
    )
    alpha: float = field(default=8.0, metadata={"help": "The update is scaled by alpha / r. Usually equal to r."})
    basis: str = field(
        default="uniform", metadata={"help": "Entries of the random matrices: uniform, normal or sparse."}
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the random matrices. Kept in the file instead of the matrices."}
    )
    materialize: str = field(
        default="inference",
        metadata={
            "help": "never: make the matrices in every pass. inference: keep the two small factors when no gradient is "
            "needed. always: hold all matrices in memory, faster training at k·r·(d_in + d_out) numbers a layer."
        },
    )
    init: str = field(
        default="zero",
        metadata={"help": "zero: starts as the base model. mean: the reference's vision variant, starts beside it."},
    )
    bias: str = field(default="none", metadata={"help": "Biases trained as well: none, all or nola_only."})
    generator: str = field(
        default=GENERATOR, metadata={"help": "How the random numbers are made; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("NOLA")
        for name in ("r", "num_basis"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} is not possible for NOLA; use a whole number of at least 1.")
        if not self.alpha > 0:
            raise UserError(f"alpha={self.alpha!r} would switch the update off or turn it round; use a number above 0.")
        choose("basis", self.basis, KINDS)
        choose("materialize setting", self.materialize, ("never", "inference", "always"))
        choose("init", self.init, ("zero", "mean"))
        choose("bias setting", self.bias, ("none", "all", "nola_only"))
        if self.generator != GENERATOR:
            raise UserError(
                f"This adapter's random matrices were made by generator {self.generator!r}; this version only has "
                f"{GENERATOR!r}, and with other matrices its coefficients mean nothing. Load it where it was saved."
            )

    def trainable_per_module(self, d_in: int, d_out: int) -> int:
        """Trained numbers of one adapted layer (d_out, d_in): 2k, whatever its shape."""
        return 2 * self.num_basis


@dataclass(frozen=True)
class _Plan:
    """Everything that fixes the frozen part of one adapter in one layer."""

    r: int
    scaling: float
    basis: str
    materialize: str
    zero_start: bool
    streams: tuple[int, int, int]  # A0, A, B


class NolaLayer(DeltaLinear):
    """A linear layer with NOLA adapters: `nola_alpha` (k,) and `nola_beta` (k,) per adapter."""

    adapter_layer_names = ("nola_alpha", "nola_beta")
    other_param_names = ("nola_plan", "nola_kept")

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        super().__init__(base_layer, adapter_name, **quantization)
        self.nola_alpha = nn.ParameterDict()
        self.nola_beta = nn.ParameterDict()
        self.nola_plan: dict[str, _Plan] = {}
        self.nola_kept: dict[str, tuple[Any, tuple[torch.Tensor, torch.Tensor]]] = {}

    def update_layer(self, adapter_name: str, config: NolaConfig, key: str, inference_mode: bool = False) -> None:
        """Add an adapter; `key`, the layer's name in the model, makes its random streams its own."""
        k, entries = config.num_basis, config.r * min(self.in_features, self.out_features)
        if k >= entries:
            raise UserError(
                f"num_basis={k} is not below the {entries} entries of a rank-{config.r} factor of {key} "
                f"({self.out_features} × {self.in_features}): LoRA needs no more. Lower num_basis, raise r, or use LoRA."
            )
        start = 0.0 if config.init == "zero" else 1 / k
        self.nola_alpha[adapter_name] = nn.Parameter(torch.full((k,), start, dtype=torch.float32))
        self.nola_beta[adapter_name] = nn.Parameter(torch.full((k,), start, dtype=torch.float32))
        streams = tuple(derive(config.seed, key, factor) for factor in ("A0", "A", "B"))
        self.nola_plan[adapter_name] = _Plan(
            config.r, config.alpha / config.r, config.basis, config.materialize, config.init == "zero", streams
        )
        self.nola_kept.pop(adapter_name, None)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _sizes(self, plan: _Plan) -> tuple[tuple[tuple[int, int], float], tuple[tuple[int, int], float]]:
        """Shape and scale of the A and the B combination."""
        shapes = (plan.r, self.in_features), (self.out_features, plan.r)
        return tuple((shape, 1.0 if plan.zero_start else (shape[0] * shape[1]) ** -0.5) for shape in shapes)

    def factors(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, d_in) and B (d_out, r) in float32, made from the seed and the coefficients."""
        plan = self.nola_plan[adapter_name]
        coeffs = [held[adapter_name].float() for held in (self.nola_alpha, self.nola_beta)]
        if plan.materialize == "always":
            bases = self._held_bases(adapter_name, coeffs[0].device)
            sums = [torch.mv(basis.T, c) for basis, c in zip(bases, coeffs, strict=True)]
        else:
            sums = [
                random_combination(c, shape, stream, basis=plan.basis)
                for c, (shape, _), stream in zip(coeffs, self._sizes(plan), plan.streams[1:], strict=True)
            ]
        a, b = (
            total.view(shape) * (scale / len(c) ** 0.5 if plan.zero_start else scale)
            for total, (shape, scale), c in zip(sums, self._sizes(plan), coeffs, strict=True)
        )
        if plan.zero_start:
            a = a + random_numbers(plan.streams[0], 0, a.numel(), device=a.device).view_as(a) * self.in_features**-0.5
        return a, b

    def _held_bases(self, adapter_name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        tag, held = self.nola_kept.get(adapter_name, (None, ()))
        if tag != device:
            plan, k = self.nola_plan[adapter_name], len(self.nola_alpha[adapter_name])
            held = tuple(
                random_numbers(stream, 0, k * shape[0] * shape[1], plan.basis, device=device).view(k, -1)
                for stream, (shape, _) in zip(plan.streams[1:], self._sizes(plan), strict=True)
            )
            self.nola_kept[adapter_name] = (device, held)
        return held

    def _factors_for_forward(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        coeffs = self.nola_alpha[adapter_name], self.nola_beta[adapter_name]
        needs_grad = torch.is_grad_enabled() and any(c.requires_grad for c in coeffs)
        if self.nola_plan[adapter_name].materialize != "inference" or needs_grad or coeffs[0].is_inference():
            return self.factors(adapter_name)
        tag = (torch.is_inference_mode_enabled(), *((c._version, c.data_ptr(), c.device) for c in coeffs))
        if self.nola_kept.get(adapter_name, (None,))[0] != tag:
            self.nola_kept[adapter_name] = (tag, self.factors(adapter_name))
        return self.nola_kept[adapter_name][1]

    def branch(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """(alpha/r) · B (A x)."""
        a, b = self._factors_for_forward(adapter_name)
        return F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype)) * self.nola_plan[adapter_name].scaling

    def delta(self, adapter_name: str) -> torch.Tensor:
        """ΔW = (alpha/r) B A (d_out, d_in)."""
        with torch.no_grad():
            a, b = self.factors(adapter_name)
            return b @ a * self.nola_plan[adapter_name].scaling


class NolaModel(DeltaTuner):
    """The tuner behind `get_peft_model(model, NolaConfig(...))`."""

    prefix = "nola_"
    tuner_layer_cls = NolaLayer
