"""Speed and memory, each with words for what was measured.

- `speed`: prefill (a prompt read at once) and decode (tokens written one by one with the KV cache), batch 1, after a
  warm-up, in alternating repeats; the median, and every repeat. Compare within one run only: machines are shared.
- `PeakMemory`: the highest resident memory of this process between enter and exit, sampled, and on CUDA the allocator's own
  peak. Memory that earlier work has left behind counts as start, so `added_bytes` is the part to compare.
- `weight_bytes`: bytes of all tensors a model keeps, packed buffers included, shared ones once.
- `disk_bytes`: bytes of the weight files in a folder.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = (".safetensors", ".gguf")
SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Speed:
    """Tokens per second.

    Attributes:
        prefill_tps, decode_tps: medians over the repeats.
        prefill, decode: every repeat, in order.
        prompt_tokens, new_tokens, batch_size: what one repeat did.
        dtype, device, threads: how; dtype names what the weights are stored in.
    """

    prefill_tps: float
    decode_tps: float
    prefill: list[float]
    decode: list[float]
    prompt_tokens: int
    new_tokens: int
    batch_size: int
    dtype: str
    device: str
    threads: int

    def sentence(self) -> str:
        """What was measured, in one line."""
        return (
            f"Median of {len(self.prefill)} repeats on {self.device} with {self.threads} threads, batch {self.batch_size}, "
            f"weights in {self.dtype}: {self.prompt_tokens} tokens read at once, then {self.new_tokens} written one by one."
        )


def speed(model: nn.Module, tokenizer: Any, prompt_tokens: int = 128, new_tokens: int = 16, repeats: int = 3) -> Speed:
    """Measure how fast `model` reads and writes.

    Args:
        model: a causal language model with a KV cache.
        tokenizer: its own; only its number of tokens is used, the prompt is the same for every model of that size.
        prompt_tokens: tokens read at once.
        new_tokens: tokens written, each the most likely one, end tokens ignored.
        repeats: how often; the median is taken.

    Raises:
        UserError: a count below 1, or more tokens than the model can read.
    """
    import torch

    from workbench.evaluation.nll import device_of, evaluating, name_of

    for what, value in (("prompt_tokens", prompt_tokens), ("new_tokens", new_tokens), ("repeats", repeats)):
        if value < 1:
            raise UserError(f"{what} is {value}; a speed needs 1 or more.")
    most = getattr(model.config, "max_position_embeddings", None)
    if most and prompt_tokens + new_tokens > most:
        raise UserError(
            f"{prompt_tokens} + {new_tokens} tokens are more than the {most} that {name_of(model)} can read."
        )
    device = device_of(model)
    chance = torch.Generator().manual_seed(0)
    rows = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    ids = torch.randint(rows, (1, prompt_tokens), generator=chance).to(device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    prefill, decode = [], []
    with evaluating(model):
        _once(model, ids, min(2, new_tokens), wait)
        for _ in range(repeats):
            read, written = _once(model, ids, new_tokens, wait)
            prefill.append(prompt_tokens / read)
            decode.append(new_tokens / written)
    return Speed(
        statistics.median(prefill), statistics.median(decode), prefill, decode, prompt_tokens, new_tokens, 1,
        stored_as(model), str(device), torch.get_num_threads(),
    )  # fmt: skip


def _once(model: nn.Module, ids: torch.Tensor, new_tokens: int, wait: Callable[[], None]) -> tuple[float, float]:
    """Seconds to read `ids` and to write `new_tokens` after them. The first new token comes from reading."""
    wait()
    start = time.perf_counter()
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    wait()
    middle = time.perf_counter()
    for _ in range(new_tokens):
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    wait()
    return middle - start, time.perf_counter() - middle


def stored_as(model: nn.Module) -> str:
    """Storage types that hold at least 1 % of the model's bytes, largest first: "float32", "uint8 + float32"."""
    share: dict[str, int] = {}
    for tensor in _tensors(model):
        kind = str(tensor.dtype).removeprefix("torch.")
        share[kind] = share.get(kind, 0) + tensor.numel() * tensor.element_size()
    total = sum(share.values())
    return (
        " + ".join(kind for kind, size in sorted(share.items(), key=lambda x: -x[1]) if size * 100 >= total) or "none"
    )


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor a model keeps, each storage address once: parameters, buffers, plain attributes of its modules."""
    import torch

    seen: set[Any] = set()
    waiting = [*model.parameters(), *model.buffers()]
    waiting += [value for m in model.modules() for value in vars(m).values() if isinstance(value, torch.Tensor)]
    while waiting:
        tensor = waiting.pop(0)
        if hasattr(type(tensor), "__tensor_flatten__"):  # wrappers of packed tensors
            waiting += [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            continue
        address = id(tensor) if tensor.device.type == "meta" else (tensor.device, tensor.data_ptr())
        if tensor.numel() and address not in seen:
            seen.add(address)
            yield tensor


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the tensors a model keeps: weights, embeddings, packed buffers and scales; tied tensors count once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(model))


def disk_bytes(folder: str | Path) -> int:
    """Bytes of the weight files (.safetensors, .gguf) directly in `folder`; tokenizer and settings are not counted.

    Raises:
        UserError: no such folder, or no weight file in it.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix in WEIGHTS:
        return folder.stat().st_size
    files = [path for path in folder.iterdir() if path.suffix in WEIGHTS] if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no weight file ({' or '.join(WEIGHTS)}); name the folder of a saved model.")
    return sum(path.stat().st_size for path in files)


