"""Where an adapter goes: the settings that every one of our adapters shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig


@dataclass
class Placement(PeftConfig):
    """Which layers are adapted, and what is trained beside them; the words are peft's."""

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Layers to adapt: names, a regular expression, or all-linear."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Only these layer numbers."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules trained in full and saved."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
