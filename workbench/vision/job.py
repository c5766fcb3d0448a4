"""The job `edit` of the run store: one scene of the miniature, one sentence, a strip of edits over η and what the judge reads.

    RUN/pictures.safetensors   original and ideal (1, 3, 32, 32), edits (n, 3, 32, 32), all in −1 … 1; noisy (9, 3, 32, 32):
                               the original at the noise steps of `SHOWN`

The result holds, for every η, the factors that the judge reads in the edit and its scores; `judge` says what they mean. The
wanted scene is the original with the words of the prompt put in, so everything the prompt is silent about has to be kept.

Source: Chen et al. 2024 (arXiv 2408.03355).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError, check_whole, choose, with_defaults
from workbench.progress import Progress, part
from workbench.vision import need_diffusers
from workbench.vision.editing import ETAS, MINI_BATCH, MINI_RATE

if TYPE_CHECKING:
    import torch

    from workbench.runs import RunContext

FIRST = {"shape": "star", "colour": "red", "size": "large", "background": "sand"}
DEFAULTS: dict[str, Any] = {
    "scene": FIRST,
    "prompt": "a red star on grass",
    "etas": list(ETAS),
    "steps": 50,
    "rank": 16,
    "rate": MINI_RATE,
    "timesteps": "semantic",
    "guidance": 1.0,
    "painting_steps": 25,
    "seed": 0,
}
SHOWN = (50, 162, 275, 388, 500, 612, 725, 838, 950)  # noise steps at which the original is kept, to show the band
LIMITS = {"steps": (1, 500), "rank": (1, 64), "painting_steps": (2, 100), "seed": (0, 2**31)}


class Stopped(Exception):
    """Raised inside an edit when the user asked the run to stop."""


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Settings filled up with the defaults.

    Args:
        config: scene (factor → word; what is not named takes the first word of its factor), prompt, etas (0 … 1.5); of the
            fit steps, rank, rate, timesteps, seed; guidance and painting_steps of the painting.

    Raises:
        UserError: unknown settings or words, numbers out of range, a prompt that changes nothing, diffusers is missing.
    """
    from workbench.vision.fastedit import MODES

    full = with_defaults("An edit", config, DEFAULTS)
    check_whole(full, LIMITS)
    for name, low, high in (("rate", 1e-6, 1.0), ("guidance", 1.0, 20.0)):
        value = full[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}; it takes a number from {low:g} to {high:g}.")
    etas = full["etas"]
    if not isinstance(etas, list) or not 1 <= len(etas) <= 12:
        raise UserError(f"etas is {etas!r}; give a list of 1 to 12 numbers.")
    for eta in etas:
        if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not 0 <= eta <= 1.5:
            raise UserError(f"etas holds {eta!r}; each goes from 0 (the picture) to 1 (the sentence), at most 1.5.")
    choose("way to draw time steps", str(full["timesteps"]), MODES)
    changes(full["scene"], str(full["prompt"]))
    need_diffusers()
    return full


