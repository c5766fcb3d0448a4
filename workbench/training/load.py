"""Open what a fine-tuning kept: the base model with its adapter on top, the merged model, or the tuned model itself."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.training.save import RECORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tuned(directory: Path | str, merged: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a tuned folder (or a run folder that holds `tuned/`, or an adapter folder saved by peft elsewhere).

    Args:
        directory: the folder.
        merged: fold the adapter into the weights; the model is then an ordinary transformers model.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        UserError: a folder that holds nothing tuned, weights that do not fit the base model, an adapter that cannot be
            merged.
    """
    from workbench.models import load_tokenizer
    from workbench.training import base
    from workbench.training.attach import is_packed

    folder = Path(directory)
    if (folder / "tuned").is_dir():
        folder = folder / "tuned"
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / RECORD).is_file():
        raise UserError(f"{directory} holds no tuned model; give the folder that workbench finetune printed.")
    record = _record(folder)
    if not adapter:
        model = base.load_base(str(folder), record["task"], record["labels"])
        return model.eval(), load_tokenizer(str(folder))

    packed = folder / "base"
    model = base.load_base(str(packed) if packed.is_dir() else record["model"], record["task"], record["labels"])
    if record["quantize"] and not packed.is_dir():
        base.quantize_base(model, record["quantize"], None)
    tokenizer = load_tokenizer(record["model"])
    if record["labels"]:
        model.config.pad_token_id = tokenizer.pad_token_id
    model = _with_adapter(model, folder)
    if merged:
        if is_packed(model.get_base_model()):
            raise UserError(
                f"The adapter in {directory} sits on quantized weights; merging would round them again and change the answers. "
                "Load it unmerged, call workbench.compress.merge_and_requantize, or train on the dense model."
            )
        model = _merge(model, record["method"])
    return model.eval(), tokenizer


def _record(folder: Path) -> dict[str, Any]:
    """workbench.json, or what peft's own configuration says when the adapter was made elsewhere."""
    if (folder / RECORD).is_file():
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not config.get("base_model_name_or_path"):
        raise UserError(
            f"{folder / 'adapter_config.json'} does not name its base model; set base_model_name_or_path there."
        )
    if config.get("task_type") not in ("CAUSAL_LM", None):
        raise UserError(
            f"The adapter in {folder} is for {config['task_type']} and names no classes; only adapters for text generation "
            "can be opened without workbench.json."
        )
    return {
        "model": config["base_model_name_or_path"],
        "task": "causal-lm",
        "labels": [],
        "method": str(config.get("peft_type", "")).lower(),
        "quantize": None,
    }


def _with_adapter(model: Any, folder: Path) -> Any:
    """The adapter on the model; the file must hold what the adapter needs and nothing else (peft only warns)."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    from workbench import adapters
    from workbench.training.attach import is_packed, quiet

    adapters.register_all()
    _check_known(folder)
    with quiet():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
        try:
            if is_packed(model) and not PeftConfig.from_pretrained(str(folder)).is_prompt_learning:
                from workbench.compress import load_adapter

                # The move puts codes that lie in a kernel's order back where peft looks for them.
                model = load_adapter(model.to(model.device), folder)
            else:
                model = PeftModel.from_pretrained(model, str(folder))
        except RuntimeError as error:
            raise _mismatch(folder, error) from error
        except UserError:
            raise
        except ValueError as error:
            if "arget modules" not in str(error):
                raise
            raise UserError(
                f"The adapter in {folder} belongs to another base model: {' '.join(str(error).split())[:200]} "
                "Load it on the model that its adapter_config.json names."
            ) from error
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    held = set(load_peft_weights(str(folder), device="cpu"))
    missing = sorted(wanted - held)
    extra = sorted(held - wanted - set(model.state_dict()))
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} tensors of its adapter (first: {missing[0]}); the file is damaged or belongs to "
            "another model. Train again, or copy the folder anew."
        )
    if extra:
        raise UserError(
            f"{folder} holds {len(extra)} tensors that its adapter has no place for (first: {extra[0]}); the weights and "
            "adapter_config.json are not of one training, or the base model has fewer layers. Copy the folder anew."
        )
    return model


def _check_known(folder: Path) -> None:
    """Refuse an adapter of a method that nobody here has registered (peft would say `KeyError`)."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type")
    known = {str(getattr(key, "value", key)) for key in PEFT_TYPE_TO_CONFIG_MAPPING}
    if kind not in known:
        raise UserError(
            f"The adapter in {folder} is of the method {kind!r}, which neither peft nor workbench has here; import the package "
            "that brings it before loading, or update peft."
        )


def _mismatch(folder: Path, error: RuntimeError) -> UserError:
    """Name and shapes of the first tensor that does not fit, from torch's long report."""
    found = re.search(
        r"size mismatch for (\S+): .*?torch\.Size\(\[([^]]*)\]\).*?torch\.Size\(\[([^]]*)\]\)", str(error), re.DOTALL
    )
    if found is None:
        raise error
    name, held, wanted = found.groups()
    return UserError(
        f"The adapter in {folder} belongs to another base model: {name} is {held.replace(', ', ' × ')} in the file and "
        f"{wanted.replace(', ', ' × ')} here. Load it on the model that its adapter_config.json names."
    )


def _merge(model: Any, method: str) -> Any:
    if not hasattr(model, "merge_and_unload"):
        raise UserError(f"{method} cannot be merged: it acts on the input, not on weights. Load it unmerged.")
    try:
        return model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{method} cannot be merged into the weights ({reason}); load it unmerged.") from error
