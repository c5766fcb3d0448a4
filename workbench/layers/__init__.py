"""Network layers, one file per technique; importing the room imports none of them.

`LAYERS` names them for `workbench methods`: name → (module:Class, what it is).
"""

from __future__ import annotations

LAYERS = {
    f"dcls-{'transpose-' if transposed else ''}{n}d": (
        f"workbench.layers.dcls:Dcls{'Transpose' if transposed else ''}{n}d",
        f"{'transposed ' if transposed else ''}convolution in {n} d whose few weights learn where they stand",
    )
    for transposed in (False, True)
    for n in (1, 2, 3)
}
