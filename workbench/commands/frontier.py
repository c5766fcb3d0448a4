"""`workbench frontier`: what every way of compressing a model costs, and what it gives."""

from __future__ import annotations

import json

import click

from workbench.progress import ProgressLine, span


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--variants",
    default=None,
    metavar="NAMES",
    help="Methods and bits with commas between: rtn-4, gptq-3, awq-4, efficientqat-2, nf4, fp4, int8-mixed. "
    "Default: twelve of them.",
)
@click.option("--group-size", default=64, show_default=True, type=click.IntRange(2), help="Weights that share a scale.")
@click.option("--calibration", default="sotu", show_default=True, help="Text for methods that look at activations.")
@click.option("--samples", default=16, show_default=True, type=click.IntRange(1), help="Calibration windows.")
@click.option("--window", default=256, show_default=True, type=click.IntRange(8), help="Tokens per calibration window.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Calibration samples per method.")
@click.option("--data", default="moby-dick", show_default=True, help="Text to measure on; the test part of its split.")
@click.option("--tokens", default=12_000, show_default=True, type=click.IntRange(64), help="Held-out tokens at most.")
@click.option("--eval-window", default=128, show_default=True, type=click.IntRange(2), help="Tokens seen at once.")
@click.option("--items", default=48, show_default=True, type=click.IntRange(2), help="Passage-choice questions.")
@click.option(
    "--seed", default=0, show_default=True, help="Seed of split and questions; first of the calibration seeds."
)
@click.option("--dry-run", is_flag=True, help="Predict bytes, seconds and memory of every variant, then stop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def frontier(model, variants, dry_run, as_json, **values) -> None:
    """Compress MODEL in many ways and put size, quality, speed and cost of all into one table and report.html.

    Interrupt it at any time and start it again: finished rows are not made twice.

    \b
    workbench frontier tiny-lm --variants rtn-4,gptq-4,awq-4
    workbench frontier smollm2-135m --seeds 3 --dry-run
    """
    from workbench.compress import frontier as job

    config = {"model": model, **values}
    if variants is not None:
        config["variants"] = [name.strip() for name in variants.split(",") if name.strip()]
    if dry_run:
        plan = job.forecast(config)
        if as_json:
            click.echo(json.dumps(plan, indent=1))
            return
        from workbench.figures import print_table

        print_table([{k: v for k, v in row.items() if k != "runs"} for row in plan["rows"]])
        click.echo(f"Making them takes about {span(plan['seconds'])}, measuring {span(plan['measuring_seconds'])}.")
        return
    result = job.start_or_continue(config, progress=ProgressLine())
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    if result.get("stopped"):
        click.echo("Stopped; the same command goes on from here.")
        return
    from workbench.compress.frontier_report import SHOWN
    from workbench.figures import print_table

    print_table([{key: row[key] for key in SHOWN if key in row} for row in result["rows"]])
    click.echo(f"Tied with the best: {', '.join(result['tied_best'])}\nReport: {result['report']}")
