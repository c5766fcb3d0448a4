"""Put a method on a model: which parameters train, with which peft configuration.

A *skeleton* (the model on torch's meta device: shapes, no numbers) lets every mistake in a method's arguments show before
weights are read: ranks above a matrix's smaller side, targets that match nothing, sizes that do not divide.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.errors import UserError
from workbench.training.methods import Method
from workbench.training.targets import FITTED, HEADS, Shapes, choose_targets

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedModel

RANKED = (
    "LORA",
    "ADALORA",
    "LOHA",
    "HIRA",
    "DELORA",
    "PSOFT",
    "DEFT",
    "NOLA",
    "WB_RANDLORA",
)  # a rank above the smaller side is waste or an error
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
        if method.name in FITTED and FITTED[method.name][0] not in args:
            name, fit = FITTED[method.name]
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
