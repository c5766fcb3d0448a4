"""A GGUF file, read once into an ordinary float32 model, and the clean copy of SmolLM2 that the cache keeps.

transformers unpacks GGUF blocks when it loads them (x = d·q + m for Q4_1, blocks of 32), which takes 20 s for
SmolLM2-135M, and marks the result as quantized, so that `.float()` and training refuse it. Here the unpacked tensors are
copied into a plain model of the same configuration: equal logits, bit for bit. float32 is kept on disk (540 MB),
because d·q + m does not fit bfloat16.

The tokenizer inside the file lacks one rule: SmolLM2 cuts digits apart *before* it looks at spaces (llama.cpp,
LLAMA_VOCAB_PRE_TYPE_SMOLLM), so "  12" is ["  ", "1", "2"]. transformers' converter leaves that out; it is put back.

Two processes may convert at once: each writes a folder of its own and renames it into place; the later one finds
the place taken, and drops its copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from workbench.errors import JobError
from workbench.models.quiet import quiet
from workbench.progress import Progress, silent

CONTEXT = 8192  # tokens; the file's own llama.context_length


def read_gguf_tokenizer(path: Path) -> Any:
    """The tokenizer inside a GGUF file, with the chat template and special tokens stored there."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    if tokenizer_rule(path) == "smollm":
        split_digits_first(tokenizer)
    return tokenizer


def read_gguf(path: Path) -> Any:
    """Unpack the weights of a GGUF file.

    Args:
        path: the file.

    Returns:
        A model in eval mode with plain float32 weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the bar of this load has no switch
        unpacked = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
        )
    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = ""
    model = type(unpacked)(config)
    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = unpacked.generation_config
    return model.eval()


def tokenizer_rule(path: Path) -> str:
    """Name of the first cut of text that a GGUF file asks for (`tokenizer.ggml.pre`), "" where it names none."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field else ""


def split_digits_first(tokenizer: Any) -> None:
    """Give a tokenizer SmolLM2's first cut: every digit on its own, before the byte-level cut at spaces."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def convert(source: Path, target: Path, progress: Progress = silent) -> Path:
    """Write the clean copy of SmolLM2: safetensors, config, tokenizer with chat template, and where it came from.

    Args:
        source: the GGUF file.
        target: folder to make; complete or absent at every moment.
        progress: told what is being done.

    Returns:
        `target`.

    Raises:
        JobError: the disk is full or the cache cannot be written.
    """
    progress(0, 3, "unpacking SmolLM2 (once, about 25 s)")
    model, tokenizer = read_gguf(source), read_gguf_tokenizer(source)
    tokenizer.model_max_length = CONTEXT
    progress(2, 3, "writing the clean copy")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise JobError(f"{target.parent} cannot be written ({error}); set WORKBENCH_HOME to another folder.") from error
    try:
        with quiet():
            model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        record = {"source": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "dtype": "float32"}
        (draft / "provenance.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        try:
            os.rename(draft, target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    except OSError as error:
        raise JobError(
            f"The copy of SmolLM2 could not be written to {target} ({error}); free 600 MB or set WORKBENCH_HOME."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    progress(3, 3, "SmolLM2 is ready")
    return target
