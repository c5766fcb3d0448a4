"""Pieces of an experiment that are kept, so that a run that was killed continues with the piece it was in.

A page wraps each piece (one arm, one cell of a sweep) in `cell(key, compute)`. Outside `keeping` that is a plain call;
inside, as `reproduce` runs it, the result is stored under its key and a later run takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_KEEPER: ContextVar[tuple[dict[str, Any], Callable[[], None]] | None] = ContextVar("keeper", default=None)


def cell(key: str, compute: Callable[[], Any]) -> Any:
    """The kept result of a piece, or the computed one, which is then kept.

    Args:
        key: names the piece among all pieces of one seed.
        compute: makes the result; it must be plain JSON data.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        return compute()
    kept, save = keeper
    if key not in kept:
        kept[key] = compute()
        save()
    return kept[key]


@contextmanager
def keeping(kept: dict[str, Any], save: Callable[[], None]) -> Iterator[None]:
    """Keep the pieces computed inside the block in `kept` and call `save` after each."""
    token = _KEEPER.set((kept, save))
    try:
        yield
    finally:
        _KEEPER.reset(token)
