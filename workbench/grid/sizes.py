"""What makes each method larger or smaller: its size argument, the settings beside it, and where it may be placed.

A method that is not listed is asked for the first argument of `USUAL` that it has. Sizes are counted, never computed: the
method is put on the model (on the meta device where it can be built without numbers) and its tensors are counted.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workbench.training import attach
from workbench.training.methods import Method
from workbench.training.targets import HEADS, linears

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

USUAL = ("r", "num_virtual_tokens", "n_frequency", "num_basis", "adapter_len", "rank", "block_size")


@dataclass(frozen=True)
class Knob:
    """How a method is sized.

    Attributes:
        argument: whole number that grows (or shrinks) the method; None where there is none.
        least: smallest value.
        step: distance between two values.
        beside: other arguments to try with it, in order of preference; `window` is replaced by the window.
        places: whether other layers may be chosen where the usual ones do not fit the budget.
        fractional: whether single layers may get one rank more (rank_pattern).
        by_basis: sized by the number of products n = ⌈side / r⌉, not by r (RandLoRA: smaller r is larger).
    """

    argument: str | None
    least: int = 1
    step: int = 1
    beside: tuple[dict[str, Any], ...] = ({},)
    places: bool = True
    fractional: bool = False
    by_basis: bool = False


_TOKENS = tuple({"num_virtual_tokens": n} for n in (8, 4, 6, 10, 12, 16))
_DEPT = tuple({"num_virtual_tokens": n, "max_length": "window"} for n in (20, 12, 8, 16, 4))
_COMPACTER = ({}, {"after": ["ffn"]}, {"train_layer_norms": False}, {"after": ["ffn"], "train_layer_norms": False})
_MAM = tuple({"design": "mam", "l": n} for n in (1, 2, 4, 8, 16))
KNOBS: dict[str, Knob] = {
    "lora": Knob("r", fractional=True),
    "dora": Knob("r", fractional=True),
    "rslora": Knob("r", fractional=True),
    "loha": Knob("r", fractional=True),
    "adalora": Knob("init_r"),
    "c3a": Knob(None, beside=tuple({"block_size": 2**k} for k in range(9, -1, -1))),
    "oft": Knob(None, beside=tuple({"r": 0, "oft_block_size": 2**k} for k in range(1, 9))),
    "boft": Knob(None, beside=tuple({"boft_block_size": 2**k} for k in range(1, 9))),
    "tinylora": Knob(None),
    "ia3": Knob(None),
    "bitfit": Knob(None, places=False),
    "ln-tuning": Knob(None, places=False),
    "beft": Knob(None),
    "last-n": Knob("layers", places=False),
    "prompt": Knob("num_virtual_tokens", places=False),
    "prefix": Knob("num_virtual_tokens", places=False),
    "p-tuning": Knob("encoder_hidden_size", beside=_TOKENS, places=False),
    "adaption-prompt": Knob("adapter_len", places=False),
    "compacter": Knob("width", least=4, step=4, places=False, beside=_COMPACTER),
    "dept": Knob("r", beside=_DEPT, places=False),
    "unified": Knob("r", beside=_MAM, places=False),
    "said": Knob("d", places=False),
    "spiel": Knob("num_weights", step=1, places=False),
    "nola": Knob("num_basis"),
    "vblora": Knob("num_vectors"),
    "unilora": Knob("theta_d_length", places=False),
    "randlora": Knob("r", by_basis=True),
    "wb-randlora": Knob("r", by_basis=True),
}  # fmt: skip


def knob(method: Method) -> Knob:
    """How `method` is sized."""
    if method.name in KNOBS:
        return KNOBS[method.name]
    names = [argument["name"] for argument in method.arguments]
    return Knob(next((name for name in USUAL if name in names), None), places="target_modules" in names)


def is_head(name: str) -> bool:
    """Whether a parameter belongs to a classification head, which every method trains alike and no budget counts."""
    return any(part in HEADS for part in name.split("."))


class Shape:
    """A model without numbers, on which methods are tried on.

    Args:
        config: the model's configuration.
        task: "causal-lm" or "sequence-classification".
        classes: labels of the head; None for causal models.
        window: tokens of a row.
        steps: updates of a run.
    """

    def __init__(self, config: PreTrainedConfig, task: str, classes: int | None, window: int, steps: int) -> None:
        self.config, self.task, self.classes, self.window, self.steps = config, task, classes, window, steps
        self.bare = attach.skeleton(config, task, classes)
        self._real: nn.Module | None = None
        self._seen: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Parameters of the model without a head."""
        return sum(p.numel() for name, p in self.bare.named_parameters() if not is_head(name))

    def size(self, method: Method, args: dict[str, Any], kind: str) -> int:
        """Trained numbers (`params`) or bytes on disk (`bytes`) of a setting, head left out.

        Raises:
            UserError: the method refuses the setting.
        """
        key = repr((method.name, sorted(args.items(), key=repr), kind))
        if key not in self._seen:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about settings that are only tried on
                model = self._attached(method, args)
            self._seen[key] = trained(model) if kind == "params" else stored(model)
        return self._seen[key]

    def _attached(self, method: Method, args: dict[str, Any]) -> nn.Module:
        try:
            return attach.apply_method(method, args, copy.deepcopy(self.bare), self.steps)
        except (NotImplementedError, RuntimeError):  # it computes from the weights while it is built
            if self._real is None:
                self._real = copy.deepcopy(self.bare).to_empty(device="cpu")
                for tensor in (*self._real.parameters(), *self._real.buffers()):
                    if tensor.is_floating_point():
                        torch.nn.init.normal_(tensor, std=0.02)
            return attach.apply_method(method, args, copy.deepcopy(self._real), self.steps)


def trained(model: nn.Module) -> int:
    """Trained numbers, head left out."""
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and not is_head(name))


def stored(model: nn.Module) -> int:
    """Bytes of the file that would be saved, head left out."""
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(model, PeftModel):
        return sum(p.numel() * p.element_size() for name, p in model.named_parameters() if not is_head(name))
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return sum(tensor.numel() * tensor.element_size() for name, tensor in state.items() if not is_head(name))


def roles(model: nn.Module) -> list[str]:
    """What linear layers are called inside a block, such as `attention.self.query`, in order of appearance."""
    found = [match[1] for name in linears(model) if (match := re.match(r".*?\.\d+\.(.*)", name))]
    return list(dict.fromkeys(found))


def placements(model: nn.Module) -> Iterator[str]:
    """Patterns for `target_modules`: all of attention, all feed-forward, all, one role, all but one, two roles."""
    names = roles(model)
    attention = [name for name in names if "att" in name]
    rest = [name for name in names if "att" not in name]
    but_one = [[other for other in names if other != name] for name in names]
    groups = [
        attention,
        rest,
        names,
        *([name] for name in names),
        *but_one,
        *map(list, itertools.combinations(names, 2)),
    ]
    seen: set[tuple[str, ...]] = set()
    for group in groups:
        if group and tuple(group) not in seen:
            seen.add(tuple(group))
            yield rf".*\.\d+\.({'|'.join(map(re.escape, group))})"
