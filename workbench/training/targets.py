"""Which layers a method acts on, and how large it may be there.

Without `target_modules` a method goes where peft puts it for this kind of model (q and v for most), else on every linear
layer. Some of peft's defaults fit 7-billion-parameter models only (a circulant block of 256, 2592 wavelet coefficients);
where the user has not set them they are lowered to what the smallest targeted matrix takes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from workbench.errors import UserError
from workbench.training.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = list[tuple[int, int]]  # (d_in, d_out) of each targeted matrix
HEADS = ("lm_head", "score", "classifier", "pre_classifier", "qa_outputs", "embed_out")


def linears(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of every linear layer by name; heads are left out, Conv1D of GPT-2 counts."""
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in HEADS:
            continue
        if isinstance(module, Conv1D):
            found[name] = tuple(module.weight.shape)
        elif hasattr(module, "in_features") and hasattr(module, "out_features"):
            found[name] = (module.in_features, module.out_features)
    return found


def matched(names: Iterable[str], target: str | Iterable[str]) -> list[str]:
    """Names that a target means: a pattern (text) matches whole names, a list matches names or their last parts."""
    if isinstance(target, str):
        return [name for name in names if re.fullmatch(target, name)]
    return [name for name in names if any(name == t or name.endswith(f".{t}") for t in target)]


def choose_targets(method: Method, values: Mapping[str, Any], model: PreTrainedModel) -> tuple[Any, Shapes]:
    """What the method will act on, and the shapes there.

    Returns:
        The value for `target_modules` (None leaves it to peft), and (d_in, d_out) of each targeted linear layer.

    Raises:
        UserError: targets that match nothing, with the nearest names.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    shapes = linears(model)
    target = values.get("target_modules")
    if target is None or target == "all-linear":
        mapping = getattr(PEFT_TYPE_TO_TUNER_MAPPING[method.peft_type], "target_module_mapping", None) or {}
        if target is None and not mapping:
            return None, list(shapes.values())  # the method knows where it goes (IA³, prompts)
        usual = mapping.get(model.config.model_type)
        if target is None and usual is not None:
            names = matched(shapes, usual)
            return None, [shapes[name] for name in names] or list(shapes.values())
        return "all-linear", list(shapes.values())
    names = [name for name, _ in model.named_modules() if name]
    for one in [target] if isinstance(target, str) else target:
        try:
            hit = matched(names, target if isinstance(target, str) else [one])
        except re.error as error:
            raise UserError(
                f"target_modules {target!r} is no pattern: {error}; name layers such as q_proj,v_proj."
            ) from None
        if not hit:
            leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in shapes))
            near = difflib.get_close_matches(str(one).rpartition(".")[2], leaves, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"this model has {', '.join(leaves)}."
            raise UserError(f"target_modules {one!r} matches no layer of the model; {hint}")
    hits = matched(shapes, target)
    return target, [shapes[name] for name in hits] or list(shapes.values())


def _divisor(numbers: Iterable[int], most: int) -> int:
    """The largest number up to `most` that divides all of them."""
    common = math.gcd(*numbers)
    return max(d for d in range(1, min(most, common) + 1) if common % d == 0)


# method → (argument, the value that fits the shapes)
FITTED: dict[str, tuple[str, Callable[[Shapes], int]]] = {
    "c3a": ("block_size", lambda s: _divisor([d for pair in s for d in pair], 256)),
    "fourierft": ("n_frequency", lambda s: min(1000, min(i * o for i, o in s) // 2)),
    "miss": ("r", lambda s: _divisor([i for i, _ in s], 64)),
    "nola": ("num_basis", lambda s: min(512, 2 * min(min(pair) for pair in s))),
    "psoft": ("r", lambda s: min(32, min(min(pair) for pair in s))),
    "road": ("group_size", lambda s: _divisor([o for _, o in s], 64)),
    "shira": ("r", lambda s: min(32, min(i * o // (i + o) for i, o in s))),
    "vblora": ("vector_length", lambda s: _divisor([d for pair in s for d in pair], 256)),
    "waveft": ("n_frequency", lambda s: min(2592, min(i * o for i, o in s) // 2)),
    "wb-randlora": ("r", lambda s: max(1, min(32, min(min(pair) for pair in s) // 2))),
}
