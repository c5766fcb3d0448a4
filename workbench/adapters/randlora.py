"""RandLoRA: a full-rank update at LoRA's count, a sum of frozen random low-rank products with trained diagonals.

W (d_out, d_in); D its larger, d its smaller side; basis rank r; n = ⌈d / r⌉ products:

    ΔW = s · Σ_{j=1..n} B_j Λ_j A Γ_j     B_j (D, r), A (r, d) frozen random;  Λ_j = diag(λ_j), Γ_j = diag(γ_j) trained
    (transposed when d_in is the larger side); trained per layer n (r + d): a SMALLER r trains MORE numbers
    λ = 0, γ = 1/max(n, d) at the start; s = alpha / (r √n), alpha = 2r (scale="paper"), or alpha / r with alpha = 20r (="peft")

All entries of A and B have variance one. While the γ_j are equal, every product shares A and ΔW has rank r only; full
rank comes with training (`delta_ranks` measures it). A token costs D·d + d² multiplications: a second copy of the layer.

Source: Albert et al., ICLR 2025, arXiv 2502.00987, §3; scale, starts, bases: PaulAlbert31/RandLoRA.
peft has this method as `randlora`, from the authors' code. Ours (`wb_randlora`) is a class of its own because in peft
0.21: the number of products lives on the layer, so a second adapter of another rank breaks the first; the shared pair is
saved once per layer; bases are drawn in the machine's half precision, so a file without them does not load elsewhere;
mixed batches silently use one adapter; s is 10·√n times the paper's. Here everything is per adapter, bases come from a
counter-based stream (equal on every device) and are never saved; layers of equal smaller side share a pair.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.randlora.layer import UniqueBaseGrad
from peft.utils import PeftType
from torch import nn
from torch.nn import functional as F

from workbench.adapters._linear import DeltaLinear, DeltaTuner
from workbench.adapters._placement import Placement
from workbench.adapters._random import GENERATOR, derive, random_numbers
from workbench.adapters._register import add_peft_type
from workbench.errors import UserError, choose

METHOD = {
    "name": "wb_randlora", "prefix": "wb_randlora_", "config": "WbRandLoraConfig", "model": "WbRandLoraModel",
    "layer": "WbRandLoraLayer", "paper": "randlora", "family": "random-basis", "tiny": {"r": 4}, "converts": False,
    "help": "RandLoRA with the paper's scale and small files: frozen random factors, full rank. About 1.5 times LoRA's time.",
}  # fmt: skip
add_peft_type("WB_RANDLORA")
KINDS = ("uniform", "sparse", "very_sparse")


def products(d_in: int, d_out: int, r: int) -> int:
    """n = ⌈min(d_in, d_out) / r⌉."""
    return -(-min(d_in, d_out) // r)


def trained(d_in: int, d_out: int, r: int) -> int:
    """n (r + d), the trained numbers of one layer."""
    return products(d_in, d_out, r) * (r + min(d_in, d_out))


def rank_for(shapes: Iterable[tuple[int, int]], budget: int) -> int:
    """The basis rank whose count is nearest to a budget.

    Args:
        shapes: (d_in, d_out) of every adapted layer.
        budget: trained numbers wanted in all.

    Raises:
        UserError: when even the largest rank that keeps full rank trains more than 1.5 times the budget.
    """
    shapes = list(shapes)
    counts = {r: sum(trained(i, o, r) for i, o in shapes) for r in range(1, min(min(pair) for pair in shapes))}
    best = min(counts, key=lambda r: abs(counts[r] - budget))
    if counts[best] > 1.5 * budget:
        raise UserError(f"RandLoRA cannot train as few as {budget} numbers here; its least is {min(counts.values())}.")
    return best


def randlora_delta(b: torch.Tensor, lam: torch.Tensor, a: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Σ_j B_j Λ_j A Γ_j (D, d), for checks and pictures.

    Args:
        b: (n, D, r).
        lam: λ (n, r).
        a: (r, d).
        gamma: γ (n, d).
    """
    return torch.einsum("jor,jr,ri,ji->oi", b, lam, a, gamma)


