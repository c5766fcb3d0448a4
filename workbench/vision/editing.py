"""One edit from files to files: what `workbench edit` and the app's page call.

Everything the user typed is checked before a model is loaded: the prompt's words, the picture file, the checkpoint's folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.errors import UserError, choose
from workbench.progress import Progress, part, silent

ETAS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # the strip that shows what η does
MINI_RATE, MINI_BATCH = 1e-2, 2  # the miniature's own: chosen on requests that no page uses


def edit(
    image: Path | str | None, prompt: str, *, scene: str | None = None, model: str = "miniature",
    text_encoder: str | None = None, eta: float = 0.6, etas: Sequence[float] = (), steps: int = 50, rank: int = 16,
    rate: float | None = None, timesteps: str = "semantic", augment: str = "none", guidance: float = 1.0,
    painting_steps: int | None = None, seed: int = 0, lora: str | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Fit one picture and paint its edit.

    Args:
        image: picture file; with the miniature it must hold a scene. None when `scene` is given.
        prompt: the picture you want, in words.
        scene: words of a scene to draw and edit instead of a file.
        model: `miniature`, or the folder of an image-variation checkpoint.
        text_encoder: CLIP folder for words, when that folder has none.
        eta: how far to go from the picture (0) to the sentence (1).
        etas: more values for a strip.
        steps, rank, rate, timesteps, augment, seed: of the fit, see `FastEdit.fit`; rate None takes the base's own.
        guidance: see `fastedit.sample`.
        painting_steps: of the scheduler; None takes 25 for the miniature and 50 otherwise.
        lora: folder to save the adapter in.
        progress: called with done, total, text.

    Returns:
        original, edit (PIL images), strip (η → PIL image), seconds (fitting, painting), delta, band, trainable, losses, lora.

    Raises:
        UserError: bad words, picture, folder or numbers.
    """
    from workbench.vision import need_diffusers
    from workbench.vision.fastedit import MODES
    from workbench.vision.views import VIEWS

    choose("way to draw time steps", timesteps, MODES)
    choose("augmentation", augment, VIEWS)
    if (image is None) == (scene is None):
        raise UserError("Give a picture file or --scene WORDS, one of the two.")
    for name, value in (("eta", eta), *(("eta", e) for e in etas)):
        if not 0 <= value <= 1.5:
            raise UserError(f"{name} is {value}; give a number from 0 (the picture) to 1 (the sentence), at most 1.5.")
    if steps < 1 or rank < 1 or guidance < 1:
        raise UserError(f"steps {steps}, rank {rank}, guidance {guidance}: none of them can be below 1.")
    if not prompt.strip():
        raise UserError("The prompt is empty; describe the picture you want, for example: a red star on sand.")
    mini = model == "miniature"
    need_diffusers()
    base, picture = (_miniature if mini else _checkpoint)(image, prompt, scene, model, text_encoder)

    from workbench.vision.fastedit import FastEdit
    from workbench.vision.sheets import to_image

    rate = rate or (MINI_RATE if mini else 4e-4)
    session = FastEdit(base).fit(
        picture, prompt, steps=steps, rank=rank, rate=rate, timesteps=timesteps, augment=augment, seed=seed,
        batch=MINI_BATCH if mini else 1, progress=part(progress, 0, 0.75),
    )  # fmt: skip
    began, asked = time.perf_counter(), [eta, *etas]
    made = session.sweep(
        asked,
        guidance=guidance,
        seed=seed,
        steps=painting_steps or (25 if mini else 50),
        progress=part(progress, 0.75, 1),
    )
    painting = time.perf_counter() - began
    zoom = 8 if mini else 1
    images = [to_image(each, zoom) for each in made]
    saved = str(session.save_lora(lora)) if lora else None
    session.close()
    return {
        "original": to_image(picture, zoom), "edit": images[0], "strip": dict(zip(etas, images[1:], strict=True)),
        "seconds": {"fitting": session.seconds, "painting": painting}, "delta": session.delta, "band": session.band,
        "trainable": session.trainable, "losses": session.losses, "lora": saved, "pictures": made, "picture": picture,
    }  # fmt: skip


def _miniature(image: Any, prompt: str, scene: str | None, model: str, text_encoder: str | None) -> tuple[Any, Any]:
    from workbench.vision.captions import factors_named, split
    from workbench.vision.images import read_image
    from workbench.vision.mini_diffusion import load_miniature, load_reader
    from workbench.vision.recognise import as_scene
    from workbench.vision.scenes import render
    from workbench.vision.scenes import scene as make

    split(prompt)
    if scene is not None:
        picture = render(make(factors_named(scene)))
    else:
        picture = as_scene(read_image(image), load_reader(), Path(image).name)
    return load_miniature(), picture


def _checkpoint(image: Any, prompt: str, scene: str | None, model: str, text_encoder: str | None) -> tuple[Any, Any]:
    from workbench.vision.images import read_image, square, to_tensor
    from workbench.vision.real import check_folder, load_checkpoint

    if scene is not None:
        raise UserError("--scene draws a picture for the miniature; give a picture file to a real checkpoint.")
    found, opened = check_folder(model, text_encoder), read_image(image)
    return load_checkpoint(model, text_encoder), to_tensor(square(opened, found["side"]))
