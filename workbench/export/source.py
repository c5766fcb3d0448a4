"""What the user named: a model, a tuned run, an adapter; on dense weights or on codes. Read from JSON files, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        name: what the user gave.
        label: short name for files.
        weights: name or folder that `load_model` reads: the model itself, or the base under an adapter.
        adapter: folder of the adapter, or None.
        tuned: folder with a tuned model's record (adapter or not), or None.
        packing: how the weights are quantized as they lie (settings of wb_int or wb_float), or None.
        float_base: the dense model under an adapter, where it is known.
        data: what the run was tuned on, or None.
        seed: of its split.
    """

    name: str
    label: str
    weights: str
    adapter: Path | None = None
    tuned: Path | None = None
    packing: dict[str, Any] | None = None
    float_base: str | None = None
    data: str | None = None
    seed: int = 0


def find(name: str) -> Source:
    """Look at what lies under a name.

    Args:
        name: bundled name, folder, .gguf file, hub id, run folder, tuned or adapter folder.

    Raises:
        UserError: there is no such model, or it does not continue text.
    """
    from workbench.models import load_config, resolve
    from workbench.training.load import RECORD

    folder = Path(name).expanduser()
    if (folder / "tuned").is_dir():
        folder = folder / "tuned"
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / RECORD).is_file():
        resolve(name)
        return Source(name, _label(name), name, packing=_packing(load_config(name)))
    record = _record(folder)
    if record.get("task", "causal-lm") != "causal-lm":
        raise UserError(
            f"{name} classifies texts; only models that continue text are exported. Its folder loads as it is."
        )
    facts = {"tuned": folder, "data": record.get("data"), "seed": record.get("seed") or 0}
    if not adapter:
        return Source(name, _label(name), str(folder), packing=_packing(load_config(folder)), **facts)
    own = record["model"]
    under = str(folder / "base") if (folder / "base").is_dir() else own
    resolve(under)
    found = _packing(load_config(under)) or _spec(record.get("quantize"), own)
    dense = own if _packing(load_config(own)) is None else None
    return Source(name, _label(name), under, adapter=folder, packing=found, float_base=dense, **facts)


def _record(folder: Path) -> dict[str, Any]:
    """workbench.json, or what peft's configuration says of an adapter made elsewhere."""
    from workbench.models.checks import read_json
    from workbench.training.load import RECORD

    if (folder / RECORD).is_file():
        return read_json(folder / RECORD)
    config = read_json(folder / "adapter_config.json")
    if not config.get("base_model_name_or_path"):
        raise UserError(
            f"{folder / 'adapter_config.json'} does not name its base model; set base_model_name_or_path there."
        )
    if config.get("task_type") not in ("CAUSAL_LM", None):
        raise UserError(
            f"The adapter in {folder} is for {config['task_type']}; only models that continue text are exported."
        )
    return {"model": config["base_model_name_or_path"]}


def _packing(config: Any) -> dict[str, Any] | None:
    """Settings of our packing in a configuration; None for dense weights.

    Raises:
        UserError: weights packed by somebody else.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    settings = dict(found) if isinstance(found, dict) else found.to_dict()
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    if method == "gguf":
        return None  # unpacked while it loads
    if method not in ("wb_int", "wb_float"):
        raise UserError(
            f"The weights are packed as {method}, whose codes are not read here; export the unquantized model."
        )
    return settings


def _spec(spec: str | None, model: str) -> dict[str, Any] | None:
    """Settings behind a short name ("nf4", "rtn-4") with which a base is quantized when its adapter is loaded."""
    if not spec:
        return None
    method, _, bits = spec.partition("-")
    if method == "nf4":
        return {"quant_method": "wb_float", "kind": "nf4", "block_size": 64}
    from workbench.export.facts import outline, skeleton

    widths = [layer.width for layer in outline(skeleton(model)).layers]
    group = next((g for g in (64, 32, 16) if all(width % g == 0 for width in widths)), -1)
    return {"quant_method": "wb_int", "bits": int(bits or 4), "group_size": group, "method": method}


def _label(name: str) -> str:
    """A name for files: the last part, with the run's name before it where the last part says nothing."""
    path = Path(name.rstrip("/"))
    last = path.stem if path.suffix == ".gguf" else path.name
    if last in ("tuned", "packed", "pruned", "exported", "base") and path.parent.name:
        last = f"{path.parent.name}-{last}"
    cleaned = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in last).strip("-.")
    return cleaned or "model"
