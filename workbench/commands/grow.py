"""`workbench grow`: a deeper or wider model from a trained one, compared with the small one at equal training FLOP."""

from __future__ import annotations

import json

import click

from workbench.commands.jobs import output, start


@click.command()
@click.argument("model", default="tiny-lm")
@click.option(
    "--operator", default="stack", show_default=True,
    help="stack (layers 0 1 0 1), split (0 0 1 1), zero (new layers start silent), width (all units), mlp (inner units).",
)  # fmt: skip
@click.option(
    "--factor", default=2, show_default=True, help="How many times the layers or units: 2 to 8. The paper's: 4."
)
@click.option("--noise", default=0.01, show_default=True, help="Moves copies of width and mlp apart, in standard deviations. "
              "0 keeps the function exactly, and the copies equal for ever.")  # fmt: skip
@click.option(
    "--data", default="moby-dick", show_default=True, help="Text to train both models on: bundled, or a file."
)
@click.option("--steps", default=60, show_default=True, help="Updates of the grown model; the small one gets more, for "
              "the same FLOP. 0: only grow.")  # fmt: skip
@click.option("--learning-rate", default=1e-3, show_default=True, help="Of both models. 3e-4 to 3e-3 for small ones.")
@click.option("--seed", default=0, show_default=True, help="Of the noise and the order of the text.")
@output
def grow(name, detach, as_json, **values) -> None:
    """Grow MODEL, then train it and the small one with the same FLOP: does the larger one pay?

    \b
    workbench grow tiny-lm --operator stack --factor 2
    workbench grow smollm2-135m --operator zero --steps 0
    """
    result = start("grow", values, detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1))
        return
    for arm, parameters in result["parameters"].items():
        words = f"{arm:6} {parameters:>12,} parameters".replace(",", "\u202f")
        if arm in result["end"]:
            losses = f"{result['start'][arm]:.3f} → {result['end'][arm]:.3f}"
            words += f", held-out loss {losses} in {result['steps'][arm]} steps"
        click.echo(words)
    click.echo(f"The model as it grew: {result['path']}")
