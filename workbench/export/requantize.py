"""An adapter trained on quantized weights, back into codes: merge into the float base, quantize again, report the loss.

The sum of codes and adapter is not on the grid of the codes, and rounding Ŵ + BA back to it loses most of a small adapter:
where |BA| is below half a step every code rounds to itself. Merged into the *float* base, W + BA meets the grid at other
places, and the rounding error is that of any quantized model. Where no float base is known, the unpacked codes stand in for
it, and the report says so.

    loss_base → loss_tuned   what training gained (packed base, then with its adapter unmerged)
    loss_merged              W + BA in float          loss_requantized   the same in codes
    kept = (loss_base − loss_requantized) / (loss_base − loss_tuned)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.errors import UserError
from workbench.export.check import logits, loss
from workbench.export.merge import fold
from workbench.progress import Progress, part, silent


def requantize_tuned(
    model: Any,
    folder: Path,
    *,
    base: str | None,
    text: list[Tensor],
    calibration: list[Tensor] | None = None,
    progress: Progress = silent,
) -> tuple[Any, dict[str, Any]]:
    """Merge an adapter that sits on packed weights and pack the result in the same format.

    Args:
        model: the adapter on its packed base, as `load_tuned` gives it; used up.
        folder: the adapter's folder.
        base: name of the float model that was quantized; None uses the unpacked codes.
        text: windows of token ids (1, T) to measure the loss on.
        calibration: windows for gptq, which takes the place of every method that reads text; None rounds to nearest.
        progress: called as layers finish.

    Returns:
        The packed model without adapter, and {base, method, bits, group_size, loss_base, loss_tuned, loss_merged,
        loss_requantized, kept}.

    Raises:
        UserError: the adapter sits on dense weights, or the float base is another model.
    """
    from workbench.compress import quantize_model

    packing = getattr(model.get_base_model().config, "quantization_config", None)
    if packing is None:
        raise UserError("This adapter sits on dense weights, where merging loses nothing; leave --requantize out.")
    before = logits(model, text)
    with model.disable_adapter():
        loss_base = loss(logits(model, text), text)
    keep_dense = packing.modules_to_not_convert or []
    merged = fold(model, text, before) if base is None else merge_into(base, folder, text)
    loss_merged = loss(logits(merged, text), text)
    options = options_of(packing, calibration)
    _plain(merged)
    quantize_model(merged, skip=["lm_head", *keep_dense], progress=part(progress, 0.2, 1), **options)
    loss_tuned, loss_after = loss(before, text), loss(logits(merged, text), text)
    gained = loss_base - loss_tuned
    options.pop("calibration", None)
    return merged, {
        "base": base or "the unpacked codes",
        **options,
        "loss_base": loss_base,
        "loss_tuned": loss_tuned,
        "loss_merged": loss_merged,
        "loss_requantized": loss_after,
        "kept": (loss_base - loss_after) / gained if abs(gained) > 1e-6 else None,
    }


def options_of(packing: Any, calibration: list[Tensor] | None) -> dict[str, Any]:
    """Arguments of `quantize_model` for the format of a packed model."""
    if packing.quant_method == "wb_float":
        return {
            "method": packing.kind,
            "bits": 4,
            "group_size": packing.block_size,
            "double_quant": packing.double_quant,
        }
    if packing.method == "int8-mixed":
        return {"method": "int8-mixed", "bits": 8, "calibration": calibration}
    found = {"bits": packing.bits, "group_size": packing.group_size, "symmetric": packing.symmetric}
    return (
        {"method": "rtn", **found} if calibration is None else {"method": "gptq", "calibration": calibration, **found}
    )


def merge_into(base: str, folder: Path, text: list[Tensor]) -> Any:
    """The adapter of `folder` merged into a dense model, and seen to be in there.

    Raises:
        UserError: the base is packed itself, or its layers do not fit.
    """
    from peft import PeftModel

    from workbench import adapters
    from workbench.models import load_model
    from workbench.training.attach import quiet

    dense = load_model(base)
    if getattr(dense.config, "quantization_config", None) is not None:
        raise UserError(f"{base} is quantized itself; name the float model that it was made from with --base.")
    adapters.register_all()
    try:
        with quiet():
            model = PeftModel.from_pretrained(dense, str(folder)).eval()
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The adapter in {folder} does not fit {base} ({reason}); name its own float model with --base."
        ) from error
    return fold(model, text, logits(model, text))


def _plain(model: Any) -> None:
    """Unpack what is still packed and forget the old format, so that the model can be quantized anew."""
    from workbench.compress.linear import PackedLinear
    from workbench.export.place import forget_packing, settle

    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            settle(model, name, module.dequantize())
    forget_packing(model)
