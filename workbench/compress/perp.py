"""PERP: give a pruned model its quality back by training very few numbers, without touching the zeros.

What can be trained, everything else frozen:

    biases, norms     the vectors a model has anyway
    MaskLoRA          W' = M ⊙ (W + s · B A)      M the mask; training sees exactly what is merged
    ScaleLoRA         W' = M ⊙ W ⊙ (B A)          B A = 1 at the start; a weight that is 0 stays 0
    LoRA-prune        W' = W + s · B A             dense while training; the mask falls on it only at the merge
    head              W' = W + s · B A             the output layer is not pruned, so plain LoRA merges

    W, M [out, in] · B [out, r] · A [r, in] · s = α / r

Each is a parametrization of the weight (`torch.nn.utils.parametrize`), so any model works, and merging is removing it.
Zeros are written by selection, not by multiplication: a pruned weight is +0.0 bit for bit, also next to an infinity.

Source: Zimmer, Andoni, Spiegel & Pokutta 2023, arXiv 2312.15230, §3; r = 16, α = 32 as in their code. Departures: the
mask is kept as booleans (they test W ≠ 0, which breaks when a survivor is zero); ScaleLoRA starts from a first rank of
ones and other ranks with B = 0 and A random (their all-ones start is symmetric in the ranks, so B A would stay of rank
one, and the published class calls a dropout that it does not define); α is not used by ScaleLoRA.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.compress.targets import check_dense, find_targets
from workbench.errors import UserError, choose

KINDS = ("mask", "scale", "prune")
RANK, ALPHA = 16, 32


class LowRank(nn.Module):
    """The change of one weight; shapes as the layer stores it (rows, columns).

    Args:
        weight: the layer's weight (rows, columns).
        keep: bool (rows, columns), True where a weight may live; None: everywhere.
        kind: mask, scale or prune.
        rank: r.
        alpha: α.
        generator: of the random factor.
    """

    def __init__(
        self, weight: Tensor, keep: Tensor | None, kind: str = "mask", rank: int = RANK, alpha: float = ALPHA,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        rows, columns = weight.shape
        self.kind, self.scale = choose("kind of low-rank change", kind, KINDS), alpha / rank
        self.register_buffer("keep", keep, persistent=False)
        bound = 1 / math.sqrt(columns)  # LoRA's start for A: kaiming uniform with a = √5
        down = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator).to(weight)
        up = torch.zeros_like(weight[:, :1]).repeat(1, rank)
        if kind == "scale":
            down[0], up[:, 0] = 1, 1
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight the layer multiplies with (rows, columns)."""
        change = self.up @ self.down
        new = weight * change if self.kind == "scale" else weight + self.scale * change
        if self.keep is None or self.kind == "prune":
            return new
        return torch.where(self.keep, new, 0.0)


def stored(module: nn.Module, mask: Tensor) -> Tensor:
    """A mask [out, in] turned the way the layer stores its weight (GPT-2's Conv1D holds [in, out])."""
    return mask if isinstance(module, nn.Linear) else mask.t()


def attach_lora(
    model: nn.Module,
    masks: dict[str, Tensor | None],
    kind: str = "mask",
    *,
    rank: int = RANK,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Put a low-rank change on every named layer; the layers' own weights are frozen.

    Args:
        model: a dense model; its weights are already pruned.
        masks: name → bool [out, in] (`PruneReport.masks`); None for a layer that is not pruned.
        kind: "mask", "scale" or "prune".
        rank, alpha: r and α.
        seed: of the random factors.

    Returns:
        The new parameters.

    Raises:
        UserError: for packed layers, a change that is attached already, or a mask of another shape.
    """
    choose("kind of low-rank change", kind, KINDS)
    if rank < 1:
        raise UserError(f"rank is {rank}; give 1 or more.")
    check_dense(model)
    generator, found = torch.Generator().manual_seed(seed), []
    for name, mask in masks.items():
        module = model.get_submodule(name)
        if parametrize.is_parametrized(module, "weight"):
            raise UserError(f"{name} carries a low-rank change already; merge it first (merge_lora).")
        keep = None if mask is None else stored(module, mask)
        if keep is not None and keep.shape != module.weight.shape:
            raise UserError(
                f"the mask of {name} is {tuple(keep.shape)}, its weight {tuple(module.weight.shape)}; "
                "use the masks of this model."
            )
        module.weight.requires_grad_(False)
        change = LowRank(module.weight.detach(), keep, kind, rank, alpha, generator)
        parametrize.register_parametrization(module, "weight", change, unsafe=True)
        found += [change.up, change.down]
    return found


@torch.no_grad()
def merge_lora(model: nn.Module) -> list[str]:
    """Write every attached change into its weight and remove it; pruned weights are +0.0 afterwards.

    Returns:
        Names of the merged layers; a second call finds none.
    """
    merged = []
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        change = module.parametrizations.weight[0]
        if not isinstance(change, LowRank):
            continue
        if change.kind == "prune":
            change.kind = "mask"  # now, and only now, the mask falls on the product
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        merged.append(name)
    return merged


def select_perp_params(model: nn.Module, *, biases: bool = True, norms: bool = True) -> list[nn.Parameter]:
    """Freeze the model but for the biases of its linear layers and the scales and shifts of its norms.

    Args:
        model: a transformers model.
        biases: train the biases of the layers a pruner touches.
        norms: train every parameter of modules whose class is called …Norm.

    Returns:
        The parameters that train; empty when the model has none of them.
    """
    model.requires_grad_(False)
    found: list[nn.Parameter] = []
    if biases:
        found += [module.bias for module in find_targets(model).values() if module.bias is not None]
    if norms:
        found += [p for module in model.modules() if "Norm" in type(module).__name__ for p in module.parameters()]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def add_biases(model: nn.Module) -> int:
    """Give a Llama-like model without biases zero ones, so that there is something to train; answers do not change.

    Returns:
        How many numbers were added.

    Raises:
        UserError: when the architecture cannot save them.
    """
    config = model.config
    if not hasattr(config, "attention_bias") or not hasattr(config, "mlp_bias"):
        raise UserError(
            f"{type(model).__name__} has no biases to switch on; retrain its norms, or use MaskLoRA instead."
        )
    added = 0
    for module in find_targets(model).values():
        if module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))
            added += module.out_features
    config.attention_bias = config.mlp_bias = True
    return added


def head_name(model: nn.Module) -> str:
    """Name of the output layer, for plain LoRA on it.

    Raises:
        UserError: when there is none, or its weight is the embedding's too.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise UserError(f"{type(model).__name__} has no output layer to retrain; leave out 'head'.")
    if head.weight is model.get_input_embeddings().weight:
        raise UserError(
            f"the output layer of {type(model).__name__} is tied to its embedding, so merging would change the inputs "
            "too; leave out 'head'."
        )
    return next(name for name, module in model.named_modules() if module is head)
