"""Peak of the tensor memory that a piece of code allocates, counted exactly and the same on CPU and GPU.

A dispatch mode sees every tensor an operator returns, in forward and backward, and keeps a weak reference to its
storage; the peak is the largest sum of bytes alive after any operator. Scratch space inside one operator is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Alive(TorchDispatchMode):
    def __init__(self, ignore: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.ignored = {tensor.untyped_storage()._cdata for tensor in ignore}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.ignored:
                    self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {key: held for key, held in self.storages.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


def peak_bytes(work: Callable[[], object], ignore: Iterable[torch.Tensor] = ()) -> int:
    """Largest number of bytes in tensors made by `work` that were alive at once.

    Args:
        work: called once.
        ignore: tensors that existed before and do not count, such as weights (of which operators return views).
    """
    with _Alive(ignore) as alive:
        work()
    return alive.peak