@dataclass
class WbRandLoraConfig(Placement):
    """Settings of RandLoRA. Without `target_modules` it adapts what peft's LoRA would."""

    r: int = field(
        default=32, metadata={"help": "Rank of the random products. SMALLER trains MORE numbers: about d²/r a layer."}
    )
    scale: str = field(
        default="paper",
        metadata={"help": "paper: alpha/(r√n), alpha 2r. peft: alpha/r, alpha 20r (other learning rates)."},
    )
    alpha: float | None = field(default=None, metadata={"help": "Strength of the update; by default as `scale` says."})
    basis: str = field(
        default="uniform",
        metadata={"help": "uniform, sparse (−1, 0, 1 with 1/6, 2/3, 1/6) or very_sparse (1/√d each)."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random bases. Kept in the file instead of the bases."})
    bias: str = field(default="none", metadata={"help": "Biases trained as well: none, all or wb_randlora_only."})
    generator: str = field(
        default=GENERATOR, metadata={"help": "How the random numbers are made; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("WB_RANDLORA")
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise UserError(f"r={self.r!r} is not possible for RandLoRA; use a whole number of at least 1.")
        choose("scale", self.scale, ("paper", "peft"))
        choose("basis", self.basis, KINDS)
        choose("bias setting", self.bias, ("none", "all", "wb_randlora_only"))
        if self.alpha is not None and not self.alpha > 0:
            raise UserError(f"alpha={self.alpha!r} would switch the update off or turn it round; use a number above 0.")
        if self.generator != GENERATOR:
            raise UserError(
                f"This adapter's random bases were made by generator {self.generator!r}; this version only has "
                f"{GENERATOR!r}, and with other bases its diagonals mean nothing. Load it where it was saved."
            )

    def scaling(self, n: int) -> float:
        """s for a layer of n products."""
        if self.scale == "paper":
            return (2 * self.r if self.alpha is None else self.alpha) / (self.r * math.sqrt(n))
        return (20 * self.r if self.alpha is None else self.alpha) / self.r

    def trainable_per_module(self, d_in: int, d_out: int) -> int:
        """Trained numbers of one adapted layer: n (r + min(d_in, d_out))."""
        return trained(d_in, d_out, self.r)


_PAIRS: weakref.WeakValueDictionary[tuple, _Pair] = weakref.WeakValueDictionary()


class _Pair:
    """Frozen A (r, d) and B (D, n·r) of all layers with one smaller side, made once per device."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self.a, self.b = a, b


def _entries(seed: int, size: int, d: int, basis: str, device: torch.device) -> torch.Tensor:
    """`size` random numbers of mean 0 and variance 1."""
    if basis != "very_sparse":
        return random_numbers(seed, 0, size, basis, device=device) * math.sqrt(3)
    uniform, edge = random_numbers(seed, 0, size, device=device), 1 - 2 / math.sqrt(d)
    return ((uniform > edge).float() - (uniform < -edge).float()) * math.sqrt(math.sqrt(d) / 2)


def shared_pair(seed: int, basis: str, r: int, d: int, big: int, device: torch.device) -> _Pair:
    """The pair for layers (big, d); the same object for all of them, and the same rows for a larger one.

    Args:
        seed: the user's.
        basis: a name in KINDS.
        r: basis rank.
        d, big: smaller and larger side.
        device: where.
    """
    key = (seed, basis, r, d, big, str(device))
    pair = _PAIRS.get(key)
    if pair is None:
        n = -(-d // r)
        a = _entries(derive(seed, "A", r, d), r * d, d, basis, device).view(r, d)
        b = _entries(derive(seed, "B", r, d), big * n * r, d, basis, device).view(big, n * r)
        _PAIRS[key] = pair = _Pair(a, b)
    return pair


class WbRandLoraLayer(DeltaLinear):
    """A linear layer with RandLoRA adapters: λ (n, r) and γ (n, d) per adapter."""

    adapter_layer_names = ("wb_randlora_lambda", "wb_randlora_gamma")
    other_param_names = ("wb_randlora_plan", "wb_randlora_pair")

    def __init__(self, base_layer: nn.Module, adapter_name: str, **quantization: Any) -> None:
        super().__init__(base_layer, adapter_name, **quantization)
        self.wb_randlora_lambda = nn.ParameterDict()
        self.wb_randlora_gamma = nn.ParameterDict()
        self.wb_randlora_plan: dict[str, WbRandLoraConfig] = {}
        self.wb_randlora_pair: dict[str, _Pair] = {}

    def update_layer(self, adapter_name: str, config: WbRandLoraConfig, key: str, inference_mode: bool = False) -> None:
        """Add an adapter."""
        d, n = min(self.in_features, self.out_features), products(self.in_features, self.out_features, config.r)
        if n == 1:
            warnings.warn(
                f"r={config.r} is not below the smaller side of {key} ({self.out_features} × {self.in_features}): one product, "
                f"rank {min(config.r, d)}, which LoRA does with trained factors.",
                stacklevel=2,
            )
        self.wb_randlora_lambda[adapter_name] = nn.Parameter(torch.zeros(n, config.r))
        self.wb_randlora_gamma[adapter_name] = nn.Parameter(torch.full((n, d), 1 / max(n, d)))
        self.wb_randlora_plan[adapter_name] = config
        self.wb_randlora_pair.pop(adapter_name, None)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def pair(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, d) and B (D, n·r), float32, on the device of the diagonals."""
        device = self.wb_randlora_lambda[adapter_name].device
        held = self.wb_randlora_pair.get(adapter_name)
        if held is None or held.a.device != device:
            plan = self.wb_randlora_plan[adapter_name]
            sides = sorted((self.in_features, self.out_features))
            held = shared_pair(plan.seed, plan.basis, plan.r, *sides, device)
            self.wb_randlora_pair[adapter_name] = held
        return held.a, held.b

    def __deepcopy__(self, memo: dict) -> WbRandLoraLayer:
        # Frozen pairs stay shared between a model and its copy; everything else is copied as usual.
        for held in self.wb_randlora_pair.values():
            memo[id(held)] = held
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def _scaled(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Λ_j A Γ_j stacked (n·r, d), B (D, n·r), s."""
        a, b = self.pair(adapter_name)
        lam, gamma = (held[adapter_name].float() for held in (self.wb_randlora_lambda, self.wb_randlora_gamma))
        # peft's function keeps A, λ and γ for backward, not the product; it wants (r, n) and gives (r, n, d)
        stacked = UniqueBaseGrad.apply(a[:, None], lam.T, gamma).transpose(0, 1).flatten(0, 1)
        return stacked, b, self.wb_randlora_plan[adapter_name].scaling(len(lam))

    def branch(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """s · Σ_j B_j Λ_j A Γ_j x, or the transposed sum when d_in is the larger side."""
        stacked, b, scale = (part.to(x.dtype) if torch.is_tensor(part) else part for part in self._scaled(adapter_name))
        if self.out_features >= self.in_features:
            return F.linear(F.linear(x, stacked), b) * scale
        return (x @ b @ stacked) * scale

    def delta(self, adapter_name: str) -> torch.Tensor:
        """ΔW (d_out, d_in)."""
        with torch.no_grad():
            stacked, b, scale = self._scaled(adapter_name)
            full = b @ stacked * scale
            return full if self.out_features >= self.in_features else full.T

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """ΔW has full rank: LoRA could not carry it."""
        return False


def delta_ranks(
    model: nn.Module, adapter_name: str = "default", tolerance: float = 1e-5
) -> dict[str, tuple[int, float]]:
    """Rank and effective rank of every ΔW, measured.

    Args:
        model: with adapters of any kind that has a ΔW.
        adapter_name: which.
        tolerance: singular values below this share of the largest count as zero.

    Returns:
        layer name → (rank, exp of the entropy of the normalised singular values).
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, DeltaLinear) and module.has(adapter_name):
            values = torch.linalg.svdvals(module.delta(adapter_name).double())
            share = values / values.sum().clamp(min=1e-300)
            entropy = -(share * share.clamp(min=1e-300).log()).sum().item()
            found[name] = (int((values > tolerance * values[0]).sum()) if values[0] > 0 else 0, math.exp(entropy))
    return found


class WbRandLoraModel(DeltaTuner):
    """The tuner behind `get_peft_model(model, WbRandLoraConfig(...))`."""

    prefix = "wb_randlora_"
    tuner_layer_cls = WbRandLoraLayer
