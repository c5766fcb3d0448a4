"""`workbench papers` and `workbench reproduce`."""

from __future__ import annotations

import json

import click

from workbench.errors import UserError

MARK = {"holds": "✓ holds", "partly": "~ partly", "fails": "✗ fails", "not run": "· not run"}


@click.command()
@click.argument("words", nargs=-1, metavar="[QUERY] | new SLUG")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def papers(words: tuple[str, ...], as_json: bool) -> None:
    """List the papers, or those that match QUERY (slug, title, arXiv id, technique, family).

    \b
    workbench papers             all of them, with their badges
    workbench papers nola        one paper: claim, badge, lesson, code
    workbench papers new SLUG    write the files of one more paper
    """
    from workbench.papers import search

    if words and words[0] == "new":
        if len(words) != 2:
            raise UserError("`workbench papers new` takes one slug, for example: workbench papers new my-paper")
        from workbench.papers.new import new

        for path in new(words[1]):
            click.echo(f"wrote {path}")
        return
    query = " ".join(words)
    found = search(query)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    if not found:
        raise UserError(f"No paper matches {query!r}; `workbench papers` lists all of them.")
    if query and len(found) == 1:
        page = found[0]
        click.echo(f"{page['title']}\n{MARK[page['status']]} · {page['family']} · lesson {page['lesson']}\n")
        click.echo(f"Claim   {page['claim']}")
        click.echo(f"Code    {', '.join(page['blocks'])}")
        click.echo(f"Run it  workbench reproduce {page['slug']}")
        return
    width = max(len(page["slug"]) for page in found)
    for page in found:
        click.echo(f"{page['slug']:{width}}  {MARK[page['status']]:9}  {page['family']:10}  {page['title']}")


@click.command()
@click.argument("slug")
@click.option(
    "--scale",
    type=click.Choice(["smoke", "small", "full"]),
    default="small",
    show_default=True,
    help="smoke: seconds, no verdict. small: the verdict. full: the paper's own setting, on a GPU.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="A badge needs at least 3.")
@click.option("--device", default=None, help="cpu, cuda … (default: the GPU when there is one).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def reproduce(slug: str, scale: str, seeds: int, device: str | None, as_json: bool) -> int:
    """Run the experiment behind a paper's claim; exit 0 when it holds, 1 when it does not."""
    from workbench.papers import reproduce as run
    from workbench.progress import ProgressLine

    result = run(slug, scale=scale, seeds=seeds, device=device, progress=ProgressLine())
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
    else:
        click.echo(f"{slug}: {MARK.get(result['badge'], result['badge'])}")
        for seed in result["seeds"]:
            click.echo(
                f"  seed {seed['seed']}  margin {seed['margin']:+.4g}  {'holds' if seed['holds'] else 'does not hold'}"
            )
        click.echo(f"  {result['seconds']:.0f} s on {result['machine']}")
        if scale == "smoke":
            click.echo("  Scale smoke checks the plumbing; it gives no verdict.")
    return 0 if result["holds"] or scale == "smoke" else 1
