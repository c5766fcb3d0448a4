"""Wanda: a weight matters as much as it is large and its input is loud.

    score_ij = |W_ij| · ‖X_:,j‖₂          W [out, in], X [tokens, in]

The norm is taken as a root mean square over the calibration tokens, √(H_jj) with H = Xᵀ X / n, which orders the weights
alike. Weights are compared inside a row by default: each output loses the same share of its inputs. No weight changes.

Source: Sun et al. 2023, arXiv 2306.11695, §3 (eq. 1, comparison per output); Zimmer et al. 2023, arXiv 2312.15230,
whose code compares over the whole matrix (`scope="matrix"` here). Departure: inputs are those after every earlier layer
was pruned, inside the block too; the published code looks at a whole block before it prunes any of it.
"""

from __future__ import annotations

from torch import Tensor

from workbench.compress.gptq import Hessian
from workbench.compress.masks import UNSTRUCTURED, keep
from workbench.compress.pruners import Pruned
from workbench.errors import UserError


def wanda_scores(weight: Tensor, second_moments: Tensor) -> Tensor:
    """|W| scaled by the size of the inputs.

    Args:
        weight: [out, in].
        second_moments: mean of x² of every input [in].

    Returns:
        [out, in].
    """
    return weight.abs() * second_moments.clamp(min=0).sqrt()


def prune_wanda(
    weight: Tensor,
    hessian: Hessian | None = None,
    *,
    sparsity: float = 0.5,
    pattern: str = UNSTRUCTURED,
    scope: str = "row",
    seed: int = 0,
    name: str = "this layer",
) -> Pruned:
    """Remove the weights with the smallest product of magnitude and input norm.

    Args:
        weight: float [out, in].
        hessian: of the layer's inputs; only its diagonal is used.
        sparsity: share of weights to remove, 0 to below 1.
        pattern: unstructured, 2:4 or 4:8.
        scope: matrix or row: what is compared with what.
        seed: not used.
        name: the layer, for messages.

    Returns:
        Weight and mask.

    Raises:
        UserError: without calibration inputs, or with inputs that are not finite.
    """
    if hessian is None:
        raise UserError(f"wanda needs calibration inputs for {name}; pass windows of token ids, or use 'magnitude'.")
    moments = hessian.matrix().diagonal()
    if not bool(moments.isfinite().all()):
        raise UserError(f"The calibration inputs of {name} hold NaN or infinity; check the model in float32 first.")
    mask = keep(wanda_scores(weight, moments.to(weight.dtype)), sparsity, pattern, scope)
    return Pruned(weight.masked_fill(~mask, 0), mask)
