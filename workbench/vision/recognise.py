"""Is this picture a scene? The miniature paints scenes only, and says so instead of ruining a photograph.

The judge reads all factors, the scene is drawn again from them at 27 small shifts, and the nearest drawing is compared with
the picture. A scene comes back nearly equal (root mean square difference below 0.2, also when the miniature painted it); a
photograph does not.

Source: our own; `tests/vision/test_recognise.py` measures both sides.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from workbench.errors import UserError
from workbench.vision.judge import Reader
from workbench.vision.scenes import render

if TYPE_CHECKING:
    from PIL import Image

LIMIT = 0.3  # root mean square difference; pictures run from −1 to 1


def distance_to_scene(picture: torch.Tensor, reader: Reader) -> tuple[float, torch.Tensor]:
    """How far a picture is from the nearest drawing of what the judge sees in it.

    Args:
        picture: (1, 3, 32, 32).
        reader: the judge.

    Returns:
        Root mean square difference, and the factors (1, 10).
    """
    factors = reader.read(picture)
    jitter = torch.tensor(list(itertools.product((-0.67, 0.0, 0.67), repeat=3)))
    drawn = render(factors.expand(len(jitter), -1), jitter)
    return float((drawn - picture).square().mean((1, 2, 3)).sqrt().min()), factors


def as_scene(image: Image.Image, reader: Reader, name: str = "This picture") -> torch.Tensor:
    """A picture file's content as a scene (1, 3, 32, 32).

    Args:
        image: RGB of any size.
        reader: the judge.
        name: how the message calls the picture.

    Raises:
        UserError: when it is a photograph or anything else that is not a scene.
    """
    from workbench.vision.images import to_scene

    picture = to_scene(image)
    far, _ = distance_to_scene(picture, reader)
    if far > LIMIT:
        raise UserError(
            f"{name} is not one of the miniature's scenes (difference {far:.2f}, allowed {LIMIT}). The miniature paints scenes "
            "of 32 × 32 pixels and nothing else; photographs need a real image-variation checkpoint: --model FOLDER. "
            "To draw a scene: --scene 'a red star on sand'."
        )
    return picture
