"""`workbench fit`: a scaling law from a CSV of training runs; `workbench sweep`: our own runs to fit."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from workbench.commands.options import pairs
from workbench.errors import UserError


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
    help="Where the guess is wrong: --column N=params, --column loss=final_ppl. Roles: the law's columns, loss, run, "
    "group (what is resampled: cell, seed, family), error (downstream, 0 to 1). 1-COLUMN turns a score into an error.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Fit these rows only: --where dataset=c4. Constants differ from one data set to the next.",
)
@click.option(
    "--curves",
    type=click.Choice(["last", "all"]),
    default="last",
    show_default=True,
    help="Several rows per run: fit the last of each, or all of them with whole runs resampled.",
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
    "--interval",
    type=click.Choice(["bca", "percentile"]),
    default="bca",
    show_default=True,
    help="How resampled fits become an interval: bca corrects for skew and covers as it says, percentile is the published way.",
)
@click.option(
    "--samples", default=1000, show_default=True, type=click.IntRange(10), help="Bootstrap resamples of runs."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the resampling.")
@click.option(
    "--predict", "predict", multiple=True, metavar="COLUMN=VALUE", help="Predict at, for example N=7e9 D=1.4e12."
)
@click.option(
    "--plan",
    "flops",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FLOP",
    help="Plan a training run with this much compute, for example 1e22: size, tokens, rate, batch, schedule, loss.",
)
@click.option(
    "--gpu-hours",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="The same budget as hours of one GPU: HOURS × peak × MFU.",
)
@click.option(
    "--peak-tflops",
    default=312.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Peak of that GPU in TFLOP/s: 312 is an A100 in bfloat16, 989 an H100.",
)
@click.option(
    "--mfu",
    default=0.4,
    show_default=True,
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Share of the peak that training reaches; 0.3 to 0.5 is usual.",
)
@click.option(
    "--serve",
    "served",
    default=0.0,
    type=click.FloatRange(min=0),
    metavar="TOKENS",
    help="Tokens the model will read or write in its life: the plan becomes smaller and trains longer.",
)
@click.option(
    "--schedule",
    type=click.Choice(["wsd", "power"]),
    default="wsd",
    show_default=True,
    help="Learning-rate schedule of the plan.",
)
@click.option("--report", default=None, metavar="FILE.html", help="Write a self-contained report with figures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def fit(
    data, law, columns, where, curves, objective, delta, interval, samples, seed, predict, flops, gpu_hours, peak_tflops, mfu,
    served, schedule, report, as_json,
) -> None:  # fmt: skip
    """Fit a scaling law to DATA.csv: one training run per row, with parameters, tokens and loss.

    DATA.csv may be a shipped table instead: chinchilla or gadre.

    \b
    workbench fit runs.csv
    workbench fit runs.csv --law auto --predict N=7e9 --predict D=1.4e12 --report fit.html
    workbench fit chinchilla --plan 1e22                          what to train with 1e22 FLOP
    workbench fit chinchilla --gpu-hours 5000 --mfu 0.4 --serve 1e12
    workbench fit gadre --where dataset=c4 --column loss=loss_c4 --column error=error_17 --law overtraining
    """
    from workbench.scaling.study import plain, study

    if report:
        from workbench.scaling.fit_report import folder_of

        folder_of(report)  # refused before anything is fitted
    result = study(
        data,
        law,
        columns=pairs(columns, "--column"),
        where=pairs(where, "--where"),
        curves=curves,
        objective=objective,
        delta=delta,
        interval=interval,
        samples=samples,
        seed=seed,
        predict=pairs(predict, "--predict"),
        plan=_asked(flops, gpu_hours, peak_tflops, mfu, served, schedule),
    )
    if report:
        from workbench.scaling.fit_report import write

        write(result, report, source=data, command=_command(data, report))
    if as_json:
        click.echo(json.dumps(plain(result), ensure_ascii=False, indent=1))
        return
    from workbench.scaling.fit_text import lines

    for line in lines(result):
        click.echo(line)
    if report:
        click.echo(f"report: {report}")


def _command(data: str, report: str) -> str:
    """The command as it was typed, with names for the two paths."""
    named = {data: Path(data).name, report: Path(report).name}
    return shlex.join(["workbench", *(named.get(word, word) for word in sys.argv[1:])])


def _asked(
    flops: float | None, hours: float | None, peak: float, mfu: float, served: float, schedule: str
) -> dict[str, Any] | None:
    """The planner's arguments, or None when no budget was given."""
    if flops is not None and hours is not None:
        raise UserError("--plan and --gpu-hours both set the budget; give one of them.")
    if hours is not None:
        from workbench.scaling.planner import gpu_flops

        flops = gpu_flops(hours, peak_tflops=peak, mfu=mfu)
    if flops is None:
        if served:
            raise UserError(
                "--serve changes a plan; give the training budget too, with --plan FLOP or --gpu-hours HOURS."
            )
        return None
    return {"flops": flops, "served_tokens": served, "schedule": schedule}


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
def sweep(out: str, jobs: int | None, limit: int | None) -> None:
    """Train many tiny decoders (sizes x tokens x rates x batches) on public-domain text, one row per run.

    Stop it and start it again at will. Then: workbench fit sweep.csv --column N=n --column D=d
    """
    from workbench.progress import ProgressLine
    from workbench.scaling.sweep import default_jobs, done, missing
    from workbench.scaling.sweep import sweep as run

    path = Path(out)
    todo = missing(default_jobs(), done(path))[:limit]
    count = run(path, todo, processes=jobs, progress=ProgressLine())
    click.echo(f"{count} runs added to {path}; {len(default_jobs()) - len(done(path))} are missing still.")
