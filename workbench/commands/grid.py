"""`workbench compare`: models on the same held-out text, or with --methods a whole grid of trainings at one budget."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from workbench.commands import jobs
from workbench.errors import UserError
from workbench.grid.settings import DEFAULTS
from workbench.progress import ProgressLine, span

_PLAIN = ("data", "tokens", "items", "seed")


def _names(_: Any, __: Any, value: str | None) -> list[str]:
    return [name.strip() for name in (value or "").split(",") if name.strip()]


def grid_options(command):
    """Options that make a grid; the defaults are those of `workbench.grid.settings`."""
    number, d = click.IntRange(1), DEFAULTS
    options = [
        click.option("--methods", callback=_names, metavar="A,B,…", help="Methods to compare: makes a grid."),
        click.option("--tasks", callback=_names, metavar="A,B,…", help="Data to train and judge on."),
        click.option("--bases", callback=_names, metavar="A,B,…",
                     help="Under the methods: none (dense), nf4, rtn-4, gptq-4 … Example: none,nf4"),
        click.option("--budget", default=d["budget"], show_default=True,
                     help="What each method may spend: params=20000, params=0.3%, params=lora:r=2, bytes=100k, "
                     "tokens=50k, seconds=60, none."),
        click.option("--outside", is_flag=True, help="Keep methods that cannot reach the budget, drawn hollow."),
        click.option("--seeds", default=d["seeds"], show_default=True, type=number, help="Judged trainings per method."),
        click.option("--first-seed", default=d["first_seed"], show_default=True, type=click.IntRange(0), help="First of them."),
        click.option("--trials", default=d["trials"], show_default=True, type=number,
                     help="Tuning trainings per method, judged on the evaluation part; the same number for all."),
        click.option("--span", default=d["span"], show_default=True, type=click.FloatRange(1),
                     help="Largest over smallest learning rate that is tried, around each method's usual one."),
        click.option("--search", default=d["search"], show_default=True, type=click.Choice(("log", "random")),
                     help="Rates evenly spaced in the logarithm, or drawn; drawn trials can tune more (--try)."),
        click.option("--try", "space", multiple=True, metavar="METHOD.ARGUMENT=A,B",
                     help="Also tune this argument of a method (with --search random)."),
        click.option("--set", "method_args", multiple=True, metavar="METHOD.ARGUMENT=VALUE", help="Fix an argument."),
        click.option("--rate", "rates", multiple=True, metavar="METHOD=RATE",
                     help="Middle of the learning rates tried for a method, instead of its usual one."),
        click.option("--reference", default=d["reference"], show_default=True, help="Row that the others are tested against."),
        click.option("--steps", default=d["steps"], show_default=True, type=number, help="Updates of a training."),
        click.option("--batch-size", default=d["batch_size"], show_default=True, type=number, help="Rows of an update."),
        click.option("--limit", default=None, type=number, help="Use this many rows of the data."),
        click.option("--eval-rows", default=d["eval_rows"], show_default=True, type=click.IntRange(2), help="Rows of a trial"),
        click.option("--test-share", default=d["test_share"], show_default=True, type=click.FloatRange(0, 0.8),
                     help="Documents kept for the judging; more make intervals narrower."),
        click.option("--test-rows", default=d["test_rows"], show_default=True, type=click.IntRange(2),
                     help="Labelled rows that judge a method."),
        click.option("--test-tokens", default=d["test_tokens"], show_default=True, type=click.IntRange(64),
                     help="Tokens of text that judge a method."),
        click.option("--general", default="", help="Text for what was forgotten, such as sotu. Empty measures none."),
        click.option("--precision", default=d["precision"], show_default=True, type=click.Choice(("fp32", "bf16")),
                     help="Arithmetic of the forward pass."),
        click.option("--workers", default=1, show_default=True, type=number, help="Cells at once; more spoil the times."),
        click.option("--dry-run", is_flag=True, help="Solve the sizes, time a few steps of every method, forecast, stop."),
        click.option("--out", default=None, type=click.Path(dir_okay=False), help="Also write the whole record to this file."),
        click.option("--published", default=None, type=click.Path(file_okay=False),
                     help="Show peft's own result files (a folder of its method_comparison) in the same table."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--data", default="moby-dick", show_default=True, help="Text to compare models on; the test part of its split."
)
@click.option("--window", default=None, type=click.IntRange(2), help="Tokens per window.  [default: 256; in a grid 64]")
@click.option("--tokens", default=12_000, show_default=True, type=click.IntRange(64), help="Held-out tokens at most.")
@click.option("--items", default=48, show_default=True, type=click.IntRange(2), help="Passage-choice questions.")
@click.option("--seed", "--split-seed", "seed", default=0, show_default=True, help="Seed of split and questions.")
@grid_options
@jobs.output
@click.pass_context
def compare(context, models, name, detach, as_json, published, dry_run, out, **values) -> None:
    """Compare MODELS on the same held-out text, or with --methods compare ways of training them.

    \b
    Models as they are (names, folders, runs); the first one is the reference:
      workbench compare smollm2-135m runs/ID/tuned
    A grid: every method at one budget, tuned alike, several seeds, intervals and paired tests:
      workbench compare minilm-l6 --methods lora,ia3,prompt --tasks sotu-century --dry-run
      workbench compare smollm2-135m --methods lora,dora --tasks moby-dick --bases none,nf4
    The model as it is and full fine-tuning are always rows. Killed or stopped, the same command goes on
    with the next cell. What peft has published, in the same table:
      workbench compare --published method_comparison/MetaMathQA/results
    """
    if published:
        _published(published, as_json)
        return
    if not values["methods"]:
        _needs_no_grid(context)
        if not models:
            raise UserError("There is nothing to compare; name models, or methods with --methods lora,ia3.")
        plain = {key: values[key] for key in _PLAIN} | {"window": values["window"] or 256}
        context.invoke(jobs.compare, models=models, name=name, detach=detach, as_json=as_json, **plain)
        return
    config = settings(list(models), values)
    if dry_run:
        _forecast(config, as_json)
        return
    result = start(config, name=name, detach=detach, as_json=as_json)
    if result is None:
        return
    if out:
        copy_record(Path(result["path"]), Path(out))
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    _show(result)


def copy_record(path: Path, out: Path) -> None:
    """Write a grid's record elsewhere; its command then says so too.

    Args:
        path: of `grid.json`.
        out: of the copy; its name alone stands in the command.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    record["command"] += f" --out {shlex.quote(out.name)}"
    out.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def _needs_no_grid(context: click.Context) -> None:
    """Refuse options of a grid without methods."""
    from click.core import ParameterSource

    own = {*_PLAIN, "models", "window", "name", "detach", "as_json"}
    given = [
        n for n in context.params if n not in own and context.get_parameter_source(n) is ParameterSource.COMMANDLINE
    ]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{flags} belongs to a grid; say which methods to compare with --methods, such as lora,ia3.")


