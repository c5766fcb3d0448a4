"""What every fine-tuning method costs, beside peft's LoRA with as many trained numbers, on the same model and batch.

    python tests/bench/bench_adapters.py                 every method on tiny-lm; writes assets/adapter_costs.json
    python tests/bench/bench_adapters.py nola dora       these; prints only

For each method: the size argument that comes nearest to the count of LoRA (r = 8 on query and value) is searched on the
skeleton, then both are attached to twins of the model. Steps (forward, backward, AdamW) of the two alternate, so that both
see the same machine at the same moment; the ratio is that of the medians. Also per method:

    saved       bytes of the tensors that autograd keeps from forward to backward, weights not counted, exact
    peak        growth of the process's largest resident memory over one step (Linux; the kernel's own mark, reset before)
    stored      bytes of the saved adapter
    unmerged    forward pass without gradients as a ratio to LoRA's unmerged one; merged: as a ratio to the bare model's
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from workbench import machine
from workbench.errors import UserError
from workbench.models import load_model
from workbench.paths import assets
from workbench.training import list_methods
from workbench.training.attach import apply_method, counts, quiet, skeleton
from workbench.training.methods import find_method
from workbench.training.save import save_weights, weight_bytes

MODEL, BATCH, WINDOW, REPEATS, WARM_UP, BOUND = "tiny-lm", 4, 64, 8, 2, 1.15
REFERENCE = ("lora", {"r": 8})
SIZES = {  # method → (argument that sets its count, values that are tried in order)
    "lora": ("r", range(1, 65)),
    "dora": ("r", range(1, 33)),
    "rslora": ("r", range(1, 33)),
    "adalora": ("init_r", range(1, 33)),
    "loha": ("r", range(1, 17)),
    "lokr": ("r", range(1, 129)),
    "hira": ("r", range(1, 33)),
    "delora": ("r", range(1, 33)),
    "deft": ("r", range(1, 33)),
    "gralora": ("r", range(2, 33, 2)),
    "lily": ("r", range(1, 65)),
    "nola": ("num_basis", range(64, 1537, 64)),
    "wb-randlora": ("r", range(2, 97)),
    "randlora": ("r", range(2, 97)),
    "oft": ("oft_block_size", (2, 4, 6, 8, 12, 16, 24, 32)),
    "boft": ("boft_block_size", (2, 4, 6, 8, 12, 16)),
    "hra": ("r", range(2, 65, 2)),
    "fourierft": ("n_frequency", range(500, 9001, 250)),
    "waveft": ("n_frequency", range(500, 9001, 250)),
    "shira": ("r", range(1, 33)),
    "spiel": ("density", [i / 200 for i in range(1, 60)]),
    "miss": ("r", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)),
    "compacter": ("width", range(4, 257, 4)),
    "dept": ("r", range(1, 65)),
    "prompt": ("num_virtual_tokens", range(8, 129, 8)),
    "prefix": ("num_virtual_tokens", range(1, 33)),
    "said": ("d", range(500, 30001, 500)),
    "unified": ("r", range(1, 65)),
    "c3a": ("block_size", (2, 4, 8, 16, 24, 32, 48, 64, 96, 192)),
    "psoft": ("r", range(8, 97)),
    "peanut": ("r", range(1, 33)),
    "adaption-prompt": ("adapter_len", range(4, 65, 4)),
    "p-tuning": ("encoder_hidden_size", (8, 16, 32, 48, 64)),
}
NEEDED = {"trainable-tokens": {"token_indices": list(range(100, 228))}}


def sized(name: str, wanted: int) -> tuple[dict, int]:
    """Arguments of a method whose count comes nearest to `wanted`, and that count; its defaults where nothing sets it.

    Counts grow or fall with the size all the way, so halving the range finds it in a few skeletons.
    """
    method, config = find_method(name), _config()
    argument, values = SIZES.get(name, (None, (None,)))
    tried: dict[int, tuple[dict, int]] = {}

    def at(i: int) -> int:
        args = {**NEEDED.get(name, {}), **({argument: values[i]} if argument else {})}
        try:
            tried[i] = args, counts(apply_method(method, args, skeleton(config, "causal-lm"), 20))[0]
        except (UserError, NotImplementedError, RuntimeError):
            return -1
        return tried[i][1]

    low, high = 0, len(values) - 1
    first, last = at(low), at(high)
    while last < 0 and high > low:  # sizes that this model is too small for
        high -= 1
        last = at(high)
    while high - low > 1:
        middle = (low + high) // 2
        above = at(middle) > wanted
        low, high = (low, middle) if above == (last >= first) else (middle, high)
    return min(tried.values(), key=lambda found: abs(found[1] - wanted), default=(dict(NEEDED.get(name, {})), 0))


def _config():
    from transformers import AutoConfig

    from workbench.models import resolve

    return AutoConfig.from_pretrained(resolve(MODEL).path)


def twin(base, name: str, args: dict):
    """The method on a copy of the model, ready to train."""
    torch.manual_seed(0)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return apply_method(find_method(name), args, copy.deepcopy(base), 20).train()


class Steps:
    """Training steps of one model on one batch."""

    def __init__(self, model, ids: torch.Tensor) -> None:
        self.model, self.ids = model, ids
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def one(self) -> float:
        begun = time.perf_counter()
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - begun

    def saved_bytes(self) -> int:
        """Bytes of the tensors kept for backward, each storage once, the model's own left out."""
        own = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        kept: dict[int, int] = {}
        alive = []

        def keep(tensor):
            sparse = tensor.layout is torch.sparse_coo
            for part in (tensor._indices(), tensor._values()) if sparse else (tensor,):
                storage = part.untyped_storage()
                if storage.data_ptr() not in own:
                    kept[storage.data_ptr()] = storage.nbytes()
                    alive.append(part)  # so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.model(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        self.optimizer.zero_grad()
        return sum(kept.values())

    def peak_growth(self) -> int | None:
        """Growth of the process's peak resident memory over one step; None where the kernel keeps no such mark."""
        status, marks = Path("/proc/self/status"), Path("/proc/self/clear_refs")
        if not status.is_file():
            return None
        gc.collect()
        _give_back()
        try:
            marks.write_text("5")
        except OSError:
            return None
        before = _field(status, "VmRSS")
        self.one()
        return max(0, _field(status, "VmHWM") - before)