def changes(scene: dict[str, str], prompt: str) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Original and wanted factors (10,) and the names of those that differ.

    Raises:
        UserError: unknown words, or a prompt that says nothing new.
    """
    from workbench.vision.captions import factors_named
    from workbench.vision.scenes import scene as make
    from workbench.vision.scenes import words_of

    original = make(scene)
    was, named = words_of(original), factors_named(prompt)
    changed = tuple(name for name, word in named.items() if was[name] != word)
    if not changed:
        already = ", ".join(f"{n} is {w} already" for n, w in named.items()) or "it names no factor"
        raise UserError(f"The sentence changes nothing: {already}. Name another word, for example a background.")
    return original[0], make({**was, **named})[0], changed


def run(context: RunContext) -> dict[str, Any]:
    """Fit the scene, paint every η, let the judge read.

    Returns:
        {"changed", "was", "wanted", "etas": per η {"eta", "reads", "target", "kept", "harmonic", "distance"}, "band", "delta",
        "seconds", "trainable", "losses"}, or {"stopped": True} when it was asked to stop.
    """

    def told(done: float, total: float, text: str) -> None:
        if context.should_stop():
            raise Stopped
        context.progress(done, total, text)

    try:
        return edit(check(context.config), context.directory, told, context.log_metrics)
    except Stopped:
        return {"stopped": True}


def edit(config: dict[str, Any], folder: Path, progress: Progress, log: Any) -> dict[str, Any]:
    """The edit itself; `pictures.safetensors` goes to `folder`, the loss of every step to `log`."""
    from safetensors.torch import save_file

    from workbench.vision.fastedit import FastEdit
    from workbench.vision.judge import judge
    from workbench.vision.mini_diffusion import load_miniature, load_reader
    from workbench.vision.scenes import render, words_of

    progress(0.0, 1.0, "loading the miniature")
    original, wanted, changed = changes(config["scene"], config["prompt"])
    picture, ideal = render(original[None]), render(wanted[None])
    base, reader = load_miniature(), load_reader()
    fit = {name: config[name] for name in ("steps", "rank", "rate", "timesteps", "seed")}
    session = FastEdit(base).fit(picture, config["prompt"], batch=MINI_BATCH, progress=part(progress, 0.05, 0.6), **fit)
    for step, loss in enumerate(session.losses, 1):
        log(step=step, loss=loss)
    began = time.perf_counter()
    paint = {"guidance": config["guidance"], "seed": config["seed"], "steps": config["painting_steps"]}
    edits = session.sweep(config["etas"], progress=part(progress, 0.6, 0.98), **paint)
    painting = time.perf_counter() - began
    session.close()
    beside = folder / ".pictures.part"
    held = {"original": picture, "ideal": ideal, "edits": edits.contiguous(), "noisy": noisy(base, picture)}
    save_file(held, beside)
    os.replace(beside, folder / "pictures.safetensors")
    scores = judge(reader, edits, original, wanted, ideal[0], changed)
    keys = ("target", "kept", "harmonic", "distance")
    rows = [
        {"eta": eta, "reads": words_of(seen), **{key: score[key] for key in keys}}
        for eta, seen, score in zip(config["etas"], reader.read(edits), scores, strict=True)
    ]
    return {
        "changed": list(changed), "was": words_of(original), "wanted": words_of(wanted), "etas": rows,
        "band": list(session.band), "delta": session.delta, "trainable": session.trainable,
        "seconds": {"fitting": session.seconds, "painting": painting}, "losses": session.losses[-1:],
    }  # fmt: skip


def noisy(base: Any, picture: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The picture at every noise step of `SHOWN` (9, 3, 32, 32), the same noise in all."""
    import torch

    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    each = (len(SHOWN), *picture.shape[1:])
    return (
        base.scheduler.add_noise(picture.expand(each), noise.expand(each), torch.tensor(SHOWN))
        .clamp(-1, 1)
        .contiguous()
    )


# ---- what is drawn of a run


def pictures(directory: Path | str) -> tuple[torch.Tensor, list[str]]:
    """Original, edits and ideal of a run (n + 2, 3, 32, 32) with a word for each: what `_fastedit_figures.strip` takes."""
    import torch
    from safetensors.torch import load_file

    from workbench.runs.files import read_json

    directory = Path(directory)
    held = load_file(directory / "pictures.safetensors")
    etas = {**DEFAULTS, **(read_json(directory / "config.json") or {})}["etas"]
    return torch.cat([held["original"], held["edits"], held["ideal"]]), [
        "original",
        *(f"η {e:g}" for e in etas),
        "ideal",
    ]


def noise_steps(directory: Path | str, band: list[int]) -> tuple[torch.Tensor, list[str], list[bool]]:
    """The original growing noisier, the steps' numbers, and which of them lie in the band that was trained on."""
    from safetensors.torch import load_file

    held = load_file(Path(directory) / "pictures.safetensors")
    return held["noisy"], [str(step) for step in SHOWN], [band[0] <= step < band[1] for step in SHOWN]


def scene_pictures(scene: dict[str, str], prompt: str) -> tuple[torch.Tensor, list[str]]:
    """The scene that is given and, where the prompt can be read, the ideal edit, which the editor never sees."""
    import torch

    from workbench.vision.scenes import render
    from workbench.vision.scenes import scene as make

    try:
        original, wanted, _ = changes(scene, prompt)
    except UserError:
        return render(make(scene)), ["the scene"]
    return render(torch.stack([original, wanted])), ["the scene", "the ideal edit"]
