"""`workbench fit`: a scaling law from a CSV of training runs; `workbench sweep`: our own runs to fit."""

from __future__ import annotations

import json

import click

from workbench.commands.options import pairs


@click.command()
@click.argument("data", metavar="DATA.csv")
@click.option(
    "--law",
    default="chinchilla",
    show_default=True,
    help="A law (workbench methods --kind law), or auto: the one that predicts the largest runs best.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=COLUMN",
    help="Where the guess is wrong, for example --column N=params --column loss=final_ppl.",
)
@click.option(
    "--objective",
    type=click.Choice(["huber", "squared", "quantile"]),
    default="huber",
    show_default=True,
    help="Huber resists outliers and is the published choice.",
)
@click.option(
    "--delta",
    default=1e-3,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Where Huber turns linear, in ln loss.",
)
@click.option(
    "--samples", default=1000, show_default=True, type=click.IntRange(10), help="Bootstrap resamples of runs."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the resampling.")
@click.option(
    "--predict", "predict", multiple=True, metavar="COLUMN=VALUE", help="Predict at, for example N=7e9 D=1.4e12."
)
@click.option("--report", default=None, metavar="FILE.html", help="Write a self-contained report with figures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def fit(data, law, columns, objective, delta, samples, seed, predict, report, as_json) -> None:
    """Fit a scaling law to DATA.csv: one training run per row, with parameters, tokens and loss.

    \b
    workbench fit runs.csv
    workbench fit runs.csv --law auto --predict N=7e9 --predict D=1.4e12 --report fit.html
    """
    from workbench.scaling.study import plain, study

    result = study(
        data,
        law,
        columns=pairs(columns, "--column"),
        objective=objective,
        delta=delta,
        samples=samples,
        seed=seed,
        predict=pairs(predict, "--predict"),
    )
    if report:
        from workbench.scaling.fit_report import write

        write(result, report)
    if as_json:
        click.echo(json.dumps(plain(result), ensure_ascii=False, indent=1))
        return
    kind = "95 % interval" if result["interval"] == "percentile" else "leave-one-out range"
    click.echo(
        f"{result['law']}: {result['formula']}\n{result['n_runs']} runs, fitted in {result['fit_seconds'] * 1e3:.0f} ms, "
        f"objective {result['objective']:.6g}\n"
    )
    for name, entry in result["parameters"].items():
        click.echo(f"  {name:8} {entry['value']:>12.5g}   {kind} {entry['low']:.4g} to {entry['high']:.4g}")
    if result["holdout"]:
        click.echo(f"\nLargest runs held out (n = {result['holdout'][0]['n']}, by {result['holdout'][0]['axis']}):")
        for row in result["holdout"]:
            click.echo(f"  {row['method']:14} median error {row['median']:.2%}, worst {row['worst']:.2%}")
    if result["prediction"]:
        p = result["prediction"]
        click.echo(f"\nPredicted loss {p['loss']:.4f} (95 % of the fit: {p['low']:.4f} to {p['high']:.4f})")
    for note in result["notes"]:
        click.echo(f"note: {note}")
    for warning in result["warnings"]:
        click.echo(f"caution: {warning}")
    if report:
        click.echo(f"report: {report}")


@click.command()
@click.option(
    "--out",
    default="sweep.csv",
    show_default=True,
    metavar="FILE.csv",
    help="Table to add to; runs it holds are skipped.",
)
@click.option(
    "--jobs", default=None, type=click.IntRange(1), help="Runs side by side, one thread each (default: one a core)."
)
@click.option("--limit", default=None, type=click.IntRange(1), help="Only the cheapest so many of the missing runs.")
@click.option("--ray", is_flag=True, help="Hand the runs to a Ray cluster (needs workbench[sweep]) instead of local processes.")
def sweep(out: str, jobs: int | None, limit: int | None, ray: bool) -> None:
    """Train many tiny decoders (sizes x tokens x rates x batches) on public-domain text, one row per run.

    Stop it and start it again at will. Then: workbench fit sweep.csv --column N=n --column D=d
    """
    from pathlib import Path

    from workbench.progress import ProgressLine
    from workbench.scaling.sweep import default_jobs, done, missing
    from workbench.scaling.sweep import sweep as run

    path = Path(out)
    todo = missing(default_jobs(), done(path))[:limit]
    count = run(path, todo, processes=jobs, ray=ray, progress=ProgressLine())
    click.echo(f"{count} runs added to {path}; {len(default_jobs()) - len(done(path))} are missing still.")