def settings(models: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """Settings of a grid from the command's options; only what is not the default.

    Raises:
        UserError: arguments that cannot be read.
    """
    config = {key: values[key] for key in values if key in DEFAULTS and values[key] not in (None, [], ())}
    tasks = values["tasks"] or list(DEFAULTS["tasks"])
    from workbench.commands.options import pairs

    config |= {
        "rates": pairs(values["rates"], "--rate"),
        "models": models or [_default_model(tasks)], "tasks": tasks, "split_seed": values["seed"],
        "space": by_method(values["space"], "--try", lists=True), "method_args": by_method(values["method_args"], "--set"),
    }  # fmt: skip
    return {
        key: value for key, value in config.items() if value != DEFAULTS[key] or key in ("models", "tasks", "methods")
    }


def _default_model(tasks: list[str]) -> str:
    from workbench import data

    return "minilm-l6" if all(data.load(task).kind == "classification" for task in tasks) else "smollm2-135m"


def by_method(texts: tuple[str, ...], flag: str, lists: bool = False) -> dict[str, dict[str, Any]]:
    """`("lora.r=8",)` → {"lora": {"r": 8}}.

    Raises:
        UserError: a text without a method.
    """
    from workbench.commands.options import pairs

    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs(texts, flag).items():
        method, dot, argument = key.partition(".")
        if not dot:
            raise UserError(f"{flag} takes METHOD.ARGUMENT=VALUE, not {key!r}.")
        value = list(value) if isinstance(value, tuple) else value
        found.setdefault(method, {})[argument] = [value] if lists and not isinstance(value, list) else value
    return found


def start(config: dict[str, Any], *, name: str | None, detach: bool, as_json: bool) -> dict[str, Any] | None:
    """Run the grid, or go on with the newest unfinished run of the same settings; None when it was put in the queue."""
    from workbench.runs import Store

    earlier = Store().find("grid", config)
    if earlier is not None and earlier.status in ("stopped", "interrupted", "failed"):
        if not as_json:
            click.echo(f"Going on with {earlier.id}.", err=True)
        if not detach:
            return Store().resume_here(earlier.id, ProgressLine())
        Store().resume(earlier.id)
        return None
    if earlier is not None and earlier.status == "done" and not detach:
        return earlier.result()
    return jobs.start("grid", config, detach=detach, as_json=as_json, name=name)


def _forecast(config: dict[str, Any], as_json: bool) -> None:
    from workbench.figures import print_table
    from workbench.grid import forecast

    found = forecast(config, progress=ProgressLine())
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1, default=str))
        return
    shown = ("name", "size", "within_budget", "arguments", "step_seconds", "training_bytes", "cells", "seconds")
    print_table([{key: row[key] for key in shown} for row in found["rows"]])
    for text in found["left_out"]:
        click.echo(f"Left out: {text}")
    click.echo(
        f"{found['cells']} trainings, about {span(found['seconds'])}, {found['peak_bytes'] / 1e9:.2f} GB at the peak."
    )


def _show(result: dict[str, Any]) -> None:
    from workbench.figures import print_table
    from workbench.grid.record import table

    print_table(table(result))
    for text in (*result["left_out"], *result["failed"]):
        click.echo(f"Left out: {text}")
    click.echo(f"Tied with the best: {', '.join(result['tied_best'])}\nReport: {result['report']}")


def _published(folder: str, as_json: bool) -> None:
    from workbench.figures import print_table
    from workbench.grid import load_peft_results

    found = load_peft_results(folder)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    shown = ("name", "accuracy", "accuracy_low", "accuracy_high", "accuracy_tied", "trainable", "peak_bytes", "train_seconds",
             "file_bytes", "forgetting")  # fmt: skip
    print_table([{key: row.get(key) for key in shown} for row in found["rows"]])
    for text in found["left_out"]:
        click.echo(f"Left out: {text}")
    click.echo(
        "One seed and no answers item by item: an unpaired test over questions, nothing is known of other seeds."
    )
