"""Put a method on a model: which parameters train, with which peft configuration.

A *skeleton* (the model on torch's meta device: shapes, no numbers) lets every mistake in a method's arguments show before
weights are read: ranks above a matrix's smaller side, targets that match nothing, sizes that do not divide.
Some of peft's defaults fit 7-billion-parameter models only (a circulant block of 256, 2592 wavelet coefficients); where
the user has not set them they are lowered to what the smallest targeted matrix takes.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.errors import UserError
from workbench.training.methods import Method

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel

Shapes = list[tuple[int, int]]  # (d_in, d_out) of each targeted matrix
HEADS = ("lm_head", "score", "classifier", "pre_classifier", "qa_outputs", "embed_out")
RANKED = {"LORA": "r", "ADALORA": "init_r", "LOHA": "r", "HIRA": "r", "DELORA": "r", "PSOFT": "r", "DEFT": "r"}
# Said by peft and transformers 5.23 about each other on every attachment, true and without consequence here.
_NOISE = (
    "`is_gradient_checkpointing` is deprecated",  # peft asks transformers by the old name
    "Unsupported layer type '<class 'transformers.models",  # LN tuning on RMSNorm, which works
    "Failed to load the CUDA extension",  # BOFT's fast path; the slow one is right
    "Setting boft_n_butterfly_factor to 1",
    "Detected that the base layer has no bias term",  # BEFT adds one, which is its purpose
    "Sparse invariant checks are implicitly disabled",  # FRoD's sparse tensors
)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the known sentences above, and no other warning."""
    with warnings.catch_warnings():
        for text in _NOISE:
            warnings.filterwarnings("ignore", message=re.escape(text))
        yield