def _give_back() -> None:
    """Ask the C library to return freed memory, or the next step would reuse it and no growth would show."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def alternate(first, second, repeats: int = REPEATS) -> float:
    """Median seconds of `second` over median seconds of `first`, called in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + WARM_UP):
        for work, kept in zip((first, second), taken, strict=True):
            begun = time.perf_counter()
            work()
            if turn >= WARM_UP:
                kept.append(time.perf_counter() - begun)
    return statistics.median(taken[1]) / statistics.median(taken[0])


def forward(model, ids: torch.Tensor):
    """A forward pass without gradients, to be called."""

    def work() -> None:
        with torch.no_grad():
            model(input_ids=ids)

    return work


def measure(name: str, base, reference: Steps, wanted: int, ids: torch.Tensor) -> dict:
    """Every number of one method."""
    args, _ = sized(name, wanted)
    steps = Steps(twin(base, name, args), ids)
    row = {
        "name": name,
        "args": {k: v for k, v in args.items() if k != "token_indices"},
        "trainable": counts(steps.model)[0],
        "step": alternate(reference.one, steps.one),
    }
    row |= {"saved_bytes": steps.saved_bytes(), "peak_bytes": steps.peak_growth()}
    with tempfile.TemporaryDirectory() as folder:
        save_weights(steps.model, Path(folder))
        row["stored_bytes"] = weight_bytes(Path(folder))
    steps.model.eval(), reference.model.eval()
    row["unmerged"] = alternate(forward(reference.model, ids), forward(steps.model, ids))
    reference.model.train()
    row["merged"] = None
    if hasattr(steps.model, "merge_and_unload"):
        try:
            merged = steps.model.merge_and_unload()
            row["merged"] = alternate(forward(base, ids), forward(merged, ids), REPEATS // 2)
        except (ValueError, NotImplementedError, AttributeError, TypeError):
            row["merged"] = None
    return row


def line(row: dict) -> str:
    """One row of the table, sizes as ratios to LoRA's."""
    peak = f"{row['peak_bytes'] / 1e6:6.1f} MB" if row["peak_bytes"] is not None else "      – "
    merged = f"{row['merged']:6.2f}" if row["merged"] else "     –"
    over = " " if row["step"] <= BOUND else "*"
    return (
        f"{row['name']:17}{row['trainable']:8,} {row['step']:7.2f}{over} {row['saved_bytes'] / 1e6:8.1f} MB {peak} "
        f"{row['stored_bytes'] / 1e3:8.0f} kB {row['unmerged']:9.2f} {merged}"
    )


def record(rows: list[dict], failed: dict[str, str], wanted: int) -> None:
    """Write what is measured so far into assets/adapter_costs.json."""
    place = machine.describe()
    made = {key: place[key] for key in ("machine", "python", "torch", "transformers", "peft", "date")}
    reference = {
        "name": REFERENCE[0],
        **REFERENCE[1],
        "trainable": wanted,
        "model": MODEL,
        "batch": BATCH,
        "window": WINDOW,
    }
    found = {
        "made": {"command": "python tests/bench/bench_adapters.py", "threads": torch.get_num_threads(), **made},
        "reference": reference,
        "bound": BOUND,
        "rows": rows,
        "failed": failed,
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (assets() / "adapter_costs.json").write_text(text, encoding="utf-8")


def main(names: list[str]) -> None:
    """Measure, print, and with no names write assets/adapter_costs.json, after each method anew."""
    torch.manual_seed(0)
    base = load_model(MODEL)
    base.config.use_cache = False
    ids = torch.randint(2, 2048, (BATCH, WINDOW))
    reference = Steps(twin(base, *REFERENCE), ids)
    wanted = counts(reference.model)[0]
    print(f"{MODEL}, batch {BATCH} × {WINDOW}, {wanted:,} trained numbers; ratios to peft's LoRA; * above {BOUND}")
    print("method            trained    step       saved       peak      stored  unmerged merged")
    rows, failed = [], {}
    for name in names or ["lora", *(m["name"] for m in list_methods() if m["name"] != "lora")]:
        try:
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(measure(name, base, reference, wanted, ids))
            print(line(rows[-1]), flush=True)
        except (UserError, RuntimeError, ValueError, NotImplementedError) as error:
            failed[name] = " ".join(str(error).split())[:160]
            print(f"{name:17}cannot be measured here: {failed[name]}", flush=True)
        gc.collect()
        if not names:
            record(rows, failed, wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
