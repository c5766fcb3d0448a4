"""The model to train: loaded, optionally quantized, made trainable by the method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.training import attach
from workbench.training.targets import HEADS, linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workbench.training.prepare import Prepared

CALIBRATION_ROWS = 32


def device() -> torch.device:
    """Where training happens: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(name: str, task: str, labels: Sequence[str]) -> PreTrainedModel:
    """The model with a head for the task; class names go into its configuration."""
    from workbench.models import load_model

    model = load_model(name, task=task, num_labels=len(labels) or None)
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
    return model


def quantize_base(model: PreTrainedModel, spec: str, calibration: list[torch.Tensor] | None) -> None:
    """Compress the frozen model in place.

    Args:
        model: the dense model.
        spec: "nf4", "rtn-4", "gptq-3", …
        calibration: windows of token ids (1, T) for methods that look at text.
    """
    from workbench.compress import quantize_model
    from workbench.compress.variant import parse

    variant = parse(spec)
    widths = [d_in for d_in, _ in linears(model).values()]
    group = (
        64
        if variant.method in ("nf4", "fp4")
        else next((g for g in (64, 32, 16) if all(w % g == 0 for w in widths)), None)
    )
    quantize_model(
        model, method=variant.method, bits=variant.bits, group_size=group, calibration=calibration, skip=HEADS
    )


def trainable_model(prepared: Prepared, base: Path | None = None) -> Any:
    """Load the model, quantize it where asked, attach the method; on the training device, in training mode.

    Args:
        prepared: checked settings.
        base: a packed copy of the quantized model from an earlier attempt, used as it is; written when it is missing
            and quantizing needed calibration.
    """
    from transformers import set_seed

    from workbench.compress.variant import parse
    from workbench.models.quiet import quiet

    config = prepared.config
    set_seed(config.seed)
    packed = base is not None and (base / "config.json").is_file()
    model = load_base(str(base) if packed else config.model, prepared.task, prepared.labels)
    if prepared.labels:
        model.config.pad_token_id = prepared.tokenizer.pad_token_id
    if config.quantize and not packed:
        windows = None
        if parse(config.quantize).seeded:
            windows = [torch.tensor([row["input_ids"]]) for row in prepared.train[:CALIBRATION_ROWS]]
        quantize_base(model, config.quantize, windows)
        if windows is not None and base is not None:
            with quiet():
                model.save_pretrained(str(base))
    model.config.use_cache = False  # a cache of keys and values is of no use to training
    set_seed(config.seed)
    model = attach.apply_method(prepared.method, config.method_args, model.to(device()), config.steps)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model.to(device()).train()
