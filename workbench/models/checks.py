"""Is a folder a model that can be loaded safely? Answered from its config.json and file headers, before any weight is read.

Refused, each with one sentence: no config.json; weights only as pickles (a pickle can run any program when it is opened);
shards that are missing or cut short; an architecture that would need code from the folder; and a `quant_method` that
nobody has registered. That last check is not pedantry: transformers only warns, builds the model dense, and fills
it with random weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Checked:
    """A folder that passed: its config as written, and the architecture named there."""

    path: Path
    config: dict[str, Any]
    architecture: str


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder.

    Raises:
        UserError: unreadable, not UTF-8, not JSON, or not an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy the model folder again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a JSON object; copy the model folder again.")
    return found


def pickle_sentence(name: str, files: list[str]) -> UserError:
    """Why pickle checkpoints stay closed, and what to do instead."""
    return UserError(
        f"{name} has its weights only as pickle files ({', '.join(files[:3])}), which can run any program when opened; "
        "use a version saved as safetensors (save_pretrained writes it)."
    )


def check_folder(path: Path) -> Checked:
    """Check a model folder without loading weights.

    Args:
        path: an existing folder.

    Raises:
        UserError: it cannot be loaded, or not safely; the sentence names the file and the fix.
    """
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise UserError(f"{path} holds an adapter, not a whole model; open it with workbench.training.load_tuned.")
        gguf = sorted(path.glob("*.gguf"))
        hint = f"name the file itself: {gguf[0]}" if gguf else "give a folder that save_pretrained wrote"
        raise UserError(f"{path} has no config.json, so it is not a model folder; {hint}.")
    config = read_json(path / "config.json")
    _check_weights(path)
    _check_code(path, config)
    check_quantization(str(path), config)
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    return Checked(path, config, str(names[0]))


def _check_weights(path: Path) -> None:
    if (path / INDEX).is_file():
        shards = sorted(set(read_json(path / INDEX).get("weight_map", {}).values()))
        odd = [s for s in shards if not str(s).endswith(".safetensors") or Path(str(s)).name != s]
        if odd or not shards:
            raise UserError(
                f"{path / INDEX} names {odd[0] if odd else 'no file'}; only safetensors files beside it load."
            )
    elif (path / WEIGHTS).is_file():
        shards = [WEIGHTS]
    else:
        pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLES)
        if pickles:
            raise pickle_sentence(str(path), pickles)
        raise UserError(f"{path} has a config.json but no weights; {WEIGHTS} is missing: copy it there.")
    for shard in shards:
        _check_header(path / shard)


def _check_header(file: Path) -> None:
    """safetensors checks on opening that header and file length agree; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        state = "cannot be read" if file.exists() else "is missing"
        raise UserError(f"The weight file {file} {state} ({error}); copy or download it again.") from error


def _check_code(path: Path, config: dict[str, Any]) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind is None:
        raise UserError(
            f"{path / 'config.json'} has no model_type; add the one of its architecture (for example llama)."
        )
    if kind not in CONFIG_MAPPING:
        reason = "needs Python code from its own folder, which is never run" if config.get("auto_map") else "is unknown"
        raise UserError(
            f"The architecture {kind!r} of {path} {reason}; use a model that transformers itself contains, or a newer "
            "transformers."
        )


def check_quantization(name: str, config: dict[str, Any]) -> None:
    """Refuse a packed checkpoint whose format nobody can unpack.

    Args:
        name: the model, for the sentence.
        config: its config.json.
    """
    packed = config.get("quantization_config")
    if not packed:
        return
    if importlib.util.find_spec("workbench.compress.registry"):
        importlib.import_module("workbench.compress.registry")
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if not isinstance(packed, dict):
        raise UserError(f"quantization_config of {name} is a {type(packed).__name__}, not an object; copy it again.")
    if packed.get("load_in_4bit") or packed.get("load_in_8bit"):
        return
    method = packed.get("quant_method")
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise UserError(
            f"{name} is packed with quant_method {method!r}, which is not known here, so its weights would come out "
            f"random; known: {', '.join(sorted(map(str, AUTO_QUANTIZATION_CONFIG_MAPPING)))}."
        )
