"""Names of compressed variants: `rtn-4`, `gptq-3`, `nf4`, `int8-mixed`; `base` is the uncompressed model."""

from __future__ import annotations

import dataclasses

from workbench.errors import choose

BASE = "base"


@dataclasses.dataclass(frozen=True)
class Variant:
    """`gptq-4`: a method at a number of bits; "base" is the uncompressed model."""

    name: str
    method: str
    bits: int

    @property
    def seeded(self) -> bool:
        """Whether the calibration sample decides it."""
        from workbench.compress.quantizers import NEED_TEXT

        return self.method in NEED_TEXT


def parse(name: str) -> Variant:
    """Read `rtn-4`, `nf4`, `int8-mixed`, `awq` (then at its usual bits) or `base`.

    Raises:
        UserError: for a method or a width that does not exist.
    """
    from workbench.compress.quantizers import METHODS, check_arguments, usual_bits

    if name == BASE:
        return Variant(BASE, BASE, 16)
    if name in METHODS:
        bits = usual_bits(name)
        plain = name[-1].isdigit() or name == "int8-mixed"
        return Variant(name if plain else f"{name}-{bits}", name, bits)
    method, _, bits = name.rpartition("-")
    if not method or not bits.isdigit():
        choose("variant", name, [BASE, *METHODS])
    check_arguments(choose("quantization method", method, METHODS), int(bits), 64)
    return Variant(name, method, int(bits))
