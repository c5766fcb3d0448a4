"""The design table of the unified view: one row says what is added, from where, to what, and how."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.adapters._bottleneck import ACTIVATIONS
from workbench.errors import UserError, choose

FORMS = {  # form: (reads, changes, combines) that the design table allows
    "bottleneck": (("input", "output"), ("attention", "ffn"), ("add", "scaled")),
    "low_rank": (("input",), ("q", "v"), ("add", "scaled")),
    "prefix": (("input",), ("head",), ("gated",)),
    "multihead": (("input",), ("head",), ("add", "scaled")),
}


@dataclass(frozen=True)
class Delta:
    """One row of the design table.

    Args:
        form: `bottleneck`, `low_rank`, `prefix` or `multihead`.
        at: `attention`, `ffn`, `q`, `v` or `head`.
        size: width, rank or prefix length.
        read: `input` (parallel) or `output` (sequential).
        combine: `add`, `scaled` or `gated`.
        scale: s, for `scaled`.
        activation: f of the bottleneck.
        init: `lora` (up zero) or `bert` (N(0, 0.02²)).
        inner_norm: a layer norm of its own in front.
    """

    form: str
    at: str
    size: int
    read: str = "input"
    combine: str = "add"
    scale: float = 1.0
    activation: str = "relu"
    init: str = "lora"
    inner_norm: bool = False

    def __post_init__(self) -> None:
        choose("form", self.form, FORMS)
        choose("activation", self.activation, ACTIVATIONS)
        choose("init", self.init, ("lora", "bert"))
        for word, value, allowed in zip(
            ("read", "at", "combine"), (self.read, self.at, self.combine), FORMS[self.form], strict=True
        ):
            if value not in allowed:
                raise UserError(
                    f"{word}={value!r} does not go with form={self.form!r}: the design table has "
                    f"{' or '.join(allowed)} there."
                )
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise UserError(f"size={self.size!r} is not possible; use a whole number of at least 1.")
        if self.combine != "scaled" and self.scale != 1.0:
            raise UserError(f"scale={self.scale} needs combine='scaled'; {self.combine!r} has no scale.")


def designs(l: int, r: int, s: float) -> dict[str, list[Delta]]:  # noqa: E741 (the paper's letters)
    """The known methods as rows of the table.

    Args:
        l: prefix length.
        r: width or rank.
        s: scale.
    """
    sequential = {"read": "output", "init": "bert"}
    head = Delta("prefix", "head", l, combine="gated")
    scaled = Delta("bottleneck", "ffn", r, combine="scaled", scale=s)
    return {
        "houlsby": [Delta("bottleneck", at, r, **sequential) for at in ("attention", "ffn")],
        "pfeiffer": [Delta("bottleneck", "ffn", r, **sequential)],
        "sequential_attention": [Delta("bottleneck", "attention", r, **sequential)],
        "prefix": [head],
        "lora": [Delta("low_rank", at, r, combine="scaled", scale=s) for at in ("q", "v")],
        "parallel": [Delta("bottleneck", "ffn", r)],
        "parallel_attention": [Delta("bottleneck", "attention", r)],
        "multihead": [Delta("multihead", "head", l)],
        "scaled_parallel": [scaled],
        "mam": [head, scaled],
    }
