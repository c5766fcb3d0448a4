"""The jobs: demo, finetune, quantize, compare, chat. Each runs in its own run folder with a live progress line."""

from __future__ import annotations

import json
from typing import Any

import click

from workbench.commands.options import HelpByMethod, pairs, settings
from workbench.progress import ProgressLine, span

MODEL_HELP = "Bundled name (`workbench models`), a folder, or a hub id."


def start(job: str, config: dict[str, Any], *, detach: bool, as_json: bool, name: str | None = None) -> dict | None:
    """Run a job here with a live line, or hand it to the queue (`--detach`) and return None."""
    from workbench.runs import Store

    if detach:
        run = Store().submit(job, config, name=name)
        click.echo(
            json.dumps({"run": run.id})
            if as_json
            else f"{run.id} is {run.status}. Follow: workbench runs show {run.id}"
        )
        return None
    return Store().run_here(job, config, name=name, progress=ProgressLine())


def output(options):
    """The three options every job has."""
    options = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(options)
    options = click.option("--detach", is_flag=True, help="Put it in the queue and return at once.")(options)
    return click.option("--name", default=None, help="A name to find the run by.")(options)


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help=MODEL_HELP)
@click.option("--data", default="moby-dick", show_default=True, help="Bundled text or your own file.")
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Fine-tuning steps.")
@click.option("--seed", default=0, show_default=True, help="Seed of the split, the order and the calibration.")
@click.option("--fresh", is_flag=True, help="Start anew instead of continuing or showing the last one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(model: str, data: str, steps: int, seed: int, fresh: bool, as_json: bool) -> None:
    """Fine-tune a real language model, compress it seven ways, compare all nine, write report.html.

    Interrupt it at any time and start it again: finished parts are not redone.
    """
    from workbench.demo import start_or_continue

    result = start_or_continue(
        {"model": model, "data": data, "steps": steps, "seed": seed}, fresh=fresh, progress=ProgressLine()
    )
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    from workbench.demo import summary

    click.echo(summary(result))


@click.command(cls=HelpByMethod)
@settings("workbench.training.config:FinetuneConfig", skip=("method_args", "columns"))
@click.option(
    "--set",
    "method_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of the method, for example --set r=8. See: workbench finetune --method lora --help",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=COLUMN",
    help="Which column plays which role, for example --column text=body --column label=topic.",
)
@click.option("--dry-run", is_flag=True, help="Forecast time, memory and file size from two steps, then stop.")
@output
def finetune(method_args, columns, dry_run, name, detach, as_json, **values) -> None:
    """Fine-tune a model on your data with any method: full, last layers, LoRA and its relatives.

    \b
    workbench finetune --model smollm2-135m --data moby-dick
    workbench finetune --model tiny-lm --data my.jsonl --method lora --set r=4
    """
    import dataclasses

    from workbench.training.config import FinetuneConfig

    config = FinetuneConfig(
        **values, method_args=pairs(method_args, "--set"), columns=pairs(columns, "--column") or None
    )
    if dry_run:
        from workbench.training import forecast

        estimate = dataclasses.asdict(forecast(config))
        if as_json:
            click.echo(json.dumps(estimate, indent=1, default=str))
            return
        click.echo(
            f"About {span(estimate['seconds'])}, {estimate['peak_bytes'] / 1e9:.2f} GB of memory at the peak, "
            f"{estimate['file_bytes'] / 1e6:.3g} MB file, {estimate['trainable']:,} of {estimate['total']:,} "
            "parameters trained.".replace(",", "\u202f")
        )
        return
    result = start("finetune", dataclasses.asdict(config), detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    forecast_, measured = result["forecast"], result["measured"]
    for key, value in result["metrics"].items():
        click.echo(f"{key:20} {value:.4g}" if isinstance(value, float) else f"{key:20} {value}")
    click.echo(f"{'time':20} {span(measured['seconds'])} (forecast {span(forecast_['seconds'])})")
    click.echo(
        f"{'peak memory':20} {measured['peak_bytes'] / 1e9:.2f} GB (forecast {forecast_['peak_bytes'] / 1e9:.2f} GB)"
    )
    click.echo(f"{'saved to':20} {result['path']}")
    click.echo(f"Try it: workbench chat {result['path']}")


@click.command()
@click.argument("model")
@click.option(
    "--method",
    type=str,
    default="gptq",
    show_default=True,
    help="rtn, gptq, awq, efficientqat, nf4, fp4 or int8-mixed.",
)
@click.option("--bits", type=int, default=None, help="Bits per weight: 8, 4, 3 or 2. Default: 4, or the only width.")
@click.option(
    "--group-size",
    type=int,
    default=64,
    show_default=True,
    help="Weights that share a scale. Smaller is better and larger on disk. 0: one scale per output channel.",
)
@click.option("--symmetric/--asymmetric", default=False, show_default=True, help="Without or with a zero point.")
@click.option(
    "--data", default="sotu", show_default=True, help="Calibration text for gptq, awq, efficientqat and int8-mixed."
)
@click.option("--samples", default=32, show_default=True, type=click.IntRange(1), help="Calibration windows.")
@click.option("--window", default=256, show_default=True, type=click.IntRange(8), help="Tokens per calibration window.")
@click.option("--seed", default=0, show_default=True, help="Seed of the calibration sample.")
@click.option("--dry-run", is_flag=True, help="Forecast bytes and time, then stop.")
@output
def quantize(model, group_size, dry_run, name, detach, as_json, **values) -> None:
    """Compress MODEL; the folder it writes loads like any other model.

    \b
    workbench quantize smollm2-135m --bits 4
    workbench quantize runs/ID/tuned --method nf4
    """
    config = {"model": model, "group_size": group_size or None, **values}
    config = {key: value for key, value in config.items() if value is not None or key != "bits"}
    if dry_run:
        from workbench.compress.job import forecast

        click.echo(json.dumps(forecast(config), indent=1))
        return
    result = start("quantize", config, detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    worst = max(result["layers"], key=lambda layer: layer["error"])
    click.echo(
        f"{result['method']} at {result['bits']} bits: {result['bits_per_weight']:.2f} bits a weight, "
        f"{result['bytes'] / 1e6:.3g} MB, {span(result['seconds'])}"
    )
    click.echo(f"largest layer error {worst['error']:.3g} in {worst['name']}")
    click.echo(f"saved to {result['path']}\nCompare it: workbench compare {model} {result['path']}")


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", default="moby-dick", show_default=True, help="Text to compare on; the test part of its split.")
@click.option("--window", default=256, show_default=True, type=click.IntRange(8), help="Tokens per window.")
@click.option("--tokens", default=12_000, show_default=True, type=click.IntRange(64), help="Held-out tokens at most.")
@click.option("--items", default=48, show_default=True, type=click.IntRange(2), help="Passage-choice questions.")
@click.option("--seed", default=0, show_default=True, help="Seed of split and questions.")
@output
def compare(models, name, detach, as_json, **values) -> None:
    """Compare MODELS (names, folders, runs) on the same held-out text; the first one is the reference."""
    result = start("compare", {"models": list(models), **values}, detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    from workbench.figures import print_table

    print_table(result["rows"])
    click.echo(f"Tied with the best: {', '.join(result['tied_best'])}")


@click.command()
@click.argument("model")
@click.option("--prompt", default=None, help="Answer this one prompt and leave.")
@click.option("--new-tokens", default=120, show_default=True, type=click.IntRange(1), help="Length of an answer.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
def chat(model, prompt, new_tokens, temperature, seed) -> None:
    """Talk to MODEL: a bundled name, a folder, or a fine-tuned run's folder. Leave with Ctrl-D."""
    from workbench.chat import answer, open_model

    loaded = open_model(model)
    click.echo(f"{model} · weights {loaded.fingerprint}", err=True)
    if prompt is not None:
        click.echo(answer(loaded, [{"role": "user", "content": prompt}], new_tokens, temperature, seed))
        return
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = click.prompt("you", prompt_suffix=" > ", default="", show_default=False)
        except click.Abort:
            click.echo("")
            return
        if text.strip():
            messages.append({"role": "user", "content": text})
            reply = answer(loaded, messages, new_tokens, temperature, seed)
            messages.append({"role": "assistant", "content": reply})
            click.echo(reply)
