"""LLM.int8: 8 bits for almost everything, and floats for the few input columns where activations are huge.

In transformers a handful of input features are a hundred times larger than the rest. Rounded together with them, all other
inputs of a token lose their small digits. So the product is split (Dettmers et al. 2022, arXiv 2208.07339, §3.1–3.2, eq. 8):

    y = Σ_{j ∈ O} x_j w_j  (float16 weights)   +   c_x c_w · Σ_{j ∉ O} x̂_j ŵ_j  (8-bit inputs and weights)

    O: input columns that ever exceed 6.0 in magnitude · c_x: largest other input of the token / 127 · c_w: per output row

    bits per weight: 8 + 16/in + (16·out + 32)·|O| / (in·out)

Departures: O is fixed on calibration text, so that those columns keep their own float weights and the file says which they
are (the released kernel looks for O in every batch, and takes the weights back from 8 bits); the 8-bit product is computed in
float on the rounded values, which gives the same numbers without the speed of an integer unit; the weight's grid is that of
`rtn` at 8 bits (steps of max|w|/127.5).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.compress.records import IntWeight
from workbench.compress.rtn import quantize_rtn
from workbench.errors import UserError
from workbench.progress import Progress, silent

THRESHOLD = 6.0


def quantize_int8_mixed(weight: Tensor, columns: Tensor, *, bits: int = 8) -> IntWeight:
    """Round all columns of a weight matrix but some to 8 bits, one scale per output row.

    Args:
        weight: float [out, in].
        columns: int [k], the input columns that stay in float16; may be empty.
        bits: bits of the other columns; 8 is all there is.

    Raises:
        UserError: when a weight of an outlier column leaves float16.
    """
    columns = columns.sort().values
    kept = weight[:, columns.long()].half()
    if not bool(torch.isfinite(kept).all()):
        raise UserError("a weight of an outlier column is too large for float16; use method 'rtn' at 8 bits.")
    rest = weight.index_fill(1, columns.long(), 0)
    record = quantize_rtn(rest, bits=bits, group_size=None, symmetric=True)
    return replace(record, outliers=(columns.int(), kept))


@torch.no_grad()
def find_outliers(
    model: nn.Module,
    targets: dict[str, nn.Module],
    windows: list[Tensor],
    *,
    threshold: float = THRESHOLD,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Input columns of every layer whose magnitude exceeds the threshold anywhere in the text.

    Args:
        model: the dense model, in evaluation mode.
        targets: name → layer.
        windows: token ids, each (1, tokens).
        threshold: magnitude from which an input is an outlier.
        progress: called after every window.

    Returns:
        name → int64 [k], sorted; empty for layers without outliers, and for experts that no token chose.

    Raises:
        UserError: no text, or windows of another shape.
    """
    from workbench.compress.walk import check_windows

    check_windows(windows, "int8-mixed")
    largest: dict[str, Tensor] = {}

    def watch(name: str, x: Tensor) -> None:
        size = x.reshape(-1, x.shape[-1]).abs().amax(0)
        largest[name] = torch.maximum(largest[name], size) if name in largest else size

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: watch(name, args[0]) if args[0].numel() else None)
        for name, module in targets.items()
    ]
    try:
        for number, window in enumerate(windows):
            model.base_model(window.to(model.device), use_cache=False)
            progress(number + 1, len(windows), f"outliers: window {number + 1} of {len(windows)}")
    finally:
        for handle in handles:
            handle.remove()
    none = torch.zeros(0, dtype=torch.int64)
    return {name: (largest[name] > threshold).nonzero().flatten() if name in largest else none for name in targets}
