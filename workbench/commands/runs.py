"""`workbench runs`: the job store on the command line."""

from __future__ import annotations

import json

import click

from workbench.progress import span


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def runs(context: click.Context, as_json: bool) -> None:
    """List, show, stop, resume, reorder and delete runs (folders under ./runs, or WORKBENCH_RUNS)."""
    if context.invoked_subcommand is None:
        context.invoke(list_runs, as_json=as_json)


def _record(run) -> dict:
    return {
        "id": run.id,
        "job": run.job,
        "status": run.status,
        "name": run.name,
        "progress": run.progress,
        "directory": str(run.directory),
    }


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_runs(as_json: bool) -> None:
    """Every run, newest first."""
    from workbench.runs import Store

    store = Store()
    found = store.list()
    if store.trouble:
        click.echo(store.trouble, err=True)
    if as_json:
        click.echo(json.dumps([_record(run) for run in found], ensure_ascii=False, indent=1, default=str))
        return
    if not found:
        click.echo("No runs yet. Start one with: workbench demo")
        return
    for run in found:
        progress = run.progress or {}
        share = f"{progress['done'] / progress['total']:4.0%}" if progress.get("total") else "    "
        click.echo(f"{run.id:32}  {run.status:11}  {share}  {run.job:10}  {run.name or ''}")


@runs.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--log", is_flag=True, help="Print the log instead.")
def show(run_id: str, as_json: bool, log: bool) -> None:
    """One run: status, settings, result, last lines of its log."""
    from workbench.runs import Store

    run = Store().get(run_id)
    text = run.log_path.read_text(errors="replace") if run.log_path.exists() else ""
    if log:
        click.echo(text, nl=False)
        return
    if as_json:
        click.echo(
            json.dumps(
                {**_record(run), "config": run.config, "result": run.result()},
                ensure_ascii=False,
                indent=1,
                default=str,
            )
        )
        return
    click.echo(f"{run.id} · {run.job} · {run.status} · {span(run.seconds)}\nfolder  {run.directory}")
    if run.error:
        click.echo(f"error   {run.error}")
    for key, value in run.config.items():
        click.echo(f"  {key} = {value}")
    metrics = run.metrics()
    if metrics:
        click.echo(f"metrics  {len(metrics)} lines, last {json.dumps(metrics[-1], default=str)}")
    if text:
        click.echo("log\n" + "\n".join("  " + line for line in text.splitlines()[-8:]))


@runs.command()
@click.argument("run_id")
def stop(run_id: str) -> None:
    """Stop a run after its current step; what it has done is kept."""
    from workbench.runs import Store

    Store().stop(run_id)
    click.echo(f"{run_id} stops after its current step and keeps it. Continue with: workbench runs resume {run_id}")


@runs.command()
@click.argument("run_id")
@click.option("--watch/--no-watch", default=False, help="Follow its progress until it ends.")
def resume(run_id: str, watch: bool) -> None:
    """Continue a stopped, interrupted or failed run on the same curve."""
    from workbench.runs import Store

    run = Store().resume(run_id)
    click.echo(f"{run_id} is {run.status}.")
    if watch:
        follow(run)


@runs.command()
@click.argument("run_id")
def rerun(run_id: str) -> None:
    """Start a new run with the settings of another."""
    from workbench.runs import Store

    run = Store().rerun(run_id)
    click.echo(f"{run.id} is {run.status}. Follow: workbench runs show {run.id}")


@runs.command()
@click.argument("run_id")
@click.argument("position", type=click.IntRange(0))
def reorder(run_id: str, position: int) -> None:
    """Move a queued run to POSITION (0 is next)."""
    from workbench.runs import Store

    Store().reorder(run_id, position)
    click.echo(f"{run_id} now waits at position {position}.")


@runs.command()
@click.argument("run_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(run_id: str, yes: bool) -> None:
    """Delete a run's folder for good (refused while it runs)."""
    from workbench.runs import Store

    run = Store().get(run_id)
    if not yes:
        click.confirm(f"Delete {run.directory} for good?", abort=True)
    Store().delete(run_id)
    click.echo(f"Deleted {run_id}.")


def follow(run) -> None:
    """Draw a run's progress until it ends; leaving with Ctrl-C does not touch the run."""
    import time

    from workbench.progress import ProgressLine
    from workbench.runs import Store

    line, begun = ProgressLine(), time.monotonic()
    while True:
        run = Store().get(run.id)
        if run.status not in ("queued", "running", "stopping"):
            click.echo(f"{run.id}: {run.status} after {span(time.monotonic() - begun)}")
            return
        progress = run.progress or {}
        line(progress.get("done", 0), progress.get("total") or 1, progress.get("text", run.status))
        time.sleep(0.5)
