"""One loader for every model that `resolve` finds: a bundled name, a local folder, a .gguf file, or a hub id.

`load_model` reads safetensors only, never runs code that comes with a model (`trust_remote_code=False`), and refuses a
model some of whose weights would be made up: transformers fills a missing tensor with random numbers and only prints a
warning. A new classification head is the one exception, because it is meant to be trained.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import JobError, UserError, choose
from workbench.models.checks import Checked, check_folder, check_quantization
from workbench.models.find import local
from workbench.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TASKS = {
    "causal-lm": "AutoModelForCausalLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}
DTYPES = ("float32", "bfloat16", "float16", "auto")
WRITES = re.compile("CausalLM|LMHead|ConditionalGeneration")  # architectures that can continue a text


def load_config(name: str | Path) -> PretrainedConfig:
    """The configuration of a model (hidden size, layers, vocabulary) without its weights.

    Raises:
        UserError: as `resolve`.
    """
    from transformers import AutoConfig

    path = local(name)
    if path.is_file():
        with quiet():
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    check_folder(path)
    return _read(name, AutoConfig, path)


def load_model(
    name: str | Path,
    *,
    task: str = "causal-lm",
    num_labels: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    quantization_config: Any = None,
) -> PreTrainedModel:
    """Load a model in eval mode.

    Args:
        name: bundled name, folder, .gguf file, or hub id.
        task: "causal-lm", "sequence-classification" (adds a head where the checkpoint has none) or "encoder".
        num_labels: classes of the head; only with "sequence-classification".
        dtype: "float32", "bfloat16", "float16", or "auto" for the checkpoint's own.
        device: where to put it; None means the GPU where there is one, else the CPU.
        quantization_config: pack on the fly while loading (`WbIntConfig`, `BitsAndBytesConfig`, …).

    Returns:
        The model in eval mode.

    Raises:
        UserError: bad name, folder, task, dtype or device; weights that do not fit the architecture.
        JobError: not enough memory.
    """
    choose("task", task, TASKS)
    choose("dtype", dtype, DTYPES)
    if num_labels is not None and (task != "sequence-classification" or num_labels < 1):
        raise UserError(
            f"num_labels is {num_labels} with task {task!r}; it needs sequence-classification and 1 or more."
        )
    path = local(name)
    import torch
    import transformers

    place = _device(device)
    if path.is_file():
        model = _from_gguf(path, task, quantization_config).to(
            torch.float32 if dtype == "auto" else getattr(torch, dtype)
        )
    else:
        checked = check_folder(path)
        if quantization_config is not None:
            check_quantization("The quantization_config given", {"quantization_config": quantization_config.to_dict()})
        _check_task(name, task, checked)
        options: dict[str, Any] = {"dtype": "auto" if dtype == "auto" else getattr(torch, dtype)}
        if num_labels is not None:
            options["num_labels"] = num_labels
        if quantization_config is not None:
            options["quantization_config"] = quantization_config
        builder = getattr(transformers, TASKS[task])
        model, report = _read(name, builder, path, use_safetensors=True, output_loading_info=True, **options)
        _check_complete(name, task, model, report)
    return _to(model, place).eval()


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token in any case (the end-of-text token where it has none of its own).

    Raises:
        UserError: as `resolve`; a folder without tokenizer files.
    """
    from transformers import AutoTokenizer

    path = local(name)
    if path.is_file():
        from workbench.models.smollm import read_gguf_tokenizer

        tokenizer = read_gguf_tokenizer(path)
    else:
        check_folder(path)
        if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            raise UserError(
                f"{path} has no tokenizer (tokenizer.json); copy the tokenizer files of its base model there."
            )
        tokenizer = _read(name, AutoTokenizer, path)
    if tokenizer.pad_token_id is None:
        stand_in = next((t for t in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token) if t), None)
        if stand_in is None:
            raise UserError(f"The tokenizer of {name} has no special token to pad with; set pad_token in its config.")
        tokenizer.pad_token = stand_in
    return tokenizer


def _from_gguf(path: Path, task: str, quantization_config: Any) -> Any:
    from workbench.models.smollm import read_gguf

    if task != "causal-lm" or quantization_config is not None:
        raise UserError(f"{path} can be loaded for text generation only; save it as a folder first, then load that.")
    return read_gguf(path)


def _read(name: str | Path, builder: Any, path: Path, **options: Any) -> Any:
    """`from_pretrained` of a checked folder, with what it raises in one sentence."""
    import torch

    try:
        with quiet():
            return builder.from_pretrained(path, trust_remote_code=False, local_files_only=True, **options)
    except torch.OutOfMemoryError as error:
        raise JobError(
            f"There is not enough GPU memory for {name}; use a smaller model or dtype='bfloat16'."
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} cannot be loaded: {reason}") from error


def _check_task(name: str | Path, task: str, checked: Checked) -> None:
    names = checked.config.get("architectures") or []
    if task == "causal-lm" and names and not any(WRITES.search(architecture) for architecture in names):
        raise UserError(
            f"{name} is a {checked.architecture}, which cannot continue a text; load it with task 'encoder' or "
            "'sequence-classification'."
        )


def _check_complete(name: str | Path, task: str, model: Any, report: dict[str, Any]) -> None:
    """No weight may be made up, except a new classification head and an encoder's pooler."""
    missing = sorted(report["missing_keys"])
    if task == "sequence-classification":
        missing = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if task == "encoder":
        missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        raise UserError(
            f"{name} lacks {len(missing)} weights that {type(model).__name__} needs (such as {missing[0]}), they would "
            "be random; copy the folder again or choose another task."
        )


def _device(device: str | None) -> Any:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"There is no device {device!r}; use cpu, cuda or cuda:0.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"The device {device} was asked for, but torch sees no GPU; use cpu, or install a CUDA build.")
    return place


def _to(model: Any, place: Any) -> Any:
    import torch

    try:
        return model if model.device == place else model.to(place)
    except torch.OutOfMemoryError as error:
        raise JobError(
            "There is not enough GPU memory for this model; use device='cpu' or dtype='bfloat16'."
        ) from error
