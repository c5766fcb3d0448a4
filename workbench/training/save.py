"""Write trained weights, and the small record that lets `load_tuned` put them back on the right model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

    from workbench.training.prepare import Prepared

RECORD = "workbench.json"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model-*.safetensors")
_BESIDE = ("adapter_config.json", "config.json", "generation_config.json", "model.safetensors.index.json")


def save_weights(model: nn.Module, directory: Path) -> None:
    """Adapter (peft) or whole model, as safetensors.

    Args:
        model: a `PeftModel` or a `PreTrainedModel`.
        directory: created when missing.
    """
    from peft import PeftModel

    from workbench.models.quiet import quiet

    with quiet():
        if isinstance(model, PeftModel):
            # False: embeddings are never resized here, and "auto" would ask the hub about the base model.
            # No card: peft's template takes 0.2 s a checkpoint; `keep` writes a shorter one, once.
            with whole_ranks(model), without_card(model):
                model.save_pretrained(str(directory), save_embedding_layers=False)
            return
        caches, model.config.use_cache = model.config.use_cache, True  # off while training only
        model.save_pretrained(str(directory))
        model.config.use_cache = caches


@contextmanager
def whole_ranks(model: PeftModel) -> Iterator[None]:
    """Keep AdaLoRA's tensors at the rank they are trained in: peft would cut the ranks it gave up out of the file, and
    neither the optimizer's moments nor the model that goes on training would fit such a file. (They are zero: the
    function is the same.)"""
    config = model.peft_config[model.active_adapter]
    pattern = getattr(config, "rank_pattern", None)
    if config.peft_type == "ADALORA":
        config.rank_pattern = {}
    try:
        yield
    finally:
        if config.peft_type == "ADALORA":
            config.rank_pattern = pattern


@contextmanager
def without_card(model: PeftModel) -> Iterator[None]:
    """Let `save_pretrained` write no README.md."""
    model.create_or_update_model_card = lambda *_: None
    try:
        yield
    finally:
        del model.create_or_update_model_card


def weight_files(directory: Path) -> list[Path]:
    """The files of a saved model or adapter that hold weights."""
    return sorted(path for pattern in WEIGHTS for path in directory.glob(pattern))


def weight_bytes(directory: Path) -> int:
    """Their size in bytes."""
    return sum(path.stat().st_size for path in weight_files(directory))


def keep(checkpoint: Path, target: Path, prepared: Prepared, base: Path | None) -> None:
    """Make `target` the folder that is loaded afterwards, from the weights of a checkpoint.

    Args:
        checkpoint: a checkpoint folder.
        target: replaced as a whole.
        prepared: tokenizer and settings.
        base: packed copy of the quantized base model, moved into `target`; None when it can be made again.
    """
    beside = target.with_name(target.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for path in [*weight_files(checkpoint), *(checkpoint / name for name in _BESIDE)]:
        if path.is_file():
            shutil.copy2(path, beside / path.name)
    if base is not None:
        shutil.copytree(base, beside / "base")
    prepared.tokenizer.save_pretrained(str(beside))
    (beside / RECORD).write_text(json.dumps(record(prepared), indent=1, ensure_ascii=False), encoding="utf-8")
    (beside / "README.md").write_text(card(record(prepared)), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def record(prepared: Prepared) -> dict[str, Any]:
    """What `load_tuned` must know."""
    config, ref = prepared.config, prepared.ref
    return {
        "model": str(Path(ref.path).resolve()) if ref.kind == "folder" else ref.name,
        "task": prepared.task,
        "labels": list(prepared.labels),
        "method": prepared.method.name,
        "method_args": config.method_args,
        "quantize": config.quantize,
        "data": config.data,
        "steps": config.steps,
        "seed": config.seed,
    }


def card(facts: dict[str, Any]) -> str:
    """The README.md of a tuned folder: what it is and how it is loaded."""
    packed = f", quantized to {facts['quantize']}" if facts["quantize"] else ""
    return (
        f"---\nbase_model: {facts['model']}\nlibrary_name: {'transformers' if whole(facts) else 'peft'}\n---\n"
        f"# {facts['method']} on {facts['model']}{packed}\n\n"
        f"Trained for {facts['steps']} steps on {facts['data']}, seed {facts['seed']}. Load it with\n\n"
        "```python\nfrom workbench.training import load_tuned\nmodel, tokenizer = load_tuned(folder)\n```\n\n"
        + (
            ""
            if whole(facts)
            else "peft loads it too; for methods of workbench call `workbench.adapters.register_all()` first.\n"
        )
    )


def whole(facts: dict[str, Any]) -> bool:
    """Whether the folder holds a whole model instead of an adapter."""
    return facts["method"] in ("full", "last-n", "bitfit")