def skeleton(config: PreTrainedConfig, task: str, num_labels: int | None = None) -> PreTrainedModel:
    """The model on the meta device: every shape, no weights, no file read.

    Args:
        config: the model's configuration.
        task: "causal-lm" or "sequence-classification".
        num_labels: classes, for sequence classification.

    Raises:
        UserError: when transformers has no such model for this task.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForCausalLM if task == "causal-lm" else AutoModelForSequenceClassification
    plain = config.to_dict()
    plain.pop("quantization_config", None)
    if num_labels is not None:
        plain.update(num_labels=num_labels)
        plain.pop("id2label", None), plain.pop("label2id", None)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    try:
        with torch.device("meta"):
            return auto.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise UserError(
            f"A model of type {config.model_type} cannot be trained for {task.replace('-', ' ')}: "
            f"{str(error).splitlines()[0]}"
        ) from error


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


_FITTED: dict[str, tuple[str, Callable[[Shapes], int]]] = {
    "c3a": ("block_size", lambda s: _divisor([d for pair in s for d in pair], 256)),
    "fourierft": ("n_frequency", lambda s: min(1000, min(i * o for i, o in s) // 2)),
    "miss": ("r", lambda s: _divisor([i for i, _ in s], 64)),
    "nola": ("num_basis", lambda s: min(512, 2 * min(min(pair) for pair in s))),
    "psoft": ("r", lambda s: min(32, min(min(pair) for pair in s))),
    "road": ("group_size", lambda s: _divisor([o for _, o in s], 64)),
    "shira": ("r", lambda s: min(32, min(i * o // (i + o) for i, o in s))),
    "vblora": ("vector_length", lambda s: _divisor([d for pair in s for d in pair], 256)),
    "waveft": ("n_frequency", lambda s: min(2592, min(i * o for i, o in s) // 2)),
}


def adapter_config(method: Method, args: Mapping[str, Any], model: PreTrainedModel, steps: int) -> PeftConfig:
    """The peft configuration for a method on a model (or its skeleton).

    Args:
        method: from `find_method`; not one of full, last-n, bitfit.
        args: what the user set.
        model: decides targets and sizes.
        steps: optimizer updates of the run (AdaLoRA's schedule).

    Raises:
        UserError: unknown arguments, targets that match nothing, ranks out of range, values peft refuses.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    method.check(args)
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[method.peft_type]
    values = {**method.preset, **args}
    names = {argument["name"] for argument in method.arguments}
    causal = "CausalLM" in type(model).__name__ or type(model).__name__.endswith("LMHeadModel")
    values["task_type"] = "CAUSAL_LM" if causal else "SEQ_CLS"
    if "target_modules" in names and method.peft_type not in ("ADAPTION_PROMPT", "TRAINABLE_TOKENS"):
        target, shapes = choose_targets(method, values, model)
        if target is not None:
            values["target_modules"] = target
        if method.name in _FITTED and _FITTED[method.name][0] not in args:
            name, fit = _FITTED[method.name]
            values[name] = fit(shapes)
        _check_rank(method, values, shapes)
    if method.peft_type == "ADALORA":
        values = {
            "tinit": steps // 10,
            "tfinal": steps // 3,
            "deltaT": max(1, steps // 50),
            **values,
            "total_step": steps,
        }
    if method.peft_type == "ADAPTION_PROMPT":
        values.setdefault("adapter_layers", model.config.num_hidden_layers)
    if method.peft_type == "TRAINABLE_TOKENS" and not values.get("token_indices"):
        raise UserError(
            "trainable-tokens needs token_indices: the ids of the tokens whose embeddings are to be trained."
        )
    with refusing(method):
        return cls(**values)


def _check_rank(method: Method, values: Mapping[str, Any], shapes: Shapes) -> None:
    for name in {"r", "init_r", "target_r"} & set(values):
        rank = values[name]
        if rank is None and method.peft_type == "SUPERTUNING":
            continue
        if isinstance(rank, bool) or not isinstance(rank, int) or (rank < 1 and method.peft_type != "OFT"):
            raise UserError(f"{name} is {rank!r}; a rank is a whole number from 1 up (4–16 for most tasks).")
        smallest = min(min(pair) for pair in shapes)
        if method.peft_type in RANKED and rank > smallest:
            d_in, d_out = min(shapes, key=min)
            raise UserError(
                f"{name} is {rank}, above the smaller side of a targeted {d_in} × {d_out} matrix; use {smallest} or less."
            )


@contextmanager
def refusing(method: Method) -> Iterator[None]:
    """Turn what peft refuses into a sentence that names the method."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except (ValueError, TypeError, AssertionError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{method.name} cannot be used like this: {text}") from error


def apply_method(method: Method, args: Mapping[str, Any], model: PreTrainedModel, steps: int) -> nn.Module:
    """Make `model` trainable by `method`, in place.

    Args:
        method: from `find_method`.
        args: what the user set.
        model: the loaded model, or its skeleton.
        steps: optimizer updates of the run.

    Returns:
        The `PeftModel`, or the model itself for full, last-n and bitfit.

    Raises:
        UserError: when the method does not fit the model.
    """
    if method.peft_type is None:
        method.check(args)
        model.requires_grad_(False)
        {"full": train_all, "last-n": train_last, "bitfit": train_biases}[method.name](model, **args)
        return model
    from peft import get_peft_model

    config = adapter_config(method, args, model, steps)
    if is_packed(model) and method.peft_type == "LORA":
        from workbench.compress.lora import packed_names, register

        if config.target_modules == "all-linear":  # peft looks for dense layers only
            config.target_modules = set(packed_names(model))
        register(config)
    with refusing(method):
        return get_peft_model(model, config)


def is_packed(model: PreTrainedModel) -> bool:
    """Whether the model's weights are quantized codes."""
    return getattr(model.config, "quantization_config", None) is not None


def train_all(model: PreTrainedModel) -> None:
    """Every parameter trains."""
    model.requires_grad_(True)


def train_last(model: PreTrainedModel, layers: int = 2) -> None:
    """The last `layers` layers, what comes after them (the final norm) and a classification head train.

    Raises:
        UserError: more layers than there are, or fewer than one.
    """
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    prefix, stack = max(stacks, key=lambda pair: len(pair[1]))
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= len(stack):
        raise UserError(
            f"layers is {layers!r}; this model has {len(stack)}, so give a whole number from 1 to {len(stack)}."
        )
    stack[len(stack) - layers :].requires_grad_(True)
    parent = model.get_submodule(prefix.rpartition(".")[0]) if "." in prefix else model
    for module in parent.children():
        if "Norm" in type(module).__name__:
            module.requires_grad_(True)
    _train_head(model)


def train_biases(model: PreTrainedModel) -> None:
    """Bias terms train, and a classification head.

    Raises:
        UserError: when the model has no bias.
    """
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    if not biases:
        raise UserError("bitfit trains bias terms and this model has none; use beft, ia3 or ln-tuning instead.")
    for parameter in biases:
        parameter.requires_grad_(True)
    _train_head(model)


def _train_head(model: PreTrainedModel) -> None:
    for name, module in model.named_children():
        if name in HEADS and name != "lm_head" and name != "embed_out":
            module.requires_grad_(True)


def counts(model: nn.Module) -> tuple[int, int]:
    """(trained parameters, all parameters)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
