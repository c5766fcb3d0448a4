"""What differs: a run's settings against the defaults, and the settings of several runs against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.runs.run import Run


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`; lists and empty objects stay values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):  # True == 1 in Python, not in a settings table
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings that are not the default.

    Args:
        config: settings of a run, nested or flat.
        defaults: the same keys with their default values.

    Returns:
        dotted key → `{"value": …, "default": …}`; `default` is absent where the defaults do not know the key, `value`
        where the settings leave it out. A key that the settings leave out altogether counts as default.
    """
    ours, theirs = flatten(config), flatten(defaults)
    found = {}
    for key, value in ours.items():
        if key not in theirs:
            found[key] = {"value": value}
        elif not _same(value, theirs[key]):
            found[key] = {"value": value, "default": theirs[key]}
    return found


def compare_configs(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """Only the settings in which `runs` differ: dotted key → {run id: value}; a run without the key is left out.

    `job` is compared too, under that name, unless all runs are of one job.
    """
    runs = list(runs)
    configs = {run.id: flatten(run.config) for run in runs}
    if len({run.job for run in runs}) > 1:
        configs = {run.id: {"job": run.job, **configs[run.id]} for run in runs}
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    found = {}
    for key in keys:
        values = {name: config[key] for name, config in configs.items() if key in config}
        first = next(iter(values.values()))
        if len(values) < len(configs) or not all(_same(first, value) for value in values.values()):
            found[key] = values
    return found
