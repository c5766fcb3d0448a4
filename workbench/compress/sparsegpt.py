"""SparseGPT: prune one input column after another, and let the columns still to come absorb the loss.

As in GPTQ (`workbench.compress.gptq`) the output error of a change Δ is tr(Δ H Δᵀ) with H = Xᵀ X / n, and H⁻¹ = Uᵀ U.
Removing w_j alone, with the best repair by later columns, costs w_j² / U_jj². Columns are walked in blocks of 128:

    at the start of a block   mask = the share with the smallest w² / U_jj² goes
    column j                  e_j = (w_j − mask_j w_j) / U_jj,  then  w_k ← w_k − e_j U_jk  for k > j in the block
    at the end of a block     W_later ← W_later − E U_block,later

For n:m patterns a group is decided when its first column is reached, with the weights as they are by then.

    weight [out, in] · H [in, in]

Source: Frantar & Alistarh 2023, arXiv 2301.00774, Algorithm 1 and §3.3, and the code of Zimmer et al. 2023,
arXiv 2312.15230. Departures: counts are exact (the rounding of one block is made up in the next); `scope="row"` is
offered beside the published choice over the rows of a block ("matrix"); damping 0.01 · mean(diag H) is raised tenfold,
with a note, while H is not positive definite; the block size does not depend on the number of calibration samples (in
the second code both are 128 by accident).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.compress.gptq import Factored, Hessian
from workbench.compress.masks import UNSTRUCTURED, keep_pattern, parse_pattern, without_lowest
from workbench.compress.pruners import Pruned
from workbench.errors import UserError

BLOCK = 128  # a multiple of every m


def solve(
    weight: Tensor, upper: Tensor, *, sparsity: float, pattern: str = UNSTRUCTURED, scope: str = "matrix",
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Prune `weight` against U and repair what is left.

    Args:
        weight: float [out, in].
        upper: U [in, in] with (H + damping)⁻¹ = Uᵀ U.
        sparsity: share to remove; n:m patterns have their own.
        pattern: unstructured, 2:4 or 4:8.
        scope: "matrix" compares the rows of a block, "row" the weights of one output in a block.
        block: columns whose mask is chosen at once.

    Returns:
        The new weight, and the mask (True is kept), both [out, in].
    """
    weight, width, group = weight.clone(), weight.shape[1], parse_pattern(pattern)
    diagonal = upper.diagonal()
    mask = torch.ones_like(weight, dtype=torch.bool)
    per = 1 if scope == "row" else len(weight)  # weights of a column that are compared together
    for start in range(0, width, block):
        stop = min(start + block, width)
        here, kept = weight[:, start:stop].clone(), mask[:, start:stop]
        errors = torch.zeros_like(here)
        if group is None:
            scores = (here / diagonal[start:stop]).square()
            gone = round(sparsity * per * stop) - round(sparsity * per * start)
            kept.copy_(without_lowest(scores, gone, scope))
        for j in range(stop - start):
            column = start + j
            if group is not None and column % group[1] == 0:
                ahead = slice(j, j + group[1])
                kept[:, ahead] = keep_pattern((here[:, ahead] / diagonal[column : column + group[1]]).square(), *group)
            error = torch.where(kept[:, j], 0.0, here[:, j]) / diagonal[column]
            here[:, j:] -= torch.outer(error, upper[column, column:stop])
            errors[:, j] = error
        weight[:, start:stop] = here
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight.masked_fill(~mask, 0), mask


def prune_sparsegpt(
    weight: Tensor,
    hessian: Hessian | Factored | None = None,
    *,
    sparsity: float = 0.5,
    pattern: str = UNSTRUCTURED,
    scope: str = "matrix",
    seed: int = 0,
    name: str = "this layer",
) -> Pruned:
    """Remove weights in the order of their repaired loss, and repair.

    Args:
        weight: float [out, in].
        hessian: of the layer's inputs.
        sparsity: share of weights to remove, 0 to below 1.
        pattern: unstructured, 2:4 or 4:8.
        scope: matrix or row: what is compared with what.
        seed: not used.
        name: the layer, for messages.

    Returns:
        Weight, mask, and notes on dead inputs (their weights become 0) and raised damping.

    Raises:
        UserError: without calibration inputs, or with a Hessian that cannot be factored.
    """
    if hessian is None:
        raise UserError(f"sparsegpt needs calibration inputs for {name}; pass token windows, or use 'magnitude'.")
    if isinstance(hessian, Hessian):
        try:
            hessian = hessian.factored(name=name)
        except UserError as error:  # the quantizers' advice is to round instead; here it is to leave the weights alone
            raise UserError(str(error).replace("method 'rtn'", "method 'wanda'")) from error
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    alive = weight.to(dtype).masked_fill(hessian.dead, 0)
    found, mask = solve(alive, hessian.upper.to(dtype), sparsity=sparsity, pattern=pattern, scope=scope)
    return Pruned(found.masked_fill(hessian.dead, 0).to(weight.dtype), mask, list(hessian.notes))
