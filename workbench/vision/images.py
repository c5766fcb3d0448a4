"""Read a picture file of any size, mode and rotation into RGB; refuse what is not a picture in one sentence.

    grey, palette, black-and-white → RGB        alpha → over white        CMYK, LAB, YCbCr → RGB
    16-bit and float → scaled to 8 bits         EXIF rotation → applied   several frames → the first

Source: the list of bad input of our own bench; EXIF is CIPA DC-008 (orientation tag 0x0112).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

SMALLEST, LARGEST = 8, 80_000_000  # pixels of a side; pixels in all


def read_image(path: Path | str) -> Image.Image:
    """One picture as RGB, upright.

    Args:
        path: any file that Pillow reads.

    Raises:
        UserError: no such file, not a picture, cut off, too small or too large.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no picture at {path}; give the path of a PNG, JPEG, WebP or TIFF file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name} is empty (0 bytes); save the picture again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                if file.width * file.height > LARGEST:
                    raise Image.DecompressionBombError
                file.load()
                image = ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{path.name} has more than {LARGEST // 10**6} million pixels; make it smaller first."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path.name} is not a picture that can be read; give a PNG, JPEG, WebP or TIFF file."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path.name} is damaged or cut off ({error}); save the picture again.") from error
    if min(image.size) < SMALLEST:
        raise UserError(f"{path.name} is {image.width} × {image.height} pixels; give at least {SMALLEST} on each side.")
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as RGB; what is transparent becomes white.

    Args:
        image: a loaded picture.

    Raises:
        UserError: a float picture that holds values that are not numbers.
    """
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers of 16 bits or floats → 0 … 255: floats up to 1 are shares, integers above 255 are shares of 65535."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError("The picture holds values that are not numbers; save it again as 8 or 16 bits.")
    top = values.max()
    full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    return (values.clip(0) / full * 255).round().astype(np.uint8)


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture at a given side length (bicubic).

    Args:
        image: RGB.
        side: pixels.
    """
    from PIL import Image

    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB → (1, 3, H, W) in −1 … 1."""
    import torch

    values = torch.from_numpy(np.asarray(image, dtype=np.float32).copy())
    return values.permute(2, 0, 1)[None] / 127.5 - 1


def to_scene(image: Image.Image) -> torch.Tensor:
    """A picture as (1, 3, 32, 32): exact when it is an enlarged scene, averaged otherwise.

    Args:
        image: RGB, square or not (the middle square is taken).
    """
    from PIL import Image

    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    small = image.crop((left, top, left + edge, top + edge)).resize((32, 32), Image.Resampling.BOX)
    return to_tensor(small)
