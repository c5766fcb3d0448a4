"""`workbench edit`: change one picture by one sentence (FastEdit)."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("image", required=False, metavar="[IMAGE]")
@click.option("--prompt", required=True, help="The picture you want, in words.")
@click.option("--scene", default=None, metavar="WORDS", help="Draw a scene for the miniature instead of reading IMAGE.")
@click.option(
    "--model",
    default="miniature",
    show_default=True,
    metavar="NAME|FOLDER",
    help="The shipped miniature (scenes only), or the folder of a diffusers image-variation checkpoint.",
)
@click.option("--text-encoder", default=None, metavar="FOLDER", help="CLIP folder, when the checkpoint has no words.")
@click.option(
    "--eta", default=0.6, show_default=True, help="From the picture (0) to the sentence (1). Usual: 0.5 to 0.9."
)
@click.option("--strip", is_flag=True, help="Also write a strip over η beside the edit.")
@click.option("--steps", default=50, show_default=True, type=click.IntRange(1), help="LoRA steps. Cost grows with it.")
@click.option("--rank", default=16, show_default=True, type=click.IntRange(1), help="Rank of LoRA.")
@click.option("--rate", default=None, type=float, help="Learning rate (default: 4e-4, the miniature has its own).")
@click.option(
    "--timesteps",
    default="semantic",
    show_default=True,
    help="Noise steps to train on: semantic (by distance of picture and words), uniform, fixed, reverse.",
)
@click.option(
    "--augment", default="none", show_default=True, help="Train on views too: none, flip, flips, crop, rotate."
)
@click.option("--guidance", default=1.0, show_default=True, help="1 is fastest; more follows the words more strictly.")
@click.option("--seed", default=0, show_default=True, help="Seed of the fit and of the painted noise.")
@click.option("--lora", default=None, metavar="FOLDER", help="Save the adapter; diffusers loads it.")
@click.option("-o", "--out", default="edit.png", show_default=True, metavar="FILE.png", help="Where the edit goes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def edit(image, prompt, scene, out, strip, as_json, **how) -> None:
    """Change one picture by one sentence: 50 steps of LoRA, then a walk towards the words.

    \b
    workbench edit --scene "a red star on sand" --prompt "a red star with a sun"
    workbench edit photo.jpg --prompt "a dog that sits" --model FOLDER
    """
    from workbench.errors import UserError
    from workbench.progress import ProgressLine, span
    from workbench.vision import editing

    target = Path(out)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--out {out} has no picture ending; write for example edit.png.")
    if not target.parent.is_dir():
        raise UserError(f"There is no folder {target.parent}; make it first or choose another --out.")
    etas = editing.ETAS if strip else ()
    result = editing.edit(image, prompt, scene=scene, etas=etas, progress=ProgressLine(), **how)
    result["edit"].save(target)
    told = {"edit": str(target), "lora": result["lora"]}
    if scene is not None:
        told["original"] = str(target.with_name(f"{target.stem}-original{target.suffix}"))
        result["original"].save(told["original"])
    if strip:
        from workbench.vision.sheets import beside

        told["strip"] = str(target.with_name(f"{target.stem}-strip{target.suffix}"))
        beside([result["original"], *result["strip"].values()]).save(told["strip"])
        told["etas"] = ["original", *result["strip"]]
    told |= {key: result[key] for key in ("seconds", "delta", "band", "trainable")}
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    for name in ("edit", "original", "strip", "lora"):
        if told.get(name):
            click.echo(f"{name:10} {told[name]}")
    first, last = result["band"]
    click.echo(
        f"{'fitted':10} {span(result['seconds']['fitting'])}, {result['trainable']:,} numbers, noise steps {first} to {last}"
        f" (distance of picture and words {result['delta']:.2f})".replace(",", "\u202f", 1)
        + f"\n{'painted':10} {span(result['seconds']['painting'])}"
    )
