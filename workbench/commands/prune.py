"""`workbench prune`: zeros in a model's weights, and the few numbers that bring its quality back."""

from __future__ import annotations

import json

import click

from workbench.commands.jobs import output, start
from workbench.progress import span


@click.command()
@click.argument("model")
@click.option("--method", default="wanda", show_default=True, help="magnitude, wanda, sparsegpt or random.")
@click.option(
    "--sparsity", type=float, default=0.5, show_default=True, help="Share of every layer's weights to remove."
)
@click.option(
    "--pattern",
    default="unstructured",
    show_default=True,
    help="unstructured, 2:4 or 4:8 (so many zeros in every 4 or 8 inputs; --sparsity has no say then).",
)
@click.option(
    "--scope",
    default=None,
    help="What competes: matrix (a whole layer) or row (one output). Default: row for wanda, matrix for the others.",
)
@click.option(
    "--retrain",
    default="",
    metavar="PARTS",
    help="Retrain afterwards, zeros kept: biases, norms, head and one of masklora, scalelora, loraprune, with commas "
    "between; or full.",
)
@click.option("--steps", default=100, show_default=True, type=click.IntRange(1), help="Retraining steps.")
@click.option("--batch-size", default=4, show_default=True, type=click.IntRange(1), help="Windows per retraining step.")
@click.option("--learning-rate", default=5e-4, show_default=True, type=float, help="Peak rate of retraining.")
@click.option("--rank", default=16, show_default=True, type=click.IntRange(1), help="Rank of the low-rank changes.")
@click.option("--data", default="sotu", show_default=True, help="Text for wanda, sparsegpt and retraining.")
@click.option("--samples", default=32, show_default=True, type=click.IntRange(1), help="Calibration windows.")
@click.option("--window", default=256, show_default=True, type=click.IntRange(8), help="Tokens per window.")
@click.option("--seed", default=0, show_default=True, help="Seed of every choice by chance.")
@click.option("--dry-run", is_flag=True, help="Forecast bytes, memory and trained numbers, then stop.")
@output
def prune(model, retrain, dry_run, name, detach, as_json, **values) -> None:
    """Remove weights of MODEL; the folder it writes loads like any other model.

    Zeros alone save neither disk nor time: a dense file keeps its size. They pay in formats and kernels that skip them
    (2:4 on recent NVIDIA cards).

    \b
    workbench prune smollm2-135m --method wanda --sparsity 0.5
    workbench prune tiny-lm --method magnitude --pattern 2:4 --retrain norms,masklora
    """
    config = {"model": model, "retrain": [word.strip() for word in retrain.split(",") if word.strip()], **values}
    if dry_run:
        from workbench.compress.prune_job import forecast

        click.echo(json.dumps(forecast(config), indent=1))
        return
    result = start("prune", config, detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    if result.get("stopped"):
        click.echo("Stopped; nothing was written.")
        return
    worst = max(result["layers"], key=lambda layer: layer["error"])
    click.echo(
        f"{result['method']}: {result['sparsity']:.1%} of the layers' weights are zero, "
        f"{result['bytes'] / 1e6:.3g} MB as a dense file, {span(result['seconds'])}"
    )
    click.echo(f"largest layer error {worst['error']:.3g} ({worst['of']}) in {worst['name']}")
    if "retrained" in result:
        after = result["retrained"]
        click.echo(
            f"retrained {', '.join(after['train'])}: {after['trainable']:,} numbers, loss {after['losses'][0]:.3f} → "
            f"{after['losses'][-1]:.3f}".replace(",", "\u202f", 1)
        )
    for note in result["notes"]:
        click.echo(note)
    click.echo(f"saved to {result['path']}\nCompare it: workbench compare {model} {result['path']}")
