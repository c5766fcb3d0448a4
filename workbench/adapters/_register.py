"""The one door through which a method of ours enters peft.

`peft.utils.register_peft_method` demands that the name is a member of the enum `PeftType`, which is closed. We add the
member the way the enum's own metaclass would have (checked on peft 0.21 and Python 3.11; the extra list that newer
Pythons keep for membership tests is filled where it exists), then register. When peft one day ships a method of the
same name, ours steps back with a plain sentence.
"""

from __future__ import annotations

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

from workbench.errors import UserError


def add_peft_type(name: str) -> PeftType:
    """The `PeftType` member called `name`, created when the enum does not have it.

    Args:
        name: the member in upper case; its value is the same string.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    hashable = getattr(PeftType, "_hashable_values_", None)
    if hashable is not None:
        hashable.append(name)
    type.__setattr__(PeftType, name, member)
    return member


def register(name: str, config_cls: type, model_cls: type, prefix: str) -> None:
    """Register a tuner under `name`; a second call with the same classes does nothing.

    Args:
        name: lower-case method name, as it will stand in adapter_config.json (in upper case).
        config_cls: the `PeftConfig` dataclass.
        model_cls: the `BaseTuner`.
        prefix: prefix of every parameter the tuner adds.

    Raises:
        UserError: when peft, or someone else, already has a method of that name.
    """
    known: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING
    if name.upper() in known:
        if known[name.upper()] is model_cls and PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()] is config_cls:
            return
        owner = known[name.upper()].__module__
        raise UserError(f"peft already has a method called {name!r} (from {owner}); use that one, or rename ours.")
    add_peft_type(name.upper())
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=prefix)
