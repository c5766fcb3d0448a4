"""Weights of the distance network: the shipped ones, and folders of one's own (`model.safetensors` with `training.json`)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from workbench import machine
from workbench.errors import UserError
from workbench.geometry.losf import LoSFNet
from workbench.paths import assets

SHIPPED = "losf-light"


def save_losf(net: LoSFNet, folder: Path, record: dict[str, Any]) -> None:
    """Write `model.safetensors` and `training.json` (the record, the network's settings and this machine)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    told = {
        "settings": net.settings | {"attention": net.attention, "denoise": net.denoise},
        "parameters": sum(p.numel() for p in net.parameters()),
        **record,
        **machine.describe(),
    }
    (folder / "training.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_losf(name: str | Path = SHIPPED) -> LoSFNet:
    """A trained network in evaluation mode, its weights frozen.

    Args:
        name: `losf-light`, or a folder that `python -m workbench.geometry.train --out FOLDER` wrote.

    Raises:
        UserError: there is no such folder, or a file is missing or does not fit.
    """
    folder = assets() / "models" / SHIPPED if str(name) == SHIPPED else Path(name)
    for file in ("model.safetensors", "training.json"):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder} holds no {file}; name {SHIPPED}, or train with: python -m workbench.geometry.train --out {folder}"
            )
    return _load(folder.resolve(), (folder / "model.safetensors").stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load(folder: Path, stamp: int) -> LoSFNet:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = json.loads((folder / "training.json").read_text(encoding="utf-8"))["settings"]
    net = LoSFNet(**settings)
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{folder / 'model.safetensors'} does not fit its training.json ({first}); train it again."
        ) from error
    return net.eval().requires_grad_(False)
