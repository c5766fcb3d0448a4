"""Where a model is, and whether it can be loaded: a bundled name, a local folder, a .gguf file, or a hub id.

`resolve` reads names, config files and file headers, no weights, so that a job can refuse bad input before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import UserError, choose
from workbench.models import catalogue, hub
from workbench.models.checks import PICKLES, check_folder, pickle_sentence


@dataclass(frozen=True)
class ModelRef:
    """A checked model. `path` is its folder or .gguf file; None for a hub model that is still to be downloaded.

    For `smollm2-135m` the folder may not exist before the first load (or `get`), which converts the weights.
    """

    name: str
    path: Path | None
    kind: Literal["bundled", "folder", "hub"]
    architecture: str


def resolve(name: str | Path) -> ModelRef:
    """Find a model and check that it can be loaded, without reading its weights.

    Args:
        name: bundled name, folder, .gguf file, or hub id (`owner/name`).

    Raises:
        UserError: unknown name (with the nearest ones), not a model folder, pickle weights, unknown packing, offline.
    """
    text = str(name).strip()
    if not text:
        raise UserError(
            f"The model name is empty; give one of {', '.join(catalogue.names())}, a folder, or owner/name."
        )
    if text in catalogue.names():
        if not catalogue.at_hand(text):
            catalogue.ready(text)  # raises the sentence with the command
        return ModelRef(text, catalogue.folder(text), "bundled", catalogue.architecture(text))
    path = Path(text).expanduser()
    if path.is_dir():
        return ModelRef(text, path, "folder", check_folder(path).architecture)
    if path.is_file():
        return ModelRef(text, _check_file(path), "folder", "GGUF")
    if path.is_absolute() or text.startswith((".", "~")) or path.suffix.lower() in (*PICKLES, ".gguf", ".safetensors"):
        raise UserError(f"There is no folder or file {text}; check the path.")
    if not hub.HUB_ID.fullmatch(text):
        if "/" in text or "\\" in text:
            raise UserError(f"There is no folder {text}, and a hub id has the form owner/name; check the path.")
        choose("model", text, catalogue.names())
    found = hub.cached(text)
    if found:
        return ModelRef(text, found, "hub", check_folder(found).architecture)
    hub.ask(text)
    return ModelRef(text, None, "hub", "unknown")


def _check_file(path: Path) -> Path:
    if path.suffix.lower() in PICKLES:
        raise pickle_sentence(str(path), [path.name])
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix.lower() != ".gguf" or magic != b"GGUF":
        raise UserError(f"{path} is not a model; give the folder that holds config.json and model.safetensors.")
    return path


def local(name: str | Path) -> Path:
    """Checked folder (or .gguf file) on this machine, converted or downloaded where needed."""
    ref = resolve(name)
    if ref.kind == "bundled":
        return catalogue.ready(ref.name)
    return ref.path or hub.download(ref.name)
