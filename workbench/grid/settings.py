"""Settings of a grid as plain data, and the sentence that says what is wrong with them. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from workbench.errors import UserError

DEFAULTS: dict[str, Any] = {
    "models": ["minilm-l6"],
    "tasks": ["sotu-century"],
    "methods": ["lora", "ia3", "prompt"],
    "bases": ["none"],
    "budget": "params=0.1%",
    "seeds": 3,
    "first_seed": 1,
    "trials": 2,
    "search": "log",
    "span": 10.0,
    "rates": {},
    "space": {},
    "method_args": {},
    "outside": False,
    "reference": "lora",
    "steps": 40,
    "batch_size": 8,
    "window": 64,
    "limit": None,
    "eval_rows": 96,
    "test_share": 0.1,
    "test_rows": 256,
    "test_tokens": 2000,
    "general": "",
    "precision": "fp32",
    "split_seed": 0,
    "workers": 1,
}
ALWAYS = ("base", "full")
TOLERANCE = 0.02  # of the budget
_KINDS = ("params", "bytes", "tokens", "seconds", "none")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}
_WHOLE = {
    "seeds": 1, "first_seed": 0, "trials": 1, "steps": 1, "batch_size": 1, "window": 2, "eval_rows": 2, "test_rows": 2,
    "test_tokens": 64, "split_seed": 0, "workers": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        kind: params (trained numbers without a classification head), bytes (of the adapter's file), tokens or seconds
            (of training), none (each method's own defaults, the same steps).
        value: how much; a share of the model's parameters where `share`.
        share: whether value is a share.
        like: a method setting whose size is the budget, such as ("lora", {"r": 2}).
    """

    kind: str
    value: float = 0.0
    share: bool = False
    like: tuple[str, dict[str, Any]] | None = None

    @property
    def sized(self) -> bool:
        """Whether the budget decides the size of a method (else its steps)."""
        return self.kind in ("params", "bytes")


def budget(text: str) -> Budget:
    """`params=18432`, `params=0.3%`, `params=lora:r=2`, `bytes=100k`, `tokens=20k`, `seconds=60` or `none`.

    Raises:
        UserError: anything else.
    """
    kind, _, value = str(text).partition("=")
    if kind == "none" and not value:
        return Budget("none")
    like = re.fullmatch(r"([a-z0-9-]+):(\w+)=(\d+)", value)
    if kind in ("params", "bytes") and like:
        return Budget(kind, like=(like[1], {like[2]: int(like[3])}))
    number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMG%]?)", value)
    if (
        kind not in _KINDS
        or kind == "none"
        or not number
        or float(number[1]) <= 0
        or (number[2] == "%" and kind != "params")
    ):
        raise UserError(
            f"The budget {text!r} cannot be read; write params=20000, params=0.3%, params=lora:r=2, bytes=100k, "
            "tokens=50k, seconds=60 or none."
        )
    return Budget(kind, float(number[1]) * _UNITS[number[2]], share=number[2] == "%")


def check(config: dict[str, Any]) -> dict[str, Any]:
    """The settings with defaults filled in; names are settled, nothing is loaded.

    Raises:
        UserError: every problem in one sentence.
    """
    wrong = [f"there is no setting {key!r}" for key in config if key not in DEFAULTS]
    found = {**DEFAULTS, **config}
    for key, least in _WHOLE.items():
        value = found[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            wrong.append(f"{key} is {value!r}, it must be a whole number of at least {least}")
    for key in ("models", "tasks", "methods", "bases"):
        value = found[key]
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            wrong.append(f"{key} must be a list of names, not {value!r}")
        elif len(set(value)) < len(value):
            wrong.append(f"{key} names something twice: {', '.join(value)}")
    if found["search"] not in ("log", "random"):
        wrong.append(f"search is {found['search']!r}, it must be log or random")
    if not isinstance(found["span"], int | float) or found["span"] < 1:
        wrong.append(f"span is {found['span']!r}, it must be a number of at least 1")
    share = found["test_share"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 0.8:
        wrong.append(f"test_share is {share!r}, it must be a number between 0 and 0.8")
    if found["space"] and found["search"] != "random":
        wrong.append("further arguments are tuned with search=random only")
    if found["precision"] not in ("fp32", "bf16"):
        wrong.append(f"precision is {found['precision']!r}, it must be fp32 or bf16")
    if wrong:
        raise UserError(f"This grid cannot run: {'; '.join(wrong)}. Known settings: {', '.join(DEFAULTS)}.")
    budget(found["budget"])
    from workbench.training.methods import find_method

    named = [find_method(name).name for name in found["methods"] if name not in ALWAYS]
    found["methods"] = [*dict.fromkeys(named)]
    for name, rate in found["rates"].items():
        if name not in (*named, *ALWAYS) or isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
            raise UserError(
                f"rates gives {name} the learning rate {rate!r}; name a compared method and a number above 0."
            )
    for key in ("space", "method_args"):
        for name, values in found[key].items():
            if find_method(name).name not in (*named, "full"):
                raise UserError(f"{key} names {name}, which is not among the methods: {', '.join(named)}.")
            find_method(name).check(values)
    if found["reference"] not in (*named, *ALWAYS):
        found["reference"] = named[0] if named else "full"
    return found


def seeds(config: dict[str, Any]) -> list[int]:
    """The seeds of the judged cells; trials use seed 0 less `first_seed` … never one of these."""
    return [config["first_seed"] + index for index in range(config["seeds"])]


def trial_seed(config: dict[str, Any]) -> int:
    """The seed of every tuning trial: none of the judged ones."""
    return config["first_seed"] + config["seeds"] + 1000
