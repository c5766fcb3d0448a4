"""Write a model in one format and prove it: refuse, write beside, read back, compare, rename.

    report = export_model(model, tokenizer, "out", to="gguf-q4_1", text=windows)

The model is used up: it ends as the dense model that the file stands for. Everything that can be wrong with the input is
checked before the first byte is written.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.errors import JobError, choose
from workbench.export import check as guard
from workbench.export import destination as places
from workbench.export import formats
from workbench.export.facts import outline
from workbench.export.size import check_options, file_bytes
from workbench.progress import Progress, part, silent

REPORT = "export_report.json"


@dataclass
class ExportReport:
    """What was written and what its second reader found.

    Attributes:
        to: the format.
        path: the folder.
        file: the file that an engine opens (the folder itself, or the .gguf in it).
        bytes: of all files.
        check: see `check.Check`.
        seconds: wall time.
        engines: who runs the format.
        notes: what a reader should know.
        settings: number type and embedding format.
    """

    to: str
    path: str
    file: str
    bytes: int = 0
    check: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    engines: str = ""
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def export_model(
    model: Any,
    tokenizer: Any,
    destination: str | Path,
    *,
    to: str,
    text: list[Tensor],
    name: str = "model",
    dtype: str | None = None,
    embeddings: str | None = None,
    max_loss_change: float = guard.LOSS_BOUND,
    extra: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Export a model.

    Args:
        model: a causal language model: dense, packed, or a `PeftModel` whose adapter is merged first. Used up.
        tokenizer: its tokenizer.
        destination: a folder that does not exist yet.
        to: a name from `formats.FORMATS`.
        text: windows of token ids, each (1, T), of real text to compare logits on.
        name: of the model; names the .gguf file.
        dtype: number type of what is not a code: "float32", "bfloat16", "float16" (see `size.check_options`).
        embeddings: gguf: "f32", "f16" or "q8_0" for embedding and head.
        max_loss_change: refuse a file whose loss on the text is so many nats a token higher than the model's.
        extra: further keys for the report that lies beside the weights.
        progress: called as layers are written and read.

    Returns:
        The report, also stored as export_report.json.

    Raises:
        UserError: a format that cannot hold the model (with those that can), a destination that exists, an adapter that
            merging would lose.
        JobError: the disk is too small, or the second reader does not confirm the file.
    """
    from workbench.export import gguf_tokenizer, merge, reread

    begin = time.perf_counter()
    choose("export format", to, formats.FORMATS)
    place = places.check_free(Path(destination))
    if to.startswith("gguf"):
        gguf_tokenizer.first_cut(tokenizer)
    model.eval()
    before = guard.logits(model, text)
    notes = []
    if merge.carries_adapter(model):
        progress(0, 1, "merging the adapter")
        model = merge.fold(model, text, before)
        notes.append("The adapter is merged into the weights; the merged model answers as the unmerged one did.")
    model = model.to("cpu")
    shape = outline(model)
    chosen = formats.check(to, shape)
    dtype, embeddings = check_options(to, shape, dtype, embeddings)
    places.check_space(place, file_bytes(to, shape, dtype, embeddings))
    notes += remarks(to, shape)
    report = ExportReport(to, str(place), str(place), engines=chosen.engines, notes=notes)
    report.settings = {"dtype": dtype, "embeddings": embeddings, "max_loss_change": max_loss_change}
    with places.draft(place) as draft:
        written = _write(model, tokenizer, draft, to, name, dtype, embeddings, part(progress, 0, 0.6))
        progress(0.6, 1, "reading it back")
        intended = guard.logits(model, text)
        reader, again = _read_back(written, chosen)
        found = guard.logits(again, text)
        same = None
        if chosen.family == "gguf":
            progress(0.9, 1, "comparing tokenizers")
            same = reread.same_tokens(written, tokenizer, [tokenizer.decode(window[0]) for window in text])
        result = guard.compare(reader, found, intended, before, text, same)
        guard.demand(result, to, max_loss_change)
        report.file = str(place / written.relative_to(draft))
        report.check = result.to_dict()
        report.bytes = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
        report.seconds = time.perf_counter() - begin
        stored = json.dumps(report.to_dict() | (extra or {}), indent=1, ensure_ascii=False)
        (draft / REPORT).write_text(stored + "\n", encoding="utf-8")
    progress(1, 1, "done")
    return report


def _read_back(written: Path, chosen: formats.Format) -> tuple[str, Any]:
    """The second reader and its model; whatever it stumbles over means that the file is not good."""
    from workbench.export import reread

    try:
        return reread.read(written, chosen.family)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise JobError(
            f"The {chosen.name} file could not be read back ({reason}), so it was not kept; export to safetensors instead."
        ) from error


def _write(
    model: Any, tokenizer: Any, draft: Path, to: str, name: str, dtype: str, embeddings: str | None, progress: Progress
) -> Path:
    """Write the files of one format; the path that its reader opens."""
    import functools

    from workbench.compress.targets import dense_names
    from workbench.export import compressed, folder, gguf_file, gptq

    if to.startswith("gguf"):
        file = draft / f"{name}-{gguf_file.KINDS[to].upper()}.gguf"
        gguf_file.write(model, tokenizer, file, to=to, embeddings=embeddings, name=name, progress=progress)
        return file
    convert, quantization = None, None
    if to == "compressed-tensors":
        convert = compressed.convert
        quantization = compressed.quantization(model.config.quantization_config, dense_names(model))
    elif to.startswith("gptq"):
        version = 2 if to == "gptq-v2" else 1
        convert = functools.partial(gptq.convert, version=version)
        quantization = gptq.quantization(model.config.quantization_config, version)
        stored = json.dumps(quantization, indent=2)
        (draft / "quantize_config.json").write_text(stored + "\n", encoding="utf-8")  # where older loaders look
    folder.write(model, tokenizer, draft, dtype=dtype, convert=convert, quantization=quantization, progress=progress)
    return draft


def remarks(to: str, model: Any) -> list[str]:
    """What a user of the file should know."""
    bits = {layer.bits for layer in model.packed if layer.kind == "int"}
    found = []
    if any(layer.part.startswith("outlier") for layer in model.packed):
        found.append("The packed model also rounds activations to 8 bits; the exported one does not.")
    if to == "compressed-tensors" and bits & {2, 3}:
        found.append(f"vLLM has kernels for 4 and 8 bits; {min(bits)}-bit codes are read by transformers.")
    if to.startswith("gguf-q") and model.packed:
        kept = [layer for layer in model.packed if layer.kind == "int" and not layer.part]
        if len(kept) == len(model.packed):
            found.append("The codes are kept as they are; embedding and head are rounded to their own format.")
        else:
            found.append("Codes beyond an even grid have no place in gguf: they are rounded a second time, to 8 bits.")
        if to != "gguf-q8_0" and bits & {2, 3}:
            found.append(f"{min(bits)}-bit codes take 4 bits each in {to}.")
    return found
