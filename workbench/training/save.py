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

    from workbench.models.quiet import quiet

    with quiet():
        if isinstance(model, PeftModel):
            # False: embeddings are never resized here, and "auto" would ask the hub about the base model.
            with whole_ranks(model):
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
