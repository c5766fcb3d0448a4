"""The two errors a user sees: bad input (exit code 2) and a job that failed (exit code 1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(ValueError):
    """Bad input: one plain sentence that says what is wrong, where, and what to do. The command line exits with 2."""


class JobError(RuntimeError):
    """A job that could not finish (diverged, out of memory, disk full): one plain sentence. Exit code 1."""


def choose(kind: str, name: str, options: Iterable[str]) -> str:
    """Return `name` when it is one of `options`, else refuse and name the nearest ones.

    Args:
        kind: what is being chosen, in the user's words ("model", "method", "law").
        name: what the user typed.
        options: the names that exist.

    Raises:
        UserError: with up to three similar names, or the whole list when nothing is similar.
    """
    known = sorted(options)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {', '.join(known)}."
    raise UserError(f"There is no {kind} called {name!r}; {hint}")


def with_defaults(what: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of those that were left out.

    Args:
        what: has the settings, in the user's words ("export", "An edit").
        config: settings that were given.
        defaults: every setting that exists, with its default.

    Raises:
        UserError: for settings that do not exist, with those that do.
    """
    unknown = sorted(set(config) - set(defaults))
    if unknown:
        raise UserError(f"{what} has no setting {', '.join(unknown)}; it has {', '.join(defaults)}.")
    return {**defaults, **config}


def check_whole(values: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> None:
    """Refuse settings that are no whole number within their limits.

    Args:
        values: name → value.
        limits: name → (least, greatest) of those that are looked at.

    Raises:
        UserError: beginning with the setting's name.
    """
    for name, (low, high) in limits.items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}; it takes a whole number from {low} to {high}.")