class PeakMemory:
    """`with PeakMemory() as meter: …`, then read the meter.

    Attributes:
        start_bytes, peak_bytes, added_bytes: resident memory of this process at enter, at most, and the difference.
        bytes: the one number to report, `cuda_bytes` with CUDA, else `peak_bytes`.
        cuda_bytes, cuda_reserved_bytes: peak of tensors and of the pool on CUDA; 0 without CUDA.
        seconds: between enter and exit.
        samples: looks taken. A peak shorter than 10 ms can slip between two of them.
    """

    def __init__(self) -> None:
        self.start_bytes = self.peak_bytes = self.cuda_bytes = self.cuda_reserved_bytes = self.samples = 0
        self.seconds = 0.0
        self._cuda: Any = None

    @property
    def bytes(self) -> int:
        """The one number to report: tensors on CUDA where there is a device, else resident memory."""
        return self.cuda_bytes if self._cuda else self.peak_bytes

    @property
    def added_bytes(self) -> int:
        return self.peak_bytes - self.start_bytes

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process, self._done = psutil.Process(), threading.Event()
        self.start_bytes = self.peak_bytes = self._process.memory_info().rss
        self._cuda = _cuda()
        if self._cuda:
            self._cuda.synchronize()
            self._cuda.reset_peak_memory_stats()
        self._begun = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._look()
        self._done.set()
        self._thread.join()
        self.seconds = time.perf_counter() - self._begun
        if self._cuda:
            self.cuda_bytes = self._cuda.max_memory_allocated()
            self.cuda_reserved_bytes = self._cuda.max_memory_reserved()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
        self.samples += 1

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def sentence(self) -> str:
        """What was measured, in one line."""
        text = (
            f"Resident memory of the whole process, sampled {self.samples} times: {self.peak_bytes / 1e6:.0f} MB at most, "
            f"{self.added_bytes / 1e6:.0f} MB more than before."
        )
        if self._cuda:
            text += (
                f" On CUDA {self.cuda_bytes / 1e6:.0f} MB of tensors, {self.cuda_reserved_bytes / 1e6:.0f} MB reserved."
            )
        return text


def _cuda() -> Any:
    """torch.cuda when this process already uses torch and has a device; else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
